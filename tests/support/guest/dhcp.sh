#!/bin/sh
# What udhcpc calls with a lease: apply it, and keep it in /run/lease for the tests.
case $1 in
deconfig) ip addr flush dev "$interface" ;;
bound | renew)
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -z "$router" ] || ip route add default via "${router%% *}"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    for server in $dns; do echo "nameserver $server"; done >/run/resolv.conf
    printf 'ip=%s\nmask=%s\nrouter=%s\ndns=%s\nmtu=%s\nlease=%s\nserver=%s\n' \
        "$ip" "$mask" "$router" "$dns" "$mtu" "$lease" "$serverid" >/run/lease
    ;;
esac
