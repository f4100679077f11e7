#!/bin/sh
# Puts vonic where it belongs on a host, or takes it away:
#
#     install.sh install PROGRAMS REFERENCE     the folder of vonicd and vonic, and what `make man` has made
#     install.sh uninstall                      what its list names; /etc/vonic stays
#
# DESTDIR is a root to put before every path, PREFIX is /usr/local, ZSH the folder of zsh's completions.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
project=$(dirname "$here")
dest=${DESTDIR:-} prefix=${PREFIX:-/usr/local}
zsh=${ZSH:-$prefix/share/zsh/site-functions}
list=$prefix/share/doc/vonic/installed

# MODE SOURCE PATH
put() {
    install -D -m "$1" "$2" "$dest$3"
    echo "$3" >>"$dest$list"
}

# A text that names the programs' paths, or the folder in which this one lies.
put_text() {
    sed "s|/usr/local/|$prefix/|g" "$1" >"$dest$list.text"
    put 644 "$dest$list.text" "$2"
    rm "$dest$list.text"
}

install_all() {
    programs=$1 reference=$2
    mkdir -p "$dest$(dirname "$list")"
    : >"$dest$list"
    put 755 "$programs/vonicd" "$prefix/bin/vonicd"
    put 755 "$programs/vonic" "$prefix/bin/vonic"
    for unit in vonic.service vonic.socket vonic-vm@.socket; do
        put_text "$project/qemu-configs/$unit" "$prefix/lib/systemd/system/$unit"
    done
    put 644 "$here/systemd/sysusers.conf" "$prefix/lib/sysusers.d/vonic.conf"
    for page in "$reference"/man/*; do
        put 644 "$page" "$prefix/share/man/man${page##*.}/${page##*/}"
    done
    for program in vonic vonicd; do
        put 644 "$reference/completions/bash/$program" "$prefix/share/bash-completion/completions/$program"
        put 644 "$reference/completions/zsh/_$program" "$zsh/_$program"
        put 644 "$reference/completions/fish/$program.fish" "$prefix/share/fish/vendor_completions.d/$program.fish"
    done
    for example in vonic.toml vms.d/web1.toml vms.d/web2.toml vms.d/web3.toml; do
        put 644 "$project/qemu-configs/example/$example" "$prefix/share/doc/vonic/examples/$example"
    done
    for file in "$here"/systemd/vonic.service.d/* "$project"/backend/docs/prometheus/*; do
        put 644 "$file" "$prefix/share/doc/vonic/examples/$(basename "$(dirname "$file")")/${file##*/}"
    done
    put 644 "$reference/vonic.cdx.json" "$prefix/share/doc/vonic/vonic.cdx.json"
    # What an operator has written stays.
    if [ ! -e "$dest/etc/vonic/vonic.toml" ]; then install -D -m 644 "$here/vonic.toml" "$dest/etc/vonic/vonic.toml"; fi
}

uninstall_all() {
    [ -e "$dest$list" ] || { echo "nothing is installed below ${dest}$prefix, since there is no $dest$list" >&2; exit 1; }
    while read -r path; do
        rm -f "$dest$path"
    done <"$dest$list"
    rm "$dest$list"
    # Folders that are vonic's own; a system's stay, as they do when a package goes.
    for folder in examples/vms.d examples/vonic.service.d examples/prometheus examples; do
        rmdir "$dest$prefix/share/doc/vonic/$folder" 2>/dev/null || true
    done
    rmdir "$dest$prefix/share/doc/vonic" 2>/dev/null || true
}

case ${1:-}:$# in
install:3)
    install_all "$2" "$3"
    [ -n "$dest" ] || echo "now: systemd-sysusers && install -d -o vonic -g vonic /etc/vonic/vms.d && systemctl daemon-reload && systemctl enable --now vonic"
    ;;
uninstall:1) uninstall_all ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
