#!/bin/sh
# Made by `vonic vm command web1 --vmm uml` of the VM's file in qemu-configs/example.
# What you add follows it: uml.sh root=98:0 ubd0=disk.img con=null con0=fd:0,fd:1
exec linux.uml mem=1024M virtio_uml.device=/run/vonic/web1.sock:1 \
    "$@"
