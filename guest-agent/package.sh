#!/bin/sh
# Makes the agent's Debian package:  package.sh PROGRAM FOLDER
#
# PROGRAM is the static vonic-agent; the package, whose path is printed, goes to FOLDER. It depends on nothing.
set -eu
program=$1 folder=$2
here=$(cd "$(dirname "$0")" && pwd)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
architecture=${ARCHITECTURE:-amd64}
mkdir -p "$folder"
root=$(mktemp -d "$folder/package.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

install -D -m 755 "$program" "$root/usr/bin/vonic-agent"
install -D -m 644 "$here/vonic-agent.service" "$root/usr/lib/systemd/system/vonic-agent.service"
install -D -m 644 "$here/../backend/docs/agent.md" "$root/usr/share/doc/vonic-agent/agent.md"
install -D -m 644 "$here/../LICENSE" "$root/usr/share/doc/vonic-agent/copyright"
install -m 644 "$here/../LICENSE-APACHE" "$here/../LICENSE-BSD-3-Clause" "$root/usr/share/doc/vonic-agent/"
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: vonic-agent
Version: $version
Architecture: $architecture
Section: net
Priority: optional
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Maintainer: The vonic authors <vonic@localhost>
Description: tells this VM's host how its network looks from inside
 In a VM whose network card is vonic's: once a second vonic-agent tells vonic what this guest
 counts on its interfaces, and how its TCP, processors and memory do. It needs no configuration.
END
# An update leaves it off where somebody has switched it off.
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
[ "$1" = configure ] && command -v systemctl >/dev/null || exit 0
[ -n "$2" ] || systemctl --quiet enable vonic-agent.service
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if systemctl --quiet is-enabled vonic-agent.service; then systemctl restart vonic-agent.service; fi
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
[ "$1" = remove ] && command -v systemctl >/dev/null || exit 0
[ ! -d /run/systemd/system ] || systemctl stop vonic-agent.service
systemctl --quiet disable vonic-agent.service
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
package=$folder/vonic-agent_${version}_$architecture.deb
# Readable by what Debian has had since 2011, whatever the machine that builds it prefers.
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
