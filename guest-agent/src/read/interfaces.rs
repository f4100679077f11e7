//! Interfaces and their counters (/proc/net/dev, sysfs).
use super::text;
use vonic_agent::message::{self, Counters, Device, Interface, clean};

/// What of an interface hardly ever changes.
#[derive(Clone, Debug)]
pub struct Card {
    name: String,
    mac: Option<String>,
    mtu: Option<u32>,
}

impl Card {
    fn read(name: &str) -> Card {
        let file = |what: &str| text(&format!("/sys/class/net/{name}/{what}"));
        // Tunnels have addresses of other lengths.
        let mac = file("address").map(|mac| mac.trim().to_string()).filter(|mac| mac.len() == 17);
        Card { name: name.into(), mac, mtu: file("mtu").and_then(|mtu| mtu.trim().parse().ok()) }
    }
}

/// The cards of all interfaces.
pub fn cards() -> Vec<Card> {
    counted().iter().map(|interface| Card::read(&interface.name)).collect()
}

/// All interfaces but the loopback; what drivers say of `devices` is theirs by name.
pub fn interfaces(cards: &[Card], mut devices: Vec<(String, Device)>) -> Vec<Interface> {
    let mut interfaces = counted();
    for interface in &mut interfaces {
        let card = cards.iter().find(|card| card.name == interface.name).cloned();
        let Card { mac, mtu, .. } = card.unwrap_or_else(|| Card::read(&interface.name));
        let place = devices.iter().position(|(name, _)| *name == interface.name);
        (interface.mac, interface.mtu) = (mac, mtu);
        interface.device = place.map(|place| devices.swap_remove(place).1);
        interface.name = clean(&interface.name, message::INTERFACE_MAX);
    }
    interfaces
}

/// Names and counters.
fn counted() -> Vec<Interface> {
    read(&text("/proc/net/dev").unwrap_or_default())
}

fn read(text: &str) -> Vec<Interface> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let named = lines.map(|(name, numbers)| (name.trim(), numbers)).filter(|(name, _)| *name != "lo");
    let read = named.filter_map(|(name, numbers)| {
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        // Eight of what was received, then eight of what was sent: bytes, packets, errs, drop, …
        let counters = |at: usize| {
            let [bytes, packets, errors, dropped] = *numbers.get(at..at + 4)?.first_chunk()?;
            Some(Counters { packets, bytes, errors, dropped })
        };
        let (received, sent) = (counters(0)?, counters(8)?);
        Some(Interface { name: name.into(), received, sent, ..Interface::default() })
    });
    read.take(message::INTERFACES_MAX).collect()
}

/// Interfaces with an IPv6 link-local address, by number and name (/proc/net/if_inet6).
pub fn links6() -> Vec<(u32, String)> {
    read_links6(&text("/proc/net/if_inet6").unwrap_or_default())
}

fn read_links6(text: &str) -> Vec<(u32, String)> {
    let link = |line: &str| {
        // Address, interface number, prefix length, scope, flags, name; the numbers in hexadecimal.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, number, _, scope, _, name] = fields[..] else { return None };
        let number = u32::from_str_radix(number, 16).ok()?;
        (scope == "20").then(|| (number, name.to_string()))
    };
    text.lines().filter_map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 18446744073709551615      12    3    4    0     0          0         0     2222      22    5    6    0     0       0          0
 sit0:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
 odd0: 1 2
";

    #[test]
    fn the_kernels_table_is_read() {
        let read = read(DEV);
        let [eth0, sit0] = &read[..] else { panic!("{read:?}") };
        assert_eq!((eth0.name.as_str(), sit0.name.as_str()), ("eth0", "sit0"));
        assert_eq!(eth0.received, Counters { packets: 12, bytes: u64::MAX, errors: 3, dropped: 4 });
        assert_eq!(eth0.sent, Counters { packets: 22, bytes: 2222, errors: 5, dropped: 6 });
        assert_eq!((sit0.sent.bytes, sit0.sent.packets), (9, 10));
    }

    #[test]
    fn link_local_interfaces_are_found() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
            fe80000000000000505400fffe000002 0b 40 20 80     eth0\n";
        assert_eq!(read_links6(text), [(11, "eth0".to_string())]);
    }
}
