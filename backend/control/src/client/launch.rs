//! `vonic vm command`: what starts a VM, from its file.
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::command::Failure;
use crate::config::{self, Config, Service, Vm};
use crate::launch::{self, Accelerator, Launch, LaunchError, Machine, Nic, cloud_hypervisor, libvirt, qemu, uml};

/// What is to be printed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The VM's name
    name: String,
    /// For which VMM
    #[arg(long, value_enum)]
    vmm: Vmm,
    /// Where vonic.toml and vms.d are
    #[arg(long, value_name = "DIR", default_value = "/etc/vonic")]
    config_dir: PathBuf,
    /// Guest memory, as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = mebibytes)]
    memory: u64,
    /// Pairs of queues, and processors [default: what the VM's file offers]
    #[arg(long, value_name = "PAIRS")]
    queues: Option<u16>,
    /// With KVM only [default: where it is there]
    #[arg(long, conflicts_with = "tcg")]
    kvm: bool,
    /// By translation, without KVM
    #[arg(long)]
    tcg: bool,
    /// For QEMU: a file for -readconfig
    #[arg(long)]
    readconfig: bool,
    /// For cloud-hypervisor: the body of its API's vm.create
    #[arg(long, conflicts_with = "readconfig")]
    api: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Vmm {
    Qemu,
    CloudHypervisor,
    Libvirt,
    Uml,
}

/// Prints it: words quoted for a shell, a document as it is; with `json` as the words `{"command":[…]}` or the text
/// `{"document":"…"}`.
pub(super) fn print(wanted: &Arguments, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let (service, vm) = file(&wanted.config_dir, &wanted.name)?;
    let launch = make(wanted, Nic::of(&service, &vm)).map_err(|error| Failure::Launch(error.0))?;
    Ok(match (launch, json) {
        (Launch::Command(words), true) => writeln!(out, "{}", json!({ "command": words })),
        (Launch::Document(text), true) => writeln!(out, "{}", json!({ "document": text })),
        (Launch::Command(words), false) => writeln!(out, "{}", launch::command_line(&words)),
        (Launch::Document(text), false) => write!(out, "{text}"),
    }?)
}

fn make(wanted: &Arguments, nic: Nic) -> Result<Launch, LaunchError> {
    let nic = match wanted.queues {
        Some(pairs) => nic.with_queue_pairs(pairs)?,
        None => nic,
    };
    let accelerator = match (wanted.kvm, wanted.tcg) {
        (true, _) => Accelerator::Kvm,
        (false, true) => Accelerator::Tcg,
        (false, false) => Accelerator::Auto,
    };
    let machine = Machine { memory: wanted.memory, accelerator };
    if wanted.readconfig && wanted.vmm != Vmm::Qemu {
        return Err(LaunchError("--readconfig is QEMU's: write --vmm qemu".to_string()));
    }
    if wanted.api && wanted.vmm != Vmm::CloudHypervisor {
        return Err(LaunchError("--api is cloud-hypervisor's: write --vmm cloud-hypervisor".to_string()));
    }
    match wanted.vmm {
        Vmm::Qemu if wanted.readconfig => qemu::file(&nic, &machine),
        Vmm::Qemu => Ok(qemu::command(&nic, &machine)),
        Vmm::CloudHypervisor if wanted.api => cloud_hypervisor::api(&nic, &machine),
        Vmm::CloudHypervisor => cloud_hypervisor::command(&nic, &machine),
        Vmm::Libvirt => libvirt::launch(&nic, &machine, has_kvm()),
        Vmm::Uml if wanted.queues.is_some() => {
            Err(LaunchError("user-mode Linux takes the queues that vonic offers: leave --queues out".to_string()))
        }
        Vmm::Uml => uml::launch(&nic, &machine),
    }
}

/// The VM's file, with the service's.
fn file(dir: &Path, name: &str) -> Result<(Service, Vm), Failure> {
    let mut config = configured(dir, name)?;
    let vm = config.vms.remove(name);
    vm.map(|vm| (config.service, vm)).ok_or_else(|| Failure::Launch(format!("there is no VM '{name}'")))
}

/// The configuration with a VM in it; other VMs' files may be as bad as they like.
pub(super) fn configured(dir: &Path, name: &str) -> Result<Config, Failure> {
    let (config, errors, bad) = config::load_lenient(dir);
    let own = dir.join("vms.d").join(format!("{name}.toml"));
    let Some(config) = config.filter(|_| !bad.contains(name)) else {
        let concerned = errors.0.iter().filter(|error| !bad.contains(name) || error.file == own);
        let lines: Vec<String> = concerned.map(ToString::to_string).collect();
        return Err(Failure::Launch(lines.join("\n")));
    };
    if config.vms.contains_key(name) {
        return Ok(config);
    }
    let mend = "write one, or name its folder with --config-dir";
    Err(Failure::Launch(format!("there is no VM '{name}', since there is no {}: {mend}", own.display())))
}

fn has_kvm() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_or_else(|e| e.kind() == io::ErrorKind::PermissionDenied, |_| true)
}

/// A size in MiB: `1024` and `1024M` are, `1G` is so many GiB.
fn mebibytes(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    size.filter(|size| (16..=1 << 24).contains(size))
        .ok_or_else(|| "write a size from 16M to 16384G, as 512M or 2G".to_string())
}
