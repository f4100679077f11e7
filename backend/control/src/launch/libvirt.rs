//! libvirt's domain XML.
use super::{Accelerator, Launch, LaunchError, Machine, Nic, Role};

/// A whole `<domain>`, to which disks are added. `kvm`: whether this host has KVM, which decides where the machine leaves it open.
///
/// # Errors
/// XML cannot say control characters.
pub fn launch(nic: &Nic, machine: &Machine, kvm: bool) -> Result<Launch, LaunchError> {
    if nic.socket.contains(char::is_control) {
        return Err(LaunchError(format!("{:?} cannot be said in XML: write another runtime_dir", nic.socket)));
    }
    let (kind, cpu) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host-passthrough"),
        Accelerator::Auto if kvm => ("kvm", "host-passthrough"),
        Accelerator::Auto | Accelerator::Tcg => ("qemu", "maximum"),
    };
    let (name, memory, processors) = (escaped(&nic.name), machine.memory, nic.queue_pairs);
    let interface = interface(nic);
    Ok(Launch::Document(format!(
        "<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu>{processors}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='{cpu}'/>
  <devices>
{interface}    <serial type='pty'/>
  </devices>
</domain>
"
    )))
}

/// libvirt's `mode` says what QEMU does; it connects again after whole seconds.
fn interface(nic: &Nic) -> String {
    let (mac, socket) = (escaped(&nic.mac), escaped(&nic.socket));
    let source = match nic.role {
        Role::Listens => format!("      <source type='unix' path='{socket}' mode='server'/>\n"),
        Role::Connects { reconnect_ms: None } => {
            format!("      <source type='unix' path='{socket}' mode='client'/>\n")
        }
        Role::Connects { reconnect_ms: Some(wait) } => format!(
            "      <source type='unix' path='{socket}' mode='client'>
        <reconnect enabled='yes' timeout='{}'/>
      </source>\n",
            wait.div_ceil(1000)
        ),
    };
    let queues = match nic.queue_pairs {
        1 => String::new(),
        pairs => format!("      <driver queues='{pairs}'/>\n"),
    };
    let mtu = nic.told_mtu().map(|mtu| format!("      <mtu size='{mtu}'/>\n")).unwrap_or_default();
    format!(
        "    <interface type='vhostuser'>
      <mac address='{mac}'/>
{source}      <model type='virtio'/>
{queues}{mtu}    </interface>\n"
    )
}

/// A text as content or attribute (XML 1.0 §2.4).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}
