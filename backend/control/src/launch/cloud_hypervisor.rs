//! cloud-hypervisor: its command line, and the body of its API's `PUT /api/v1/vm.create`.
use serde_json::{Value, json};

use super::{Accelerator, Launch, LaunchError, Machine, Nic, Role};

/// The least MTU that it takes; a guest with a smaller one has it from DHCP.
const LEAST_MTU: u16 = 1280;
/// Descriptors of a queue: what it has by default.
const QUEUE_SIZE: u16 = 256;

/// `cloud-hypervisor …`, to which payload and disks are added. It connects again by itself.
///
/// # Errors
/// It runs with KVM only, and its options cannot say a quotation mark.
pub fn command(nic: &Nic, machine: &Machine) -> Result<Launch, LaunchError> {
    check(machine)?;
    if nic.socket.contains('"') {
        let mend = "write a runtime_dir without them, or use --api";
        return Err(LaunchError(format!("cloud-hypervisor takes no quotation marks ({}): {mend}", nic.socket)));
    }
    let mut net = format!("vhost_user=true,socket={}", quoted(&nic.socket));
    if nic.role == Role::Listens {
        net.push_str(",vhost_mode=server");
    }
    net.push_str(&format!(",mac={},num_queues={},queue_size={QUEUE_SIZE}", nic.mac, 2 * nic.queue_pairs));
    if let Some(mtu) = mtu(nic) {
        net.push_str(&format!(",mtu={mtu}"));
    }
    let words = [
        "cloud-hypervisor",
        "--cpus",
        &format!("boot={}", nic.queue_pairs),
        "--memory",
        &format!("size={}M,shared=on", machine.memory),
        "--net",
        &net,
    ];
    Ok(Launch::Command(words.map(String::from).to_vec()))
}

/// The API's VmConfig, to which payload and disks are added.
///
/// # Errors
/// It runs with KVM only.
pub fn api(nic: &Nic, machine: &Machine) -> Result<Launch, LaunchError> {
    check(machine)?;
    let mode = if nic.role == Role::Listens { "Server" } else { "Client" };
    let mut net = json!({
        "vhost_user": true, "vhost_socket": nic.socket, "vhost_mode": mode,
        "mac": nic.mac, "num_queues": 2 * nic.queue_pairs, "queue_size": QUEUE_SIZE,
    });
    if let Some(mtu) = mtu(nic) {
        net["mtu"] = Value::from(mtu);
    }
    let vm = json!({
        "cpus": { "boot_vcpus": nic.queue_pairs, "max_vcpus": nic.queue_pairs },
        "memory": { "size": machine.memory << 20, "shared": true },
        "payload": {},
        "net": [net],
    });
    Ok(Launch::Document(format!("{vm:#}\n")))
}

fn check(machine: &Machine) -> Result<(), LaunchError> {
    match machine.accelerator {
        Accelerator::Tcg => Err(LaunchError("cloud-hypervisor needs KVM: leave --tcg out, or use QEMU".to_string())),
        Accelerator::Auto | Accelerator::Kvm => Ok(()),
    }
}

fn mtu(nic: &Nic) -> Option<u16> {
    nic.told_mtu().filter(|mtu| *mtu >= LEAST_MTU)
}

/// A value of its options: commas end it unless it stands in quotation marks.
fn quoted(value: &str) -> String {
    if value.contains([',', '[', ']', '=']) { format!("\"{value}\"") } else { value.to_string() }
}
