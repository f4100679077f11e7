//! Where programs listen (/proc/net/tcp and its like, which every kernel has and everybody may read).
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vonic_agent::message::{LISTENING_MAX, Listening};

/// The most lines of a table that are read.
const LINES_MAX: usize = 4096;
/// The states as the tables have them: TCP_LISTEN, and TCP_CLOSE for UDP without a peer (the kernel's net/tcp_states.h).
const LISTEN: &str = "0A";
const CLOSE: &str = "07";

/// Listening sockets of both protocols and families.
pub fn listening() -> Option<Listening> {
    let tables = ["tcp", "tcp6", "udp", "udp6"].map(|name| File::open(format!("/proc/net/{name}")).ok());
    if tables.iter().all(Option::is_none) {
        return None;
    }
    let [tcp, tcp6, udp, udp6] = tables.map(|file| file.map(|file| BufReader::new(file).lines()));
    let mut more = false;
    // Listeners stand first among TCP's, and the rest need not be read.
    let tcp = [tcp, tcp6].into_iter().flatten().flat_map(|table| sockets(table, LISTEN, true, &mut more));
    let tcp = tcp.collect::<BTreeSet<_>>();
    let udp = [udp, udp6].into_iter().flatten().flat_map(|table| sockets(table, CLOSE, false, &mut more));
    let udp = udp.collect::<BTreeSet<_>>();
    more |= tcp.len() > LISTENING_MAX || udp.len() > LISTENING_MAX;
    let first = |sockets: BTreeSet<SocketAddr>| sockets.into_iter().take(LISTENING_MAX).collect();
    Some(Listening { tcp: first(tcp), udp: first(udp), more })
}

/// The local ends of a table's sockets in `state`; with `first` only those that stand before the first other one.
fn sockets(lines: Lines<impl BufRead>, state: &str, first: bool, more: &mut bool) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    // The first line has the headings.
    for (number, line) in lines.map_while(Result::ok).skip(1).enumerate() {
        if number == LINES_MAX {
            *more = true;
            break;
        }
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _, its) = (fields.next(), fields.next(), fields.next());
        match its {
            Some(its) if its == state => found.extend(local.and_then(end)),
            _ if first => break,
            _ => {}
        }
    }
    found
}

/// An end as the tables write it: the address in 32-bit words of this machine's byte order, the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn the_kernels_tables_are_read() {
        let read = |text: &str, state, first| {
            let mut more = false;
            let found = sockets(BufReader::new(text.as_bytes()).lines(), state, first, &mut more);
            (found.iter().map(ToString::to_string).collect::<Vec<_>>(), more)
        };
        let tcp = "  sl  local_address rem_address   st\n   0: 00000000:0016 00000000:0000 0A 0:0\n   1: 0100007F:1F90 00000000:0000 0A\n   2: 0100007F:1F90 0100007F:9C40 01\n   3: 00000000:0017 00000000:0000 0A\n";
        assert_eq!(read(tcp, LISTEN, true), (vec!["0.0.0.0:22".to_string(), "127.0.0.1:8080".to_string()], false));
        let udp6 = "heading\n 1: 000080FE00000000FF005450020000FE:0222 0:0 07\n 2: x:1 0:0 07\n 3: 0A:01 0:0 01\n";
        assert_eq!(read(udp6, CLOSE, false), (vec!["[fe80::5054:ff:fe00:2]:546".to_string()], false));
        let many = format!("heading\n{}", " 1: 00000000:0016 00000000:0000 0A\n".repeat(LINES_MAX + 1));
        assert!(read(&many, LISTEN, true).1);
    }

    #[test]
    fn this_machines_listeners_are_found_and_connections_are_not() {
        let (v4, v6) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap());
        let client = TcpStream::connect(v4.local_addr().unwrap()).unwrap();
        let (udp, connected) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let found = listening().unwrap();
        // Where a machine has more than the message takes, these may not be among them.
        if !found.more {
            assert!(found.tcp.contains(&v4.local_addr().unwrap()) && found.tcp.contains(&v6.local_addr().unwrap()));
            assert!(found.udp.contains(&udp.local_addr().unwrap()), "{found:?}");
        }
        assert!(!found.tcp.contains(&client.local_addr().unwrap()));
        assert!(!found.udp.contains(&connected.local_addr().unwrap()));
    }
}
