#!/bin/sh
# The row of 100,000 connections where the limit of open files cannot be raised: in a guest of user-mode Linux of their own, in which root can.
# usage: connections.sh FOLDER (of vonic, vonicd and vonic-bench), as root. Writes bench/results/connections.md.
set -eu
lab=${VONIC_TESTBED:-/var/cache/vonic-testbed}/lab
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$1/vonic" "$1/vonicd" "$1/vonic-bench" "$work"
cat > "$work/init.sh" <<'INIT'
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o size=80% mnt /mnt
cp /tmp/vonic* /mnt
mount -t tmpfs tmp /tmp
ip link set lo up
ulimit -n 1000000
# Whoever starts vonicd looks for a test bed; mock frontends need nothing of it.
mkdir -p /mnt/lab/usr/bin /mnt/boot
touch /mnt/lab/usr/bin/linux.uml /mnt/boot/vmlinuz /mnt/boot/initramfs.cpio /mnt/kvm
cd /mnt
VONIC_TESTBED=/mnt VONIC_BIN_DIR=/mnt VONIC_BENCH_OUT=/mnt VONIC_BENCH_ROW=connections-memory ./vonic-bench 2>&1
/sbin/poweroff -f
INIT
chmod +x "$work/init.sh"
LAB=$lab WORK=$work timeout --signal KILL 900 unshare --mount sh -c '
	mount --make-rprivate / && mount -t proc proc "$LAB/proc" && mount --rbind /dev "$LAB/dev" && mount --bind "$WORK" "$LAB/tmp" &&
	exec chroot "$LAB" /usr/bin/linux.uml mem=8G root=none rootfstype=hostfs ro init=/tmp/init.sh con=null con0=null,fd:1 quiet uml_dir=/tmp/ umid=connections
' < /dev/null | tr -d '\r' | tee "$work/log"
grep -q '^   connections-memory  *[0-9]' "$work/log"
{
	echo '# A hundred thousand connections in a guest'
	echo
	echo "\`make bench-connections\`, $(date +%F), release build of $(git rev-parse --short=10 HEAD): the row connections-memory of \`make bench\`, inside of one guest of user-mode Linux"
	echo '(one processor, 8 GiB), where root may raise the limit of open files; vonicd, mock frontends and the far ends of all connections run in it. Round trips are p50 / p90 / p99: of five talks'
	echo 'the one whose median is the least. System calls take several microseconds there, and who is woken waits for the others, which gives round trips two rates, with no connections as with all: they'
	echo 'are here to show that there is no step in them. How long they are is measured by the row connections-latency, outside.'
	echo
	echo '```'
	sed -n '/ connections: [0-9]* KiB/p; /^   connections-/p' "$work/log" | sed 's/^ *//; s/ *$//'
	echo '```'
} > bench/results/connections.md
