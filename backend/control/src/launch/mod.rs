//! What a VMM is started with to have a VM's NIC from vonic: command lines and documents, made from the VM's file.
//!
//! What vonic needs of every VMM is said once, here: guest memory that can be shared, the VM's socket and who listens there, the file's
//! MAC, as many queues as the file offers, an MTU that the VMM has to be told, and another attempt when vonic has gone.
pub mod cloud_hypervisor;
pub mod libvirt;
pub mod qemu;
pub mod uml;

use std::fmt;

use crate::config::{Service, SocketMode, Vm};

/// The MTU that a guest has if nobody says another one.
const ETHERNET: u16 = 1500;
/// How long QEMU waits before it connects again, in milliseconds.
const RECONNECT_MS: u32 = 500;

/// What a VMM has to know of a VM's NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The VM's name.
    pub name: String,
    /// The vhost-user socket.
    pub socket: String,
    /// The VMM's part there.
    pub role: Role,
    /// The guest's MAC, as `52:54:00:00:00:02`: what it sends from another one is dropped.
    pub mac: String,
    /// The largest IP packet in bytes.
    pub mtu: u16,
    /// Pairs of queues.
    pub queue_pairs: u16,
}

/// Who listens on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// vonic listens. QEMU connects again so many milliseconds after the connection was lost, or never; others do as they do.
    Connects {
        /// How long it waits before that.
        reconnect_ms: Option<u32>,
    },
    /// The VMM listens, and waits for vonic before it starts the guest.
    Listens,
}

/// What the VM has beside its NIC. It has as many processors as its NIC has pairs of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Guest memory in MiB.
    pub memory: u64,
    /// What runs the guest's code.
    pub accelerator: Accelerator,
}

/// What runs the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM where the VMM finds it, else translation.
    Auto,
    /// The processor (KVM).
    Kvm,
    /// Translation by QEMU.
    Tcg,
}

/// What starts a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launch {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A file for the VMM.
    Document(String),
}

/// Why a VMM cannot have this NIC, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchError(pub String);

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LaunchError {}

impl Nic {
    /// As the VM's file says it.
    pub fn of(service: &Service, vm: &Vm) -> Nic {
        Nic {
            name: vm.name.clone(),
            socket: service.vm_socket(&vm.name).display().to_string(),
            role: match vm.socket_mode {
                SocketMode::Server => Role::Connects { reconnect_ms: Some(RECONNECT_MS) },
                SocketMode::Client => Role::Listens,
            },
            mac: vm.mac.to_string(),
            mtu: vm.mtu,
            queue_pairs: vm.queue_pairs,
        }
    }

    /// With fewer pairs of queues than the file offers.
    ///
    /// # Errors
    /// With more.
    pub fn with_queue_pairs(self, pairs: u16) -> Result<Nic, LaunchError> {
        if (1..=self.queue_pairs).contains(&pairs) {
            return Ok(Nic { queue_pairs: pairs, ..self });
        }
        let Nic { name, queue_pairs: offered, .. } = self;
        Err(LaunchError(format!("{name}'s file offers queue_pairs = {offered}, not {pairs}: ask for 1 to {offered}")))
    }

    /// The MTU, where the VMM has to be told: one that does not read the backend's configuration (QEMU, cloud-hypervisor) gives the
    /// guest no MTU of its own accord, and the guest then assumes Ethernet's.
    fn told_mtu(&self) -> Option<u16> {
        Some(self.mtu).filter(|mtu| *mtu != ETHERNET)
    }
}

/// A command for a shell: an option a line, each word quoted that needs it (POSIX, Shell Command Language, §2.2).
pub fn command_line(words: &[String]) -> String {
    let mut line = String::new();
    for (at, word) in words.iter().enumerate() {
        match at {
            0 => {}
            _ if word.starts_with('-') => line.push_str(" \\\n    "),
            _ => line.push(' '),
        }
        line.push_str(&quoted(word));
    }
    line
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
