#!/bin/sh
# The first and only program of a test guest, under user-mode Linux (the lab root by hostfs, read-only) as well as QEMU (initramfs).
# Parameters come from the kernel's command line; commands come from the console, one per line.
export PATH=/tmp:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
[ -x /usr/bin/env ] || /bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
stty raw -echo
echo 1 >/proc/sys/kernel/printk

parameter() { sed -n "s/.*\bvonic\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }

modules=/modules
[ -d $modules ] || modules=$(echo /usr/lib/uml/modules/*/kernel)
for name in failover net_failover virtio_net; do
    insmod "$(find $modules -name $name.ko)" || echo "@@FAILED insmod $name"
done

# The driver probes asynchronously.
tries=0
while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 300 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
[ -e /sys/class/net/eth0 ] || echo "@@FAILED no eth0"
# Neither the tests' counters nor their silence should see duplicate address detection and router solicitations.
[ -n "$(parameter ip6)" ] || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set lo up
mtu=$(parameter mtu)
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu" || echo "@@FAILED mtu $mtu"

address=$(parameter ip4)
gateway=$(parameter gw4)
case $address in
'') ;;
dhcp)
    ip link set eth0 up
    busybox udhcpc -i eth0 -s /tmp/dhcp.sh -n -q -t 10 -T 1 >/run/dhcp.log 2>&1 || echo "@@FAILED dhcp: $(tail -n 1 /run/dhcp.log)"
    ;;
*)
    ip link set eth0 up
    ip addr add "$address" dev eth0 || echo "@@FAILED address $address"
    [ -z "$gateway" ] || ip route add default via "$gateway" || echo "@@FAILED gateway $gateway"
    ;;
esac
# Loss and reordering of the tests must not change what the next connection starts with.
echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save

# "ID LIMIT COMMAND": run for at most LIMIT seconds; "ID background COMMAND": start, print the process id.
# Not in process 1, which gets every orphan's SIGCHLD, and with background commands as orphans: busybox's read begins a line anew, and
# forgets what it had of it, when that signal comes.
commands() {
    echo "@@READY"
    while IFS=' ' read -r id limit command; do
        echo "@@BEGIN $id"
        if [ "$limit" = background ]; then
            export command id
            (
                setsid sh -c 'sh -c "$command"; echo $? >/run/$id.status' </dev/null >/run/"$id".out 2>&1 &
                echo $!
            )
            status=0
        else
            # Into a file first: to a terminal, some programs write colours.
            timeout -s KILL "$limit" sh -c "$command" </dev/null >/run/"$id".out 2>&1
            status=$?
            cat /run/"$id".out
            rm /run/"$id".out
        fi
        printf '\n@@END %s %s\n' "$id" "$status"
    done
}
exec 3<&0
commands <&3 &
# A test's own first program; the shell stays.
[ ! -e /tmp/first.sh ] || exec sh /tmp/first.sh
wait $!
busybox poweroff -f
