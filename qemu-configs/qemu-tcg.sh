#!/bin/sh
# Made by `vonic vm command web1 --vmm qemu --tcg` of the VM's file in qemu-configs/example.
# What you add follows it: qemu-tcg.sh -drive file=disk.img,if=virtio,format=raw
exec qemu-system-x86_64 \
    -cpu max \
    -machine q35,accel=tcg,memory-backend=memory \
    -m 1024M \
    -smp 1 \
    -object memory-backend-memfd,id=memory,size=1024M,share=on \
    -chardev socket,id=vonic,path=/run/vonic/web1.sock,reconnect-ms=500 \
    -netdev vhost-user,id=net,chardev=vonic,queues=1 \
    -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02 \
    "$@"
