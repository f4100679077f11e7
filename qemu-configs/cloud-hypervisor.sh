#!/bin/sh
# Made by `vonic vm command web1 --vmm cloud-hypervisor` of the VM's file in qemu-configs/example.
# What you add follows it: cloud-hypervisor.sh --kernel vmlinux --cmdline 'console=hvc0 root=/dev/vda1' --disk path=disk.img
exec cloud-hypervisor \
    --cpus boot=1 \
    --memory size=1024M,shared=on \
    --net vhost_user=true,socket=/run/vonic/web1.sock,mac=52:54:00:00:00:02,num_queues=2,queue_size=256 \
    "$@"
