#!/bin/sh
# Moves a running VM under QEMU (10 or later) to another host:  qemu-migrate.sh MONITOR tcp:TARGET:4444
#
# Before, on the target:   qemu.sh -incoming tcp:0.0.0.0:4444 …               with the source's options, on a VM file that says the same
# and on the source:       qemu.sh -monitor unix:MONITOR,server=on,wait=off …
#
# The guest may stand still for DOWNTIME_MS; it moves when what is left of its memory can be sent in that time at BANDWIDTH bytes a second.
# What goes along, and what the hosts need: backend/docs/migration.md. Needs socat.
set -eu
monitor=$1 target=$2

ask() { printf '%s\n' "$@" | socat -t 5 - "UNIX-CONNECT:$monitor"; }

# The source hears whether the target has taken everything, and only then gives the guest up.
ask "migrate_set_capability return-path on" "migrate_set_parameter downtime-limit ${DOWNTIME_MS:-300}" \
    "migrate_set_parameter max-bandwidth ${BANDWIDTH:-1G}" "migrate -d $target" >/dev/null
while :; do
    sleep 0.3
    state=$(ask "info migrate")
    case $state in
    *completed*) break ;;
    *failed* | *cancelled*)
        printf '%s\n' "$state" >&2
        exit 1
        ;;
    esac
done
# It runs on the target; here it only stands still.
ask quit >/dev/null || true
