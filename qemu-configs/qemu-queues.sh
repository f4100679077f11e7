#!/bin/sh
# Made by `vonic vm command web2 --vmm qemu --memory 2G` of the VM's file in qemu-configs/example.
# What you add follows it: qemu-queues.sh -drive file=disk.img,if=virtio,format=raw
exec qemu-system-x86_64 \
    -cpu max \
    -machine q35,accel=kvm:tcg,memory-backend=memory \
    -m 2048M \
    -smp 2 \
    -object memory-backend-memfd,id=memory,size=2048M,share=on \
    -chardev socket,id=vonic,path=/run/vonic/web2.sock,reconnect-ms=500 \
    -netdev vhost-user,id=net,chardev=vonic,queues=2 \
    -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:03,mq=on,vectors=6,host_mtu=9000 \
    "$@"
