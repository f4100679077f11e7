//! Debian packages, installed in a guest as an operator does it: the lab's root with a layer of memory on it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::directory::TempDir;
use crate::guest::Guest;
use crate::seconds;

/// Mounts the guest's root with a layer of memory on it at /run/root, with the test's packages in /tmp: whatever is installed there is the
/// guest's alone.
pub const LAYER: &str = "insmod $(find /usr/lib/uml/modules -name overlay.ko) && mkdir /run/layer /run/root && mount -t tmpfs tmpfs /run/layer && \
    mkdir /run/layer/upper /run/layer/work && \
    mount -t overlay -o lowerdir=/,upperdir=/run/layer/upper,workdir=/run/layer/work overlay /run/root && \
    mount -t proc proc /run/root/proc && mount -t sysfs sysfs /run/root/sys && mount --bind /dev /run/root/dev && \
    mount -t tmpfs tmpfs /run/root/tmp && cp /tmp/*.deb /run/root/tmp/ && mount -t tmpfs tmpfs /run/root/run";

/// Nothing of the lab's is switched on there but what is essential; nobody waits for hardware.
pub const BARE: &str = "rm -rf /run/root/etc/systemd/system/*.wants && \
    ln -sf /dev/null /run/root/etc/systemd/system/getty.target && ln -sf /dev/null /run/root/etc/systemd/system/systemd-logind.service && \
    for unit in systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service systemd-resolved.service systemd-timesyncd.service; do \
    ln -sf /dev/null /run/root/etc/systemd/system/$unit; done";

/// A `first.sh` (see [`GuestConfig`](crate::GuestConfig)'s guests) by which systemd is the guest's first program, in that root, behind
/// `commands` there.
pub fn systemd_first(commands: &str) -> String {
    format!(
        "#!/bin/sh\n{LAYER}\n{BARE}\n{commands}\nmount -t cgroup2 cgroup2 /run/root/sys/fs/cgroup\n\
         mount --bind /dev/null /run/root/dev/console\ncd /run/root && mkdir -p mnt && busybox pivot_root . mnt\n\
         exec chroot . /usr/lib/systemd/systemd --unit=multi-user.target --show-status=0 --log-target=kmsg <dev/null >dev/null 2>&1\n"
    )
}

/// A command in that root, without single quotes.
///
/// # Errors
/// If it fails; with what it said.
pub fn inside(guest: &mut Guest, command: &str) -> Result<String> {
    guest.must(&format!("chroot /run/root sh -c '{command}' 2>&1"), seconds(60))
}

/// Makes a package in `folder` by packaging/package.sh, quickly rather than small; its file's name.
///
/// # Errors
/// If the script fails; with what it said.
pub fn make_package(folder: &TempDir, what: &str, parts: &[&Path]) -> Result<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/package.sh");
    let mut command = Command::new("sh");
    let output = command.arg(script).arg(what).args(parts).arg(folder.path()).env("COMPRESSION", "zstd").output()?;
    if !output.status.success() {
        bail!("package.sh {what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let path = String::from_utf8(output.stdout)?;
    Ok(path.trim().rsplit_once('/').context("a path")?.1.to_string())
}
