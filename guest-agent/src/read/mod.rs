//! What the guest's kernel tells about itself (proc(5), sysfs, ethtool, sock_diag(7)): each part by itself, and what the kernel lacks is absent.
mod ethtool;
mod interfaces;
mod listening;
mod pace;
mod sockets;
mod system;
mod tcp;

pub use interfaces::links6;

use pace::Paced;
use std::fs;
use vonic_agent::message::{self, Device, Listening, Message, Sockets, clean};

/// Reads one message after the other.
#[derive(Default)]
pub struct Reader {
    devices: Paced<Vec<(String, Device)>>,
    sockets: Paced<Sockets>,
    listening: Paced<Listening>,
}

impl Reader {
    /// This moment's message.
    pub fn message(&mut self) -> Message {
        let devices = self.devices.get(|| Some(ethtool::devices()));
        let tcp = tcp::tcp(text("/proc/net/snmp"), text("/proc/net/netstat"), self.sockets.get(sockets::sockets));
        let listening = self.listening.get(listening::listening);
        let uptime = text("/proc/uptime").unwrap_or_default();
        Message {
            version: message::VERSION,
            agent: clean(env!("CARGO_PKG_VERSION"), message::AGENT_MAX),
            hostname: clean(&text("/proc/sys/kernel/hostname").unwrap_or_default(), message::HOSTNAME_MAX),
            kernel: clean(&text("/proc/sys/kernel/osrelease").unwrap_or_default(), message::KERNEL_MAX),
            uptime_seconds: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
            tcp,
            cpu: system::cpu(),
            memory: system::memory(text("/proc/meminfo"), text("/proc/pressure/memory")),
            conntrack: system::conntrack(),
            listening,
            // Last: the host compares them with what it had counted when the message began to come.
            interfaces: interfaces::interfaces(devices.unwrap_or_default()),
        }
    }
}

/// A whole file of the kernel's, if it is there.
fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// A group if anything of it is known.
fn known<T: Default + PartialEq>(group: T) -> Option<T> {
    (group != T::default()).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_messages_are_accepted() {
        let mut reader = Reader::default();
        for _ in 0..2 {
            let message = reader.message();
            assert_eq!(Message::read(&serde_json::to_vec(&message).unwrap()), Ok(message.clone()));
            // What every Linux has.
            let (cpu, memory) = (message.cpu.unwrap(), message.memory.unwrap());
            assert!(cpu.processors.unwrap() > 0 && cpu.busy_ms.unwrap() > 0, "{cpu:?}");
            assert!(memory.available.unwrap() <= memory.total.unwrap(), "{memory:?}");
            assert!(message.tcp.unwrap().segments_sent.is_some());
        }
    }
}
