//! What a message may say.
use super::{
    AGENT_MAX, DEVICES_MAX, Device, HOSTNAME_MAX, INTERFACE_MAX, INTERFACES_MAX, Interface, KERNEL_MAX, LISTENING_MAX,
    MESSAGE_MAX, Message, NAME_MAX, NAMED_MAX, OLDEST,
};
use std::fmt;

/// Why a message is refused; for the guest's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// It is no message.
    Malformed(String),
    /// It is longer than [`MESSAGE_MAX`].
    Long,
    /// A version that there never was.
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
    /// A list is too long.
    List {
        /// Which.
        field: &'static str,
        /// The most entries.
        most: usize,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::Malformed(why) => write!(f, "not a message of vonic-agent: {why}"),
            MessageError::Long => write!(f, "write at most {MESSAGE_MAX} bytes"),
            MessageError::Version(version) => write!(f, "there is no version {version}: they begin with {OLDEST}"),
            MessageError::Text { field, most } => {
                write!(f, "{field}: write at most {most} bytes of printable ASCII")
            }
            MessageError::Mac => write!(f, "mac: write it as 52:54:00:00:00:02"),
            MessageError::List { field, most } => write!(f, "{field}: write at most {most}"),
        }
    }
}

impl std::error::Error for MessageError {}

impl Message {
    pub(super) fn check(&self) -> Result<(), MessageError> {
        text("agent", &self.agent, AGENT_MAX)?;
        text("hostname", &self.hostname, HOSTNAME_MAX)?;
        text("kernel", &self.kernel, KERNEL_MAX)?;
        list("interfaces", self.interfaces.len(), INTERFACES_MAX)?;
        self.interfaces.iter().try_for_each(Interface::check)?;
        let devices = self.interfaces.iter().filter(|interface| interface.device.is_some()).count();
        list("interfaces with a device", devices, DEVICES_MAX)?;
        if let Some(listening) = &self.listening {
            list("listening tcp", listening.tcp.len(), LISTENING_MAX)?;
            list("listening udp", listening.udp.len(), LISTENING_MAX)?;
        }
        Ok(())
    }
}

impl Interface {
    fn check(&self) -> Result<(), MessageError> {
        text("interface", &self.name, INTERFACE_MAX)?;
        if self.mac.as_deref().is_some_and(|mac| !is_mac(mac)) {
            return Err(MessageError::Mac);
        }
        self.device.as_ref().map_or(Ok(()), Device::check)
    }
}

impl Device {
    fn check(&self) -> Result<(), MessageError> {
        let named = [("driver", &self.driver), ("driver version", &self.version), ("bus", &self.bus)];
        for (field, value) in named {
            text(field, value.as_deref().unwrap_or_default(), NAME_MAX)?;
        }
        for (field, names) in [
            ("offloads", self.offloads.as_ref().map(|map| map.keys().collect::<Vec<_>>())),
            ("statistics", self.statistics.as_ref().map(|map| map.keys().collect())),
        ] {
            let names = names.unwrap_or_default();
            list(field, names.len(), NAMED_MAX)?;
            names.into_iter().try_for_each(|name| text(field, name, NAME_MAX))?;
        }
        Ok(())
    }
}

fn text(field: &'static str, value: &str, most: usize) -> Result<(), MessageError> {
    let good = value.len() <= most && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if good { Ok(()) } else { Err(MessageError::Text { field, most }) }
}

fn list(field: &'static str, length: usize, most: usize) -> Result<(), MessageError> {
    if length <= most { Ok(()) } else { Err(MessageError::List { field, most }) }
}

/// Cuts and cleans a text of the guest's, so that it passes. Quotes and backslashes go, too: they would make it longer in JSON.
pub fn clean(value: &str, most: usize) -> String {
    let clean = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '?' };
    value.trim().chars().take(most).map(clean).collect()
}

fn is_mac(mac: &str) -> bool {
    let mut octets = 0;
    let good = mac.split(':').all(|octet| {
        octets += 1;
        octet.len() == 2 && octet.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    });
    good && octets == 6
}
