//! Are the ready files in `qemu-configs` what `vonic vm command` prints for the VMs of `qemu-configs/example`? With VONIC_WRITE=1 they are
//! written instead.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vonic_control::client;

/// A file and what makes it.
const FILES: &[(&str, &str)] = &[
    ("qemu.sh", "web1 --vmm qemu"),
    ("qemu-queues.sh", "web2 --vmm qemu --memory 2G"),
    ("qemu-listens.sh", "web3 --vmm qemu"),
    ("qemu.cfg", "web1 --vmm qemu --readconfig"),
    ("qemu-queues.cfg", "web2 --vmm qemu --memory 2G --readconfig"),
    ("qemu-listens.cfg", "web3 --vmm qemu --readconfig"),
    ("qemu-kvm.sh", "web1 --vmm qemu --kvm"),
    ("qemu-tcg.sh", "web1 --vmm qemu --tcg"),
    ("cloud-hypervisor.sh", "web1 --vmm cloud-hypervisor"),
    ("cloud-hypervisor-queues.sh", "web2 --vmm cloud-hypervisor --memory 2G"),
    ("cloud-hypervisor-listens.sh", "web3 --vmm cloud-hypervisor"),
    ("cloud-hypervisor.json", "web1 --vmm cloud-hypervisor --api"),
    ("cloud-hypervisor-queues.json", "web2 --vmm cloud-hypervisor --memory 2G --api"),
    ("cloud-hypervisor-listens.json", "web3 --vmm cloud-hypervisor --api"),
    ("libvirt.xml", "web1 --vmm libvirt --kvm"),
    ("libvirt-tcg.xml", "web1 --vmm libvirt --tcg"),
    ("libvirt-queues.xml", "web2 --vmm libvirt --memory 2G --kvm"),
    ("libvirt-listens.xml", "web3 --vmm libvirt --kvm"),
    ("uml.sh", "web1 --vmm uml"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../qemu-configs")
}

/// The file as it should be: how it was made, and that.
fn made(file: &str, arguments: &str) -> String {
    let example = folder().join("example").display().to_string();
    let words = ["vonic", "vm", "command"].into_iter().chain(arguments.split(' ')).chain(["--config-dir", &example]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = client::run(words, &mut out, &mut err);
    assert_eq!((code, String::from_utf8_lossy(&err).as_ref()), (0, ""), "{arguments}");
    let text = String::from_utf8(out).unwrap();
    let origin = format!("Made by `vonic vm command {arguments}` of the VM's file in qemu-configs/example.");
    match file.rsplit_once('.').unwrap().1 {
        "sh" => format!(
            "#!/bin/sh\n# {origin}\n# What you add follows it: {}\nexec {} \\\n    \"$@\"\n",
            added(file),
            text.trim_end()
        ),
        "cfg" => format!(
            "# {origin}\n# qemu-system-x86_64 -cpu max -readconfig {file} {}\n\n{text}",
            added(file).trim_start_matches(file).trim()
        ),
        "xml" => format!("<!-- {} -->\n{text}", origin.replace("--", "- -")),
        _ => text,
    }
}

/// An example of what an operator adds.
fn added(file: &str) -> String {
    let options = match file.split(['-', '.']).next().unwrap() {
        "qemu" => "-drive file=disk.img,if=virtio,format=raw",
        "cloud" => "--kernel vmlinux --cmdline 'console=hvc0 root=/dev/vda1' --disk path=disk.img",
        _ => "root=98:0 ubd0=disk.img con=null con0=fd:0,fd:1",
    };
    format!("{file} {options}")
}

#[test]
fn the_ready_files_are_what_the_generator_prints() {
    let write = std::env::var_os("VONIC_WRITE").is_some();
    for (file, arguments) in FILES {
        let (path, text) = (folder().join(file), made(file, arguments));
        if write {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, text, "{file} is stale: VONIC_WRITE=1 cargo test -p vonic-control --test launch_files");
    }
    let known: BTreeSet<&str> = FILES.iter().map(|(file, _)| *file).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let generated = ["cfg", "json", "xml"].iter().any(|ending| name.ends_with(ending));
        assert!(!generated || known.contains(name.as_str()), "{name} is made by nothing");
    }
}
