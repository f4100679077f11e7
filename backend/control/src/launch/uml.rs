//! User-mode Linux.
use super::{Accelerator, Launch, LaunchError, Machine, Nic, Role};

/// virtio 1.3 §5: a network card.
const NETWORK_CARD: u32 = 1;

/// `linux.uml …`: its memory can always be shared, and MAC, MTU and queues it reads from vonic. It has one processor.
///
/// # Errors
/// It can neither listen nor use KVM, and ends the socket's name at a colon.
pub fn launch(nic: &Nic, machine: &Machine) -> Result<Launch, LaunchError> {
    let Nic { name, socket, .. } = nic;
    if nic.role == Role::Listens {
        let mend = format!("write socket_mode = \"server\" in {name}.toml");
        return Err(LaunchError(format!("user-mode Linux cannot listen for vonic: {mend}")));
    }
    if machine.accelerator == Accelerator::Kvm {
        return Err(LaunchError("user-mode Linux does not use KVM: leave --kvm out".to_string()));
    }
    if socket.contains([':', ' ']) {
        let mend = "write a runtime_dir without them";
        return Err(LaunchError(format!("user-mode Linux takes no socket with a colon or a blank ({socket}): {mend}")));
    }
    Ok(Launch::Command(vec![
        "linux.uml".to_string(),
        format!("mem={}M", machine.memory),
        format!("virtio_uml.device={socket}:{NETWORK_CARD}"),
    ]))
}
