#!/bin/sh
# A VM on vonic under cloud-hypervisor:  cloud-hypervisor.sh NAME MAC KERNEL DISK [more options]
#
# shared=on is what lets vonic map guest memory. NAME and MAC are those of /etc/vonic/vms.d/NAME.toml. Start vonic first.
set -eu
name=$1 mac=$2 kernel=$3 disk=$4
shift 4
exec cloud-hypervisor --kernel "$kernel" --cmdline "console=hvc0 root=/dev/vda1 rw" --disk "path=$disk" \
    --cpus boot=1 --memory "size=${MEMORY:-1G},shared=on" \
    --net "vhost_user=true,socket=${VONIC_RUNTIME:-/run/vonic}/$name.sock,mac=$mac,num_queues=2,queue_size=256" "$@"
