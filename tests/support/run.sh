#!/bin/sh
# Runs every test and sums up all test binaries on the last line.
set -u
cd "$(dirname "$0")/../.." || exit 1
log=$(mktemp)
VONIC_SKIPPED=$(mktemp)
export VONIC_SKIPPED
export RUST_BACKTRACE="${RUST_BACKTRACE:-0}"
trap 'rm -f "$log" "$VONIC_SKIPPED"' EXIT

run() {
    { "$@" 2>&1 || echo "@@BROKEN $*"; } | tee -a "$log" | grep -v '^@@BROKEN'
}

run cargo test --workspace --exclude vonic-tests --no-fail-fast
# Guests are heavy: two tests at once keep a small machine's deadlines honest.
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sh $PWD/tests/support/root.sh"
run cargo test -p vonic-tests --no-fail-fast -- --test-threads="${VONIC_TEST_THREADS:-2}"

# A binary that crashed or did not compile has no result line, but its cargo run failed: count at least one.
awk -v skips="$(wc -l <"$VONIC_SKIPPED")" '
    /^test result:/ { passed += $4; failed += $6 }
    /^@@BROKEN/ { broken++ }
    END {
        if (broken > 0 && failed == 0) failed = broken
        printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, skips
        exit failed > 0
    }' "$log"
