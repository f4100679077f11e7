#!/bin/sh
# Makes a Debian package:
#
#     package.sh agent PROGRAM FOLDER               vonic-agent for guests: the static program and its unit; depends on nothing
#     package.sh host PROGRAMS REFERENCE FOLDER     vonic for hosts: the folder of vonicd and vonic, and what `make man` has made
#
# The package, whose path is printed, goes to FOLDER. Of the same programs comes the same package, byte by byte: its times are
# SOURCE_DATE_EPOCH, by default the last commit's. COMPRESSION is xz, whatever the machine that builds it prefers: Debian reads that since 2011.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")
architecture=${ARCHITECTURE:-$(dpkg --print-architecture)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$project" log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH LC_ALL=C
umask 022

# The licence, and what has changed.
documents() {
    install -D -m 644 "$project/LICENSE" "$root/usr/share/doc/$1/copyright"
    install -m 644 "$project/LICENSE-APACHE" "$project/LICENSE-BSD-3-Clause" "$root/usr/share/doc/$1/"
    gzip -9n <"$project/CHANGELOG.md" >"$root/usr/share/doc/$1/changelog.gz"
}

agent() {
    install -D -m 755 "$1" "$root/usr/bin/vonic-agent"
    install -D -m 644 "$project/guest-agent/vonic-agent.service" "$root/usr/lib/systemd/system/vonic-agent.service"
    install -D -m 644 "$project/backend/docs/agent.md" "$root/usr/share/doc/vonic-agent/agent.md"
    documents vonic-agent
    finish vonic-agent <<END
Description: tells this VM's host how its network looks from inside
 In a VM whose network card is vonic's: once a second vonic-agent tells vonic what this guest
 counts on its interfaces, and how its TCP, processors and memory do. It needs no configuration.
END
}

host() {
    # As `make install` does it; where Debian has something of its own, there.
    DESTDIR=$root PREFIX=/usr ZSH=/usr/share/zsh/vendor-completions sh "$here/install.sh" install "$1" "$2" >/dev/null
    rm "$root/usr/share/doc/vonic/installed"
    strip --remove-section=.comment --remove-section=.note "$root/usr/bin/vonicd" "$root/usr/bin/vonic"
    gzip -9n "$root"/usr/share/man/man*/*
    documents vonic
    mkdir "$root/DEBIAN"
    echo /etc/vonic/vonic.toml >"$root/DEBIAN/conffiles"
    libc=$(objdump -T "$root/usr/bin/vonicd" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1)
    finish vonic <<END
Depends: libc6 (>= ${libc#GLIBC_}), libgcc-s1, passwd, systemd | systemd-standalone-sysusers | systemd-sysusers
Description: the network card of this host's VMs
 One service is the virtio network card of many VMs, by vhost-user. It filters each guest, switches between
 guests, and terminates their TCP, UDP and pings on sockets of the host, without a bridge, a tap, NAT or root.
END
}

# Reads what the package's own description says.
finish() {
    mkdir -p "$root/DEBIAN"
    for script in postinst prerm postrm; do
        [ ! -e "$here/debian/$1.$script" ] || install -m 755 "$here/debian/$1.$script" "$root/DEBIAN/$script"
    done
    (cd "$root" && find usr -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
    # In KiB, each file's rounded up (deb-substvars(5)), whatever this file system's blocks are.
    size=$(find "$root/usr" "$root/etc" -type f -printf '%s\n' 2>/dev/null | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: %s\nSection: net\nPriority: optional\n' "$1" "$version" "$architecture"
        printf 'Installed-Size: %s\nMaintainer: The vonic authors <vonic@localhost>\n' "$size"
        cat
    } >"$root/DEBIAN/control"
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    package=$folder/${1}_${version}_$architecture.deb
    dpkg-deb --root-owner-group --threads-max=1 -Z"${COMPRESSION:-xz}" --build "$root" "$package" >/dev/null
    echo "$package"
}

case ${1:-}:$# in
agent:3 | host:4) what=$1 ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift
for folder; do :; done
mkdir -p "$folder"
root=$(mktemp -d "$folder/package.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
"$what" "$@"
