#!/bin/sh
# Runs every test and sums up all test binaries on the last line.
#
# The end-to-end tests run in two lanes, or three where there are six processors, one test binary after the other in each: guests are heavy,
# and two tests at once keep a small machine's deadlines honest. What a binary said is shown when it is done.
#
# What failed is run once more: a binary of unit tests at once, an end-to-end test alone when all are through, since its deadlines are for
# a machine that gets on. It counts as passed if it passes then, and is listed by name above the last line. VONIC_TEST_TRIES=1 does without.
set -u
cd "$(dirname "$0")/../.." || exit 1

# One binary of the end-to-end tests.
if [ "${1:-}" = --one ]; then
    log=$VONIC_LOGS/$2
    start=$(date +%s)
    { timeout -k 10 900 cargo test -p vonic-tests --test "$2" -- --test-threads=1 2>&1 || echo "@@BROKEN $2"; } >"$log"
    { cat "$log"; echo "     $2 took $(($(date +%s) - start)) s"; } | grep -v '^@@BROKEN'
    exit 0
fi

VONIC_LOGS=$(mktemp -d)
VONIC_SKIPPED=$(mktemp)
export VONIC_LOGS VONIC_SKIPPED
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"
trap 'rm -rf "$VONIC_LOGS" "$VONIC_SKIPPED"' EXIT

run() {
    { "$@" 2>&1 || echo "@@BROKEN $*"; } | tee -a "$VONIC_LOGS/units" | grep -v '^@@BROKEN'
}

# Seconds for each fuzz target, two or more of which run at once.
export VONIC_FUZZ_SECONDS="${VONIC_FUZZ_SECONDS:-20}"
run cargo test --workspace --exclude vonic-tests --no-fail-fast
# Some of these wait for processes as well. A binary that failed is run once more: how many of its tests failed, and cargo's words for it.
failed_units() {
    awk -F'`' '/^     Running / { failed = 0 } /^test result:/ { split($0, words, " "); failed = words[6] }
        /^error: test failed, to rerun pass/ { print failed + 0, $2 }' "$VONIC_LOGS/units"
}
if [ "${VONIC_TEST_TRIES:-2}" -gt 1 ] && [ "$(failed_units | wc -l)" -le 3 ]; then
    failed_units >"$VONIC_SKIPPED.units"
    while read -r failed words; do
        echo "     a second try: $words"
        # shellcheck disable=SC2086 # these are words
        if timeout -k 10 600 cargo test $words >"$VONIC_SKIPPED.second" 2>&1 </dev/null; then
            sed -i '/^@@BROKEN/d' "$VONIC_LOGS/units"
            echo "@@SECOND $failed $words" >>"$VONIC_LOGS/units"
        else
            still=1
        fi
        cat "$VONIC_SKIPPED.second"
    done <"$VONIC_SKIPPED.units"
    [ -z "${still:-}" ] || echo "@@BROKEN units" >>"$VONIC_LOGS/units"
    rm -f "$VONIC_SKIPPED.units" "$VONIC_SKIPPED.second"
fi
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $PWD/tests/support/root.sh"
run cargo test -p vonic-tests --no-run
run cargo test -p vonic-tests --lib --bins
sed -n '/^\[\[test\]\]/,/^path/s/^name = "\(.*\)"/\1/p' tests/Cargo.toml | xargs -P "${VONIC_TEST_LANES:-$([ "$(nproc)" -ge 6 ] && echo 3 || echo 2)}" -n 1 sh "$PWD/tests/support/run.sh" --one

# What failed, a line each: binary and test. Many failures are no accident.
again() {
    for log in "$VONIC_LOGS"/e2e_*; do
        sed -n "s/^test \(.*\) \.\.\. FAILED\$/$(basename "$log") \1/p" "$log"
    done
}
if [ "${VONIC_TEST_TRIES:-2}" -gt 1 ] && [ "$(again | wc -l)" -le 6 ]; then
    mkdir "$VONIC_LOGS/second"
    again | while read -r binary name; do
        echo "     a second try: $binary $name"
        second=$VONIC_LOGS/second/$binary-$name
        timeout -k 10 600 cargo test -p vonic-tests --test "$binary" -- --exact "$name" >"$second" 2>&1 </dev/null
        cat "$second"
        grep -q '^test result: ok. 1 passed' "$second" && echo "@@SECOND 1 $binary $name" >>"$VONIC_LOGS/units"
    done
fi

# A binary that crashed or did not compile has no result line, but its cargo run failed: count at least one.
sed -n 's/^@@SECOND [0-9]*/passed at the second try only:/p' "$VONIC_LOGS/units"
cat "$VONIC_LOGS"/* 2>/dev/null | awk -v skips="$(wc -l <"$VONIC_SKIPPED")" '
    /^test result:/ { passed += $4; failed += $6 }
    /^@@BROKEN/ { broken++ }
    /^@@SECOND/ { second += $2 }
    END {
        if (broken > 0 && failed == 0) failed = broken
        passed += second; failed -= second
        printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, skips
        exit failed > 0
    }'
