//! The agent's message: JSON with a version, made in the guest and read on the host, which trusts nothing in it.
//!
//! What holds for every version, so that an agent and a host of different ones understand each other:
//! * Fields are added, never renamed, removed or changed in what they mean. A reader ignores those that it does not know.
//! * Interfaces' counters are of the moment; in a slow or large guest the rest may be half a minute old.
//! * What a guest's kernel does not tell, or an older agent did not know, is absent, never zero.
//! * The limits below are the format's: no version exceeds them.
mod check;
mod interface;
mod system;

pub use check::{MessageError, clean};
pub use interface::{Counters, Device, Interface};
pub use system::{Conntrack, Cpu, Listening, Memory, Pressure, Sockets, Stall, Tcp};

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The version of [`Message`] that this library writes. It reads every one from [`OLDEST`] on.
pub const VERSION: u32 = 2;
/// The first version: host, kernel, interfaces and their counters. Hosts of that version take no other.
pub const OLDEST: u32 = 1;
/// Where vonic answers guests over IPv4.
pub const ADDRESS4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where it answers over IPv6, on every link (RFC 4291 §2.5.6).
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
/// The port of both.
pub const PORT: u16 = 80;
/// Where messages are posted.
pub const PATH: &str = "/v1/stats";
/// The longest message in bytes; one with every list and text at its limit is shorter.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most interfaces in a message.
pub const INTERFACES_MAX: usize = 64;
/// The most interfaces of which more is told than their counters.
pub const DEVICES_MAX: usize = 4;
/// The most offloads, and the most statistics of one driver.
pub const NAMED_MAX: usize = 64;
/// The most listening sockets of one protocol.
pub const LISTENING_MAX: usize = 64;
/// The longest name of an agent's version.
pub const AGENT_MAX: usize = 32;
/// The longest host name (sethostname(2)).
pub const HOSTNAME_MAX: usize = 64;
/// The longest name of a kernel's release (uname(2)).
pub const KERNEL_MAX: usize = 64;
/// The longest name of an interface (netdevice(7): IFNAMSIZ less the zero).
pub const INTERFACE_MAX: usize = 15;
/// The longest name that ethtool has for anything (ETH_GSTRING_LEN).
pub const NAME_MAX: usize = 32;

