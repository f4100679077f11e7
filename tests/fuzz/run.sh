#!/bin/sh
# Fuzzes one target after the other: run.sh FOLDER. TARGETS are all of them, or these; SECONDS for each. What libFuzzer finds new is kept
# in FOLDER/corpus, and what fails in FOLDER/artifacts; with MERGE=1 the corpora in git become the smallest that reach as much.
#
# cargo-fuzz asks the compiler for what only nightly has by name; RUSTC_BOOTSTRAP has the stable one do it.
set -eu
cd "$(dirname "$0")/libfuzzer"
work=$1
# Once: to some shells SECONDS is a clock.
seconds=${SECONDS:-600}
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0

fail() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }
cargo fuzz --version >/dev/null 2>&1 || fail "cargo-fuzz is missing: cargo install cargo-fuzz --locked"
command -v c++ >/dev/null || fail "a C++ compiler is missing: apt-get install g++"

all=$(sed -n 's/^name = "\([a-z]*\)"$/\1/p' Cargo.toml)
# The product's own versions of everything.
cp ../../../Cargo.lock .
cargo fuzz build --fuzz-dir . --target-dir "$work/target"
programs=$work/target/x86_64-unknown-linux-gnu/release
failed=
for target in ${TARGETS:-$all}; do
    new=$work/corpus/$target
    mkdir -p "$new" "$work/artifacts" "../regressions/$target"
    set -- -max_len=4096 -timeout=60 -rss_limit_mb=4096 -print_final_stats=1 "-artifact_prefix=$work/artifacts/$target-"
    [ ! -e "../dictionaries/$target.dict" ] || set -- "$@" "-dict=../dictionaries/$target.dict"
    # It ends while its other thread still has glibc's list of destructors, which the leak check cannot follow.
    [ "$target" != ring ] || set -- "$@" -detect_leaks=0
    printf 'fuzz: %s for %s s\n' "$target" "$seconds"
    "$programs/$target" "$@" "-max_total_time=$seconds" "$new" "../corpus/$target" "../regressions/$target" 2>"$work/$target.log" ||
        failed="$failed $target"
    grep -a ' cov: ' "$work/$target.log" | tail -n 1
    if [ -n "${MERGE:-}" ]; then
        rm -rf "$work/merged"
        mkdir "$work/merged"
        "$programs/$target" "$@" -merge=1 "$work/merged" "../corpus/$target" "$new" 2>>"$work/$target.log"
        rm -rf "../corpus/$target"
        mv "$work/merged" "../corpus/$target"
    fi
    rmdir "../regressions/$target" 2>/dev/null || true
done
[ -z "$failed" ] || fail "these failed:$failed; see $work/artifacts, and $work/TARGET.log"
