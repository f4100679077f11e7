#!/bin/sh
# Made by `vonic vm command web2 --vmm cloud-hypervisor --memory 2G` of the VM's file in qemu-configs/example.
# What you add follows it: cloud-hypervisor-queues.sh --kernel vmlinux --cmdline 'console=hvc0 root=/dev/vda1' --disk path=disk.img
exec cloud-hypervisor \
    --cpus boot=2 \
    --memory size=2048M,shared=on \
    --net vhost_user=true,socket=/run/vonic/web2.sock,mac=52:54:00:00:00:03,num_queues=4,queue_size=256,mtu=9000 \
    "$@"