/// What a guest says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The version of the agent's format, from [`OLDEST`] on.
    pub version: u32,
    /// The agent's own version.
    #[serde(default)]
    pub agent: String,
    /// The guest's host name.
    #[serde(default)]
    pub hostname: String,
    /// Its kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// Seconds since the guest booted.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// Its interfaces but the loopback.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Its TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Its processors, and what its network costs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// The connections that its firewall tracks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<Conntrack>,
    /// Where its programs listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listening: Option<Listening>,
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Message {
    /// Reads and checks a message. What it returns has bounded texts that can be shown on a terminal, and bounded lists.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Message, MessageError> {
        if bytes.len() > MESSAGE_MAX {
            return Err(MessageError::Long);
        }
        let malformed = |e: serde_json::Error| MessageError::Malformed(e.to_string());
        let Head { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version < OLDEST {
            return Err(MessageError::Version(version));
        }
        let message: Message = serde_json::from_slice(bytes).map_err(malformed)?;
        message.check()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let interface = Interface { name: "eth0".into(), mac: Some("52:54:00:00:00:02".into()), ..Default::default() };
        Message { version: 1, hostname: "web1".into(), interfaces: vec![interface], ..Default::default() }
    }

    fn read(change: impl Fn(&mut Message)) -> Result<Message, MessageError> {
        let mut m = message();
        change(&mut m);
        Message::read(&serde_json::to_vec(&m).unwrap())
    }

    #[test]
    fn a_message_survives_the_way() {
        assert_eq!(read(|_| ()), Ok(message()));
        assert_eq!(read(|m| m.interfaces[0].mac = None).unwrap().interfaces[0].mac, None);
        let counters = Counters { packets: u64::MAX, bytes: 1, errors: 2, dropped: 3 };
        assert_eq!(read(|m| m.interfaces[0].sent = counters).unwrap().interfaces[0].sent, counters);
    }

    /// Hosts refuse what is longer than [`MESSAGE_MAX`]; an agent's message never is.
    #[test]
    fn the_longest_message_fits() {
        let name = |n: usize| format!("{n:0>width$}", width = NAME_MAX);
        let counters = Counters { packets: u64::MAX, bytes: u64::MAX, errors: u64::MAX, dropped: u64::MAX };
        let named = |n: usize| (name(n), u64::MAX);
        let device = Device {
            driver: Some(name(0)),
            version: Some(name(0)),
            bus: Some(name(0)),
            offloads: Some((0..NAMED_MAX).map(|n| (name(n), false)).collect()),
            statistics: Some((0..NAMED_MAX).map(named).collect()),
        };
        let interface = |n: usize| Interface {
            name: "x".repeat(INTERFACE_MAX),
            mac: Some("52:54:00:00:00:02".into()),
            received: counters,
            sent: counters,
            mtu: Some(u32::MAX),
            device: (n < DEVICES_MAX).then(|| device.clone()),
        };
        let socket = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        let listening = Listening { tcp: vec![socket; LISTENING_MAX], udp: vec![socket; LISTENING_MAX], more: true };
        let message = Message {
            agent: "x".repeat(AGENT_MAX),
            hostname: "x".repeat(HOSTNAME_MAX),
            kernel: "x".repeat(KERNEL_MAX),
            uptime_seconds: u64::MAX,
            interfaces: (0..INTERFACES_MAX).map(interface).collect(),
            listening: Some(listening),
            ..message()
        };
        let length = serde_json::to_vec(&message).unwrap().len();
        // What is left is enough for the groups of numbers: there are some forty, each with its name.
        assert!(length + 4096 <= MESSAGE_MAX, "{length}");
        assert!(Message::read(&serde_json::to_vec(&message).unwrap()).is_ok());
    }

    #[test]
    fn what_is_too_long_or_unprintable_is_refused_by_name() {
        let field = |result: Result<Message, MessageError>| match result {
            Err(MessageError::Text { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(read(|m| m.agent = "x".repeat(33))), "agent");
        assert_eq!(field(read(|m| m.hostname = "x".repeat(65))), "hostname");
        assert_eq!(field(read(|m| m.hostname = "a\u{1b}[2J".into())), "hostname");
        assert_eq!(field(read(|m| m.kernel = "ü".into())), "kernel");
        assert_eq!(field(read(|m| m.interfaces[0].name = "x".repeat(16))), "interface");
        for mac in ["", "52:54:00:00:00", "52:54:00:00:00:02:03", "52:54:00:00:00:0g", "525:4:00:00:00:02"] {
            assert_eq!(read(|m| m.interfaces[0].mac = Some(mac.into())), Err(MessageError::Mac), "{mac}");
        }
        let list = |result: Result<Message, MessageError>| match result {
            Err(MessageError::List { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(list(read(|m| m.interfaces = vec![Interface::default(); 65])), "interfaces");
        let device = || Interface { device: Some(Device::default()), ..Interface::default() };
        assert_eq!(list(read(|m| m.interfaces = vec![device(); 5])), "interfaces with a device");
        let device = |change: fn(&mut Device)| {
            read(|m| {
                let mut device = Device::default();
                change(&mut device);
                m.interfaces[0].device = Some(device);
            })
        };
        assert_eq!(field(device(|d| d.driver = Some("x".repeat(33)))), "driver");
        assert_eq!(field(device(|d| d.version = Some("\u{9b}2J".into()))), "driver version");
        assert_eq!(field(device(|d| d.bus = Some("\n".into()))), "bus");
        assert_eq!(field(device(|d| d.offloads = Some([("\u{1b}[2J".into(), true)].into()))), "offloads");
        assert_eq!(field(device(|d| d.statistics = Some([("x".repeat(33), 1)].into()))), "statistics");
        let many = |d: &mut Device| d.statistics = Some((0..65).map(|n: u64| (n.to_string(), n)).collect());
        assert_eq!(list(device(many)), "statistics");
        let sockets = vec!["[::]:1".parse().unwrap(); 65];
        let listening =
            |m: &mut Message| m.listening = Some(Listening { tcp: sockets.clone(), ..Listening::default() });
        assert_eq!(list(read(listening)), "listening tcp");
        let long = vec![b' '; MESSAGE_MAX + 1];
        assert_eq!(Message::read(&long), Err(MessageError::Long));
    }

    #[test]
    fn numbers_and_forms_are_checked() {
        let whole = serde_json::to_string(&message()).unwrap();
        for (from, to) in [("\"bytes\":0", "\"bytes\":-1"), ("\"bytes\":0", "\"bytes\":1e3"), ("\"version\":1,", "")] {
            let wrong = whole.replace(from, to);
            assert!(matches!(Message::read(wrong.as_bytes()), Err(MessageError::Malformed(_))), "{wrong}");
        }
        let never = whole.replace("\"version\":1", "\"version\":0");
        assert_eq!(Message::read(never.as_bytes()), Err(MessageError::Version(0)));
        for garbage in ["", "[]", "null", "\u{0}", &"[".repeat(60_000)] {
            assert!(matches!(Message::read(garbage.as_bytes()), Err(MessageError::Malformed(_))));
        }
    }

    #[test]
    fn cleaned_texts_pass() {
        let hostname = clean(&"ä\u{7}b".repeat(100), HOSTNAME_MAX);
        assert_eq!((hostname.len(), &hostname[..3]), (64, "??b"));
        assert!(read(|m| m.hostname = hostname.clone()).is_ok());
    }
}
