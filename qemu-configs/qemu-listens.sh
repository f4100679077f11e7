#!/bin/sh
# Made by `vonic vm command web3 --vmm qemu` of the VM's file in qemu-configs/example.
# What you add follows it: qemu-listens.sh -drive file=disk.img,if=virtio,format=raw
exec qemu-system-x86_64 \
    -cpu max \
    -machine q35,accel=kvm:tcg,memory-backend=memory \
    -m 1024M \
    -smp 1 \
    -object memory-backend-memfd,id=memory,size=1024M,share=on \
    -chardev socket,id=vonic,path=/run/vonic/web3.sock,server=on,wait=on \
    -netdev vhost-user,id=net,chardev=vonic,queues=1 \
    -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:04 \
    "$@"
