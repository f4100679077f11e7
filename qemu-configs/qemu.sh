#!/bin/sh
# A VM on vonic under QEMU (10 or later):  qemu.sh NAME MAC DISK [more QEMU options]
#
# NAME and MAC are those of /etc/vonic/vms.d/NAME.toml. What vonic needs of QEMU:
#   share=on          guest memory that vonic can map (a memfd, or hugepages: memory-backend-file,share=on)
#   reconnect-ms      the guest keeps its NIC when vonic is started later or again
#   mac               must be the file's, else vonic drops what the guest sends
set -eu
name=$1 mac=$2 disk=$3
shift 3
memory=${MEMORY:-1G}
exec qemu-system-x86_64 -accel kvm -accel tcg -cpu max -m "$memory" \
    -machine q35,memory-backend=guest -object "memory-backend-memfd,id=guest,size=$memory,share=on" \
    -chardev "socket,id=vonic,path=${VONIC_RUNTIME:-/run/vonic}/$name.sock,reconnect-ms=500" \
    -netdev vhost-user,id=net,chardev=vonic -device "virtio-net-pci,netdev=net,mac=$mac" \
    -drive "file=$disk,if=virtio" "$@"
