//! The agent's message: JSON with a version, made in the guest and read on the host, which trusts nothing in it.
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The version of [`Message`] that this library writes and reads.
pub const VERSION: u32 = 1;
/// Where vonic answers guests over IPv4.
pub const ADDRESS4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Where it answers over IPv6, on every link (RFC 4291 §2.5.6).
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe);
/// The port of both.
pub const PORT: u16 = 80;
/// Where messages are posted.
pub const PATH: &str = "/v1/stats";
/// The longest message in bytes.
pub const MESSAGE_MAX: usize = 64 * 1024;
/// The most interfaces in a message.
pub const INTERFACES_MAX: usize = 64;
/// The longest name of an agent's version.
pub const AGENT_MAX: usize = 32;
/// The longest host name (sethostname(2)).
pub const HOSTNAME_MAX: usize = 64;
/// The longest name of a kernel's release (uname(2)).
pub const KERNEL_MAX: usize = 64;
/// The longest name of an interface (netdevice(7): IFNAMSIZ less the zero).
pub const INTERFACE_MAX: usize = 15;

/// What a guest says of itself. A reader ignores fields that it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's own version.
    pub agent: String,
    /// The guest's host name.
    pub hostname: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Seconds since the guest booted.
    pub uptime_seconds: u64,
    /// Its interfaces but the loopback.
    pub interfaces: Vec<Interface>,
}

/// One interface of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC as `52:54:00:00:00:02`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What it received: host to guest.
    pub received: Counters,
    /// What it sent: guest to host.
    pub sent: Counters,
}

/// Counters of one direction, since the interface was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames; one of 64 KiB by segmentation offload is one.
    pub packets: u64,
    /// Bytes with the Ethernet header.
    pub bytes: u64,
    /// Frames with an error.
    pub errors: u64,
    /// Frames dropped by the guest.
    pub dropped: u64,
}

/// Why a message is refused; for the guest's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// It is no message.
    Malformed(String),
    /// Another version's.
    Version(u32),
    /// A text is too long, or has characters that are none of printable ASCII.
    Text {
        /// Which.
        field: &'static str,
        /// The most bytes.
        most: usize,
    },
    /// An address that is no MAC.
    Mac,
    /// More interfaces than [`INTERFACES_MAX`].
    Interfaces,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Malformed(why) => write!(f, "not a message of vonic-agent: {why}"),
            MessageError::Version(version) => {
                write!(f, "version {version} is not known here: use the vonic-agent of version {VERSION}")
            }
            MessageError::Text { field, most } => {
                write!(f, "{field}: write at most {most} bytes of printable ASCII")
            }
            MessageError::Mac => write!(f, "mac: write it as 52:54:00:00:00:02"),
            MessageError::Interfaces => write!(f, "interfaces: write at most {INTERFACES_MAX}"),
        }
    }
}

impl std::error::Error for MessageError {}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Message {
    /// Reads and checks a message. What it returns has bounded texts that can be shown on a terminal.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Message, MessageError> {
        let malformed = |e: serde_json::Error| MessageError::Malformed(e.to_string());
        let Head { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(MessageError::Version(version));
        }
        let message: Message = serde_json::from_slice(bytes).map_err(malformed)?;
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), MessageError> {
        text("agent", &self.agent, AGENT_MAX)?;
        text("hostname", &self.hostname, HOSTNAME_MAX)?;
        text("kernel", &self.kernel, KERNEL_MAX)?;
        if self.interfaces.len() > INTERFACES_MAX {
            return Err(MessageError::Interfaces);
        }
        for interface in &self.interfaces {
            text("interface", &interface.name, INTERFACE_MAX)?;
            if interface.mac.as_deref().is_some_and(|mac| !is_mac(mac)) {
                return Err(MessageError::Mac);
            }
        }
        Ok(())
    }
}

fn text(field: &'static str, value: &str, most: usize) -> Result<(), MessageError> {
    let good = value.len() <= most && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if good { Ok(()) } else { Err(MessageError::Text { field, most }) }
}

/// Cuts and cleans a text of the guest's, so that it passes.
pub fn clean(value: &str, most: usize) -> String {
    value.trim().chars().take(most).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

fn is_mac(mac: &str) -> bool {
    let mut octets = 0;
    let good = mac.split(':').all(|octet| {
        octets += 1;
        octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    });
    good && octets == 6
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

    /// As written by version 0.1.0: it must be read for ever.
    #[test]
    fn the_first_versions_message_is_read() {
        let text = r#"{"version":1,"agent":"0.1.0","hostname":"web1","kernel":"6.12.0","uptime_seconds":12,"interfaces":
            [{"name":"eth0","mac":"52:54:00:00:00:02","received":{"packets":1,"bytes":60,"errors":0,"dropped":0},
            "sent":{"packets":2,"bytes":120,"errors":0,"dropped":0}}],"vm":"somebody-else"}"#;
        let read = Message::read(text.as_bytes()).unwrap();
        assert_eq!((read.uptime_seconds, read.interfaces[0].sent.bytes), (12, 120));
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
        assert_eq!(read(|m| m.interfaces = vec![Interface::default(); 65]), Err(MessageError::Interfaces));
    }

    #[test]
    fn numbers_and_forms_are_checked() {
        let whole = serde_json::to_string(&message()).unwrap();
        for (from, to) in [("\"bytes\":0", "\"bytes\":-1"), ("\"bytes\":0", "\"bytes\":1e3"), ("\"version\":1,", "")] {
            let wrong = whole.replace(from, to);
            assert!(matches!(Message::read(wrong.as_bytes()), Err(MessageError::Malformed(_))), "{wrong}");
        }
        let newer = whole.replace("\"version\":1", "\"version\":2");
        assert_eq!(Message::read(newer.as_bytes()), Err(MessageError::Version(2)));
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
