#!/bin/sh
# Are the programs the same, byte by byte, wherever they are built? Builds the last commit twice, in two folders of different names with
# different names of cargo's own folder, and compares:
#
#     reproducible.sh FOLDER
#
# FOLDER is emptied first. PROFILE is release; its minutes are twice those of a release build.
set -eu
[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
project=$(cd "$(dirname "$0")/.." && pwd)
profile=${PROFILE:-release}
commit=$(git -C "$project" rev-parse --short=10 HEAD)
rm -rf "$1"
mkdir -p "$1"
folder=$(cd "$1" && pwd)

# NAME
build() {
    tree=$folder/$1/source home=$folder/$1/cargo
    mkdir -p "$tree" "$home"
    git -C "$project" archive HEAD | tar -x -C "$tree"
    # What was downloaded, and where from, under another name.
    for part in "${CARGO_HOME:-$HOME/.cargo}"/*; do ln -s "$part" "$home/"; done
    (
        cd "$tree"
        CARGO_HOME=$home CARGO_TARGET_DIR=$folder/$1/target CARGO_INCREMENTAL=0 VONIC_COMMIT=$commit \
            RUSTFLAGS="--remap-path-prefix=$tree=/vonic --remap-path-prefix=$home=/cargo" \
            cargo build --quiet --locked --profile "$profile" -p vonic-daemon
    )
    for program in vonicd vonic; do
        cp "$folder/$1/target/$profile/$program" "$folder/$1/$program"
    done
}

build one
build elsewhere/two
differ=0
for program in vonicd vonic; do
    (cd "$folder" && sha256sum "one/$program" "elsewhere/two/$program")
    cmp "$folder/one/$program" "$folder/elsewhere/two/$program" || differ=1
    # The machine's own names do not show in what is shipped.
    if grep -qaF "$folder" "$folder/one/$program"; then echo "$program names the folder that it was built in" >&2; differ=1; fi
done
[ $differ = 0 ] && echo "the same: $commit, $profile"
exit $differ
