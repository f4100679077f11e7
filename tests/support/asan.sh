#!/bin/sh
# Unit tests under the address sanitizer: asan.sh FOLDER. Of the crates with unsafe code, and of those that read what guests write.
#
# The sanitizer is an option that only nightly has by name; RUSTC_BOOTSTRAP has the stable compiler take it. Its runtime comes with Rust.
set -eu
cd "$(dirname "$0")/../.."
export RUSTC_BOOTSTRAP=1 CARGO_INCREMENTAL=0 RUSTFLAGS="-Zsanitizer=address -Cforce-frame-pointers=yes" CARGO_TARGET_DIR="$1"
# Descriptors and threads of a process that ends by _exit are no leak; what a test leaves behind is.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1:strict_string_checks=1}"
# With a target named, what runs while building (macros, build scripts) is built without.
cargo test --target x86_64-unknown-linux-gnu --no-fail-fast --lib --tests \
    -p vonic-frame -p vonic-queue -p vonic-record -p vonic-tcp -p vonic-uplink -p vonic-datapath -p vonic-session
