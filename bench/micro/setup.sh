#!/bin/sh
# Installs valgrind where it is missing (Debian, root or sudo). Idempotent.
set -eu
command -v valgrind >/dev/null && exit 0
command -v apt-get >/dev/null || { echo "bench-micro: install valgrind first (no apt-get here)" >&2; exit 1; }
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "bench-micro: valgrind is missing: needs root, or sudo" >&2; exit 1; }
    exec sudo sh "$0"
fi
echo "bench-micro: installing valgrind"
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq -y --no-install-recommends valgrind >/dev/null 2>&1 && exit 0
apt-get update -qq
apt-get install -qq -y --no-install-recommends valgrind >/dev/null
