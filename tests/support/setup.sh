#!/bin/sh
# Makes the test bed on a Debian machine: the host's tools, a lab root with real guests and peers, and what QEMU boots.
# Idempotent; a second run takes less than a second. Everything lies in $VONIC_TESTBED (default /var/cache/vonic-testbed):
#
#   lab/             a Debian root with user-mode Linux, QEMU, passt, … (guests and peers run in it, read-only)
#   lab.stamp        hash of the package list that lab/ was made from: another list makes it anew, unless all of that is there
#   boot/            vmlinuz and initramfs.cpio for QEMU guests, release (the kernel's version), ipxe.lkrn (iPXE as a kernel)
#   kvm              "yes" or "no": whether KVM really runs that kernel here, and on which host kernel this was tried
set -eu

suite=forky
packages=user-mode-linux,qemu-system-x86,passt,dpdk,dpdk-dev,linux-image-cloud-amd64,iperf3,netperf,wrk,ethtool,iproute2,\
iputils-ping,busybox-static,kmod,python3-minimal,curl,wget,socat,tcpdump,nftables,bind9-dnsutils,nginx-light,openssh-client,\
dropbear-bin,nghttp2-client,openvswitch-switch-dpdk,libvirt-daemon-driver-qemu,libvirt-clients
# command:package, on the host itself
tools="mmdebstrap:mmdebstrap ip:iproute2 nft:nftables strace:strace tcpdump:tcpdump curl:curl xz:xz-utils flock:util-linux cc:gcc"

say() { printf 'testbed: %s\n' "$*"; }
fail() { printf 'testbed: %s\n' "$*" >&2; exit 1; }

cache=${VONIC_TESTBED:-/var/cache/vonic-testbed}
lab=$cache/lab
boot=$cache/boot
PATH=$PATH:/usr/sbin:/sbin

if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || fail "needs root, or sudo"
    exec sudo VONIC_TESTBED="$cache" sh "$0" "$@"
fi

install_tools() {
    missing=
    for pair in $tools; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || fail "install these first (no apt-get here):$missing"
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 && return 0
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

lab_is_complete() {
    [ -x "$lab/usr/bin/linux.uml" ] || return 1
    for package in $(echo "$packages" | tr , ' '); do
        [ "$(dpkg-query --admindir="$lab/var/lib/dpkg" -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            return 1
    done
}

make_lab() {
    stamp=$(printf '%s %s\n' "$suite" "$packages" | sha256sum | cut -d' ' -f1)
    if [ -e "$cache/lab.stamp" ] && [ "$(cat "$cache/lab.stamp")" = "$stamp" ] && [ -x "$lab/usr/bin/linux.uml" ]; then
        return 0
    fi
    # One that holds every package is as good, whatever list it was made from.
    if lab_is_complete; then
        echo "$stamp" >"$cache/lab.stamp"
        return 0
    fi
    say "making the lab root (Debian $suite, about 900 MB, a few minutes)"
    rm -rf "$cache"/lab.new "$cache"/lab.old
    # A release file past its date must not stop the tests; its signature is still checked.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' --include="$packages" "$suite" "$cache/lab.new"
    if [ -e "$lab" ]; then mv "$lab" "$cache/lab.old"; fi
    mv "$cache/lab.new" "$lab"
    echo "$stamp" >"$cache/lab.stamp"
    rm -rf "$cache/lab.old" "$boot" "$cache/kvm"
}

# What QEMU boots: busybox, the network driver's three modules; /init and the tests' own tool are added per guest.
make_boot() {
    release=$(basename "$(ls -d "$lab"/usr/lib/modules/*-cloud-amd64)")
    if [ -e "$boot/release" ] && [ "$(cat "$boot/release")" = "$release" ]; then return 0; fi
    say "making the initramfs for kernel $release"
    rm -rf "$boot.new"
    root=$boot.new/root
    for directory in bin dev proc sys run tmp etc modules; do mkdir -p "$root/$directory"; done
    cp "$lab/bin/busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    for module in net/core/failover drivers/net/net_failover drivers/net/virtio_net; do
        xz -dc "$lab/usr/lib/modules/$release/kernel/$module.ko.xz" >"$root/modules/${module##*/}.ko"
    done
    (cd "$root" && find . | "$lab/bin/busybox" cpio -o -H newc) >"$boot.new/initramfs.cpio" 2>/dev/null
    cp "$lab/boot/vmlinuz-$release" "$boot.new/vmlinuz"
    rm -rf "$root"
    echo "$release" >"$boot.new/release"
    rm -rf "$boot"
    mv "$boot.new" "$boot"
}

# iPXE as QEMU can boot it in place of a kernel, with a script; out of Debian's package, of which nothing else is needed.
make_ipxe() {
    if [ -e "$boot/ipxe.lkrn" ]; then return 0; fi
    say "fetching iPXE"
    work=$cache/ipxe.new
    rm -rf "$work"
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    (
        cd "$work"
        apt() {
            apt-get -qq -o Dir::Etc="$lab/etc/apt" -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
                -o Dir::State::status="$lab/var/lib/dpkg/status" -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root "$@"
        }
        apt update
        apt download ipxe
        dpkg-deb --fsys-tarfile ipxe_*.deb | tar -xO ./usr/lib/ipxe/ipxe.lkrn >ipxe.lkrn
    )
    mv "$work/ipxe.lkrn" "$boot/ipxe.lkrn"
    rm -rf "$work"
}

# /dev/kvm may exist and still not run an ordinary kernel (nested hosts): boot the test kernel once, with a deadline.
probe_kvm() {
    here=$(uname -r)
    if [ -e "$cache/kvm" ] && [ "$(cut -d' ' -f2- "$cache/kvm")" = "$here" ]; then return 0; fi
    answer=no
    if [ -w /dev/kvm ]; then
        say "trying KVM"
        # Without an init the kernel panics, which with panic=-1 and -no-reboot ends QEMU: it ran.
        if timeout -k 1 20 unshare -m sh -c "mount --bind /dev '$lab/dev' && mount --bind '$boot' '$lab/mnt' &&
            exec chroot '$lab' qemu-system-x86_64 -accel kvm -cpu host -m 256 -machine q35 -nodefaults -nographic -serial stdio \
            -no-reboot -kernel /mnt/vmlinuz -append 'console=ttyS0 panic=-1'" </dev/null 2>/dev/null | grep -q 'Kernel panic'; then
            answer=yes
        fi
    fi
    say "KVM usable: $answer"
    echo "$answer $here" >"$cache/kvm"
}

install_tools
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
make_lab
make_boot
make_ipxe
probe_kvm
say "ready in $cache"
