//! The command line.
use crate::ask::Question;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;
use vonic_agent::message::{ADDRESS4, ADDRESS6, PORT};

/// What `--help` prints.
pub const HELP: &str = "\
vonic-agent: tells vonic on this VM's host what this guest counts on its interfaces

usage: vonic-agent [--interval SECONDS] [--address ADDRESS] [--once]
       vonic-agent status|stats|connections|top [--json] [--help]

  --interval SECONDS  between two messages, from 1 to 3600; default 1. The host calls an agent silent after 10.
  --address ADDRESS   where vonic answers, as 169.254.169.254, 169.254.169.254:80 or [fe80::a9fe:a9fe%eth0]:80;
                      default: 169.254.169.254 and, where that is out of reach, fe80::a9fe:a9fe on each interface
  --once              send one message; the exit status is 0 if it was taken, else 1
  --help, --version

  status              what this VM is to vonic: name, addresses, labels
  stats               what the NIC counts: rates, drops and their reasons, offloads
  connections         its connections as the NIC has them; --follow goes on with what happens to them
  top                 rates and busiest connections, each second

It needs no configuration and no privilege: vonic knows this guest by its NIC.
";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Print a help.
    Help(&'static str),
    /// Print the version.
    Version,
    /// Send messages.
    Send(Settings),
    /// Ask vonic.
    Ask(Question),
}

/// How messages are sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between two.
    pub interval: Duration,
    /// Where to; absent: the service's addresses.
    pub address: Option<Address>,
    /// One only.
    pub once: bool,
}

/// An address, whose interface is looked up when it is used: it may come later than the agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Address {
    ip: IpAddr,
    /// Name or number of the interface (RFC 4007 §11).
    zone: Option<String>,
    port: u16,
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn read(words: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut words = words.peekable();
    if let Some(mut question) = words.peek().and_then(|word| Question::named(word)) {
        words.next();
        return Ok(if question.read(words)? { Task::Ask(question) } else { Task::Help(question.help()) });
    }
    let mut settings = Settings { interval: Duration::from_secs(1), address: None, once: false };
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.to_string())),
            None => (word, None),
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--interval" => {
                let text = value()?;
                let seconds = text.parse().ok().filter(|seconds| (1..=3600).contains(seconds));
                let seconds = seconds.ok_or_else(|| format!("--interval: '{text}' is no number from 1 to 3600"))?;
                settings.interval = Duration::from_secs(seconds);
            }
            "--address" => settings.address = Some(Address::read(&value()?)?),
            "--once" => settings.once = true,
            "--help" | "-h" => return Ok(Task::Help(HELP)),
            "--version" | "-V" => return Ok(Task::Version),
            _ => return Err(format!("unknown argument '{name}': see vonic-agent --help")),
        }
    }
    Ok(Task::Send(settings))
}

impl Address {
    /// Reads an address as `--address` takes it.
    ///
    /// # Errors
    /// What to write instead.
    pub fn read(text: &str) -> Result<Address, String> {
        let wrong = || {
            format!("--address: '{text}' is no address: write it as 169.254.169.254:80 or [fe80::a9fe:a9fe%eth0]:80")
        };
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None if text.matches(':').count() == 1 => {
                text.split_once(':').map(|(host, port)| (host, Some(port))).ok_or_else(wrong)?
            }
            None => (text, None),
        };
        let (ip, zone) = match host.split_once('%') {
            Some((ip, zone)) => (ip, Some(zone.to_string())),
            None => (host, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let port = port.map_or(Ok(PORT), str::parse).map_err(|_| wrong())?;
        if zone.as_ref().is_some_and(|zone| zone.is_empty() || ip.is_ipv4()) {
            return Err(wrong());
        }
        Ok(Address { ip, zone, port })
    }
}

impl Settings {
    /// Where to connect, best first; `links` are the interfaces with IPv6.
    pub fn candidates(&self, links: &[(u32, String)]) -> Vec<SocketAddr> {
        candidates(self.address.as_ref(), links)
    }
}

/// Where to connect to reach `address`, or by default the service.
pub fn candidates(address: Option<&Address>, links: &[(u32, String)]) -> Vec<SocketAddr> {
    let scoped = |port, (number, _): &(u32, String)| SocketAddrV6::new(ADDRESS6, port, 0, *number).into();
    match address {
        None => {
            let v4 = SocketAddr::from((ADDRESS4, PORT));
            std::iter::once(v4).chain(links.iter().map(|link| scoped(PORT, link))).collect()
        }
        Some(Address { ip: IpAddr::V6(ip), zone: Some(zone), port }) => {
            let named = links.iter().find(|(_, name)| name == zone).map(|(number, _)| *number);
            let number = named.or_else(|| zone.parse().ok());
            number.map(|number| SocketAddrV6::new(*ip, *port, 0, number).into()).into_iter().collect()
        }
        Some(Address { ip, port, .. }) => vec![SocketAddr::new(*ip, *port)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Task, String> {
        read(text.split_ascii_whitespace().map(String::from))
    }

    fn candidates(text: &str) -> Vec<String> {
        let links = [(2, "eth0".to_string()), (5, "eth1".to_string())];
        match read_text(text) {
            Ok(Task::Send(settings)) => settings.candidates(&links).iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_read() {
        let plain = Settings { interval: Duration::from_secs(1), address: None, once: false };
        assert_eq!(read_text(""), Ok(Task::Send(plain)));
        for text in ["--interval 5 --once", "--once --interval=5"] {
            let settings = Settings { interval: Duration::from_secs(5), address: None, once: true };
            assert_eq!(read_text(text), Ok(Task::Send(settings)));
        }
        assert!(matches!(read_text("stats --json"), Ok(Task::Ask(question)) if question.json));
        assert!(matches!(read_text("top -h"), Ok(Task::Help(help)) if help.contains("--count")));
        assert_eq!((read_text("-h"), read_text("--once --version")), (Ok(Task::Help(HELP)), Ok(Task::Version)));
    }

    #[test]
    fn wrong_arguments_are_told_what_to_write() {
        for (text, part) in [
            ("--interval", "needs a value"),
            ("--interval 0", "from 1 to 3600"),
            ("--interval x", "from 1 to 3600"),
            ("--adress 1.2.3.4", "unknown argument '--adress'"),
            ("--address localhost", "write it as"),
            ("--address 1.2.3.4:70000", "write it as"),
            ("--address 1.2.3.4%eth0", "write it as"),
            ("--address [::1]80", "write it as"),
        ] {
            assert!(read_text(text).is_err_and(|e| e.contains(part)), "{text}");
        }
    }

    #[test]
    fn addresses_and_their_interfaces_are_found() {
        let default = ["169.254.169.254:80", "[fe80::a9fe:a9fe%2]:80", "[fe80::a9fe:a9fe%5]:80"];
        assert_eq!(candidates(""), default);
        assert_eq!(candidates("--address 192.0.2.1"), ["192.0.2.1:80"]);
        assert_eq!(candidates("--address 192.0.2.1:81"), ["192.0.2.1:81"]);
        assert_eq!(candidates("--address fe80::1%eth1"), ["[fe80::1%5]:80"]);
        assert_eq!(candidates("--address [fe80::1%7]:81"), ["[fe80::1%7]:81"]);
        assert!(candidates("--address fe80::1%eth9").is_empty(), "not there yet");
    }
}
