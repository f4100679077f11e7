//! What the guest's kernel tells about itself (proc(5), sysfs, ethtool, sock_diag(7)): each part by itself, and what the kernel lacks is absent.
mod ethtool;
mod interfaces;
mod listening;
mod pace;
mod sockets;
mod system;
mod tcp;

pub use interfaces::links6;

use crate::sys;
use interfaces::Card;
use pace::Paced;
use std::fs::File;
use std::io::Read;
use vonic_agent::message::{self, Conntrack, Cpu, Device, Listening, Memory, Message, Sockets, Tcp, clean};

/// Reads one message after the other.
#[derive(Default)]
pub struct Reader {
    names: Paced<Names>,
    cards: Paced<Vec<Card>>,
    devices: Paced<Vec<(String, Device)>>,
    tcp: Paced<Tcp>,
    cpu: Paced<Cpu>,
    memory: Paced<Memory>,
    conntrack: Paced<Conntrack>,
    sockets: Paced<Sockets>,
    listening: Paced<Listening>,
}

impl Reader {
    /// This moment's message.
    pub fn message(&mut self) -> Message {
        let cards = self.cards.get(|| Some(interfaces::cards())).unwrap_or_default();
        let devices = self.devices.get(|| Some(ethtool::devices())).unwrap_or_default();
        let tcp = self.tcp.get(|| tcp::tcp(text("/proc/net/snmp"), text("/proc/net/netstat")));
        let sockets = self.sockets.get(sockets::sockets);
        let listening = self.listening.get(listening::listening);
        let Names { hostname, kernel } = self.names.get(|| Some(names())).unwrap_or_default();
        Message {
            version: message::VERSION,
            agent: clean(env!("CARGO_PKG_VERSION"), message::AGENT_MAX),
            hostname,
            kernel,
            uptime_seconds: sys::uptime().as_secs(),
            tcp: known(Tcp { sockets, ..tcp.unwrap_or_default() }),
            cpu: self.cpu.get(system::cpu),
            memory: self.memory.get(|| system::memory(text("/proc/meminfo"), text("/proc/pressure/memory"))),
            conntrack: self.conntrack.get(system::conntrack),
            listening,
            // Last: the host compares them with what it had counted when the message began to come.
            interfaces: interfaces::interfaces(&cards, devices),
        }
    }
}

/// What the guest and its kernel are called.
#[derive(Clone, Default)]
struct Names {
    hostname: String,
    kernel: String,
}

fn names() -> Names {
    let name = |what: &str, most| clean(&text(&format!("/proc/sys/kernel/{what}")).unwrap_or_default(), most);
    Names { hostname: name("hostname", message::HOSTNAME_MAX), kernel: name("osrelease", message::KERNEL_MAX) }
}

/// A whole file of the kernel's, if it is there: most of them in one piece, since in a guest that is all that this costs.
fn text(path: &str) -> Option<String> {
    const PIECE: usize = 8192;
    let mut text = String::with_capacity(PIECE);
    // Without the limit its size would be asked for, which these files do not have.
    File::open(path).ok()?.take(u64::MAX).read_to_string(&mut text).ok()?;
    Some(text)
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
