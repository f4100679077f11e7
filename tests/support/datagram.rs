//! UDP made by hand, in both families: what a guest sends, and what it gets, checked as it lies in guest memory.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::bed::Bed;
use crate::frames::{self, Mac, checksum, ip4, mac};
use crate::lies;
use crate::mock::{MockConfig, MockFrontend, VnetHeader};
use crate::seconds;

/// A datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sends it.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// Its payload.
    pub data: Vec<u8>,
}

/// An ICMP error that a guest got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who says so.
    pub by: IpAddr,
    /// Type and code, by the family's own numbers.
    pub what: (u8, u8),
    /// The second word of the header: an MTU, or 0.
    pub word: u32,
    /// Source and destination of the packet that it is about.
    pub about: (IpAddr, IpAddr),
    /// The first eight bytes behind that packet's IP header.
    pub quoted: [u8; 8],
}

impl Datagram {
    /// One with this payload.
    pub fn new(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Datagram {
        Datagram { from, to, data: data.to_vec() }
    }

    /// As a frame with a complete checksum.
    pub fn frame(&self, link: (Mac, Mac)) -> Vec<u8> {
        let ports = (self.from.port(), self.to.port());
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => frames::udp(link, from, to, ports, &self.data),
            (IpAddr::V6(from), IpAddr::V6(to)) => lies::udp6(link, from, to, ports, &self.data),
            _ => Vec::new(),
        }
    }

    /// As a frame whose checksum the device has to complete, and what says so (virtio 1.3 §5.1.6.2).
    pub fn partial(&self, link: (Mac, Mac)) -> (VnetHeader, Vec<u8>) {
        let mut frame = self.frame(link);
        let start = if self.from.is_ipv4() { 34 } else { 54 };
        let sum = !checksum(&pseudo(self.from.ip(), self.to.ip(), 17, 8 + self.data.len()));
        frame[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: start as u16,
            csum_offset: 6,
            ..VnetHeader::default()
        };
        (header, frame)
    }

    /// Its UDP header, as an ICMP error quotes it.
    pub fn header(&self) -> [u8; 8] {
        let frame = self.frame((mac(1), mac(1)));
        let start = if self.from.is_ipv4() { 34 } else { 54 };
        frame[start..start + 8].try_into().unwrap_or_default()
    }

    /// The datagram in a frame, all its lengths and checksums found right; `None`: it carries something else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(header: &VnetHeader, frame: &[u8]) -> Result<Option<Datagram>> {
        let Some((from, to, protocol, udp)) = packet(frame)? else { return Ok(None) };
        if protocol != 17 {
            return Ok(None);
        }
        let start = if from.is_ipv4() { 34 } else { 54 };
        let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        ensure!(udp.len() >= 8 && usize::from(word(4)) == udp.len(), "a length of {} in {} bytes", word(4), udp.len());
        let pseudo = pseudo(from, to, 17, udp.len());
        match header.flags {
            VnetHeader::NEEDS_CSUM => {
                ensure!((header.csum_start, header.csum_offset) == (start, 6), "{header:?}");
                ensure!(word(6) == !checksum(&pseudo), "{:04x} is not the pseudo header's sum", word(6));
            }
            0 => ensure!(word(6) != 0 && checksum(&[&pseudo[..], udp].concat()) == 0, "a wrong checksum"),
            flags => bail!("flags {flags}"),
        }
        ensure!((header.gso_type, header.gso_size) == (0, 0), "{header:?}");
        let (from, to) = (SocketAddr::new(from, word(0)), SocketAddr::new(to, word(2)));
        Ok(Some(Datagram { from, to, data: udp[8..].to_vec() }))
    }
}

impl Told {
    /// The error in a frame; `None`: it carries something else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(frame: &[u8]) -> Result<Option<Told>> {
        let Some((by, to, protocol, icmp)) = packet(frame)? else { return Ok(None) };
        let (errors, own, sum) = match by {
            IpAddr::V4(_) => (&[3, 11][..], 1, checksum(icmp)),
            IpAddr::V6(_) => (&[1, 2, 3][..], 58, checksum(&[&pseudo(by, to, 58, icmp.len())[..], icmp].concat())),
        };
        if protocol != own || !errors.contains(&icmp[0]) {
            return Ok(None);
        }
        ensure!(sum == 0, "a wrong ICMP checksum");
        let inner = icmp.get(8..).context("nothing is quoted")?;
        let about = addresses(inner)?;
        let rest = inner.get(if about.0.is_ipv4() { 20 } else { 40 }..).context("no transport is quoted")?;
        let quoted = *rest.first_chunk().context("too little is quoted")?;
        let word = u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]);
        Ok(Some(Told { by, what: (icmp[0], icmp[1]), word, about, quoted }))
    }
}

/// The addresses of an IP packet.
fn addresses(packet: &[u8]) -> Result<(IpAddr, IpAddr)> {
    let v6 = |at: usize| packet.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(IpAddr::from);
    let v4 = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(IpAddr::from);
    let both = if packet.first().is_some_and(|b| b >> 4 == 6) { (v6(8), v6(24)) } else { (v4(12), v4(16)) };
    both.0.zip(both.1).context("a packet without addresses")
}

/// Source, destination, protocol and transport of an IP packet without options, its own lengths and checksum found right.
#[allow(clippy::type_complexity, reason = "four parts, taken apart at once")]
fn packet(frame: &[u8]) -> Result<Option<(IpAddr, IpAddr, u8, &[u8])>> {
    let packet = frame.get(14..).context("a short frame")?;
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let (header, length, protocol) = match frame[12..14] {
        [0x08, 0x00] => {
            ensure!(checksum(&packet[..20]) == 0, "a wrong IP checksum");
            (20, word(2), packet[9])
        }
        [0x86, 0xdd] => (40, 40 + word(4), packet[6]),
        _ => return Ok(None),
    };
    ensure!(length == packet.len() || frame.len() == 60, "{length} bytes in {}", packet.len());
    let (from, to) = addresses(packet)?;
    Ok(Some((from, to, protocol, packet.get(header..length).context("a length beyond the frame")?)))
}

/// What a transport's checksum covers before itself (RFC 768, RFC 8200 §8.1).
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frames::pseudo_header(from, to, protocol, length).to_vec(),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            [&from.octets()[..], &to.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        _ => Vec::new(),
    }
}

/// A guest without a stack that speaks UDP.
pub struct UdpGuest {
    /// Its rings.
    pub mock: MockFrontend,
    /// From its own MAC to the gateway's.
    pub link: (Mac, Mac),
    number: u8,
}

impl UdpGuest {
    /// VM `name`, which [`crate::TestConfig::vm`] gave `number`; it knows the gateway.
    ///
    /// # Errors
    /// If the service refuses it, or the gateway does not answer.
    pub fn start(bed: &Bed, name: &str, number: u8, config: MockConfig) -> Result<UdpGuest> {
        let mut mock = bed.mock(name, config)?;
        let gateway = mock.gateway_answers(number)?;
        Ok(UdpGuest { mock, link: (mac(number), gateway), number })
    }

    /// Its own end, of the family of `like`.
    pub fn end(&self, like: SocketAddr, port: u16) -> SocketAddr {
        let address = if like.is_ipv4() { IpAddr::V4(ip4(self.number)) } else { lies::ip6(self.number).into() };
        SocketAddr::new(address, port)
    }

    /// Sends from `port` to `to`.
    ///
    /// # Errors
    /// If the device does not take it.
    pub fn send(&mut self, port: u16, to: SocketAddr, data: &[u8]) -> Result<Datagram> {
        let datagram = Datagram::new(self.end(to, port), to, data);
        self.mock.send_frame(&VnetHeader::default(), &datagram.frame(self.link))?;
        Ok(datagram)
    }

    /// What it says of a datagram that it got from `remote` at `port`, where nobody listens: a port unreachable, as a frame.
    pub fn refusal(&self, remote: SocketAddr, port: u16) -> Vec<u8> {
        let end = self.end(remote, port);
        let quoted = Datagram::new(remote, end, b"").frame(self.link);
        let length = if remote.is_ipv4() { 28 } else { 48 };
        let body = [&[0; 4][..], &quoted[14..14 + length]].concat();
        match (end.ip(), remote.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut message = [&[3, 3, 0, 0][..], &body].concat();
                let sum = checksum(&message).to_be_bytes();
                message[2..4].copy_from_slice(&sum);
                frames::ethernet(self.link.1, self.link.0, 0x0800, &frames::ipv4(from, to, 1, &message))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => lies::icmp6_of(self.link, (from, to), (1, 4), &body),
            _ => Vec::new(),
        }
    }

    /// The next datagram that it gets within `limit`; every frame on the way is checked.
    ///
    /// # Errors
    /// If a frame is not what its headers say.
    pub fn hear(&mut self, limit: Duration) -> Result<Option<Datagram>> {
        self.next(limit, Datagram::read)
    }

    /// The next datagram, which has to come.
    ///
    /// # Errors
    /// If there is none within five seconds.
    pub fn expect(&mut self) -> Result<Datagram> {
        self.hear(seconds(5))?.context("no datagram")
    }

    /// The next ICMP error, which has to come.
    ///
    /// # Errors
    /// If there is none within five seconds.
    pub fn told(&mut self) -> Result<Told> {
        self.next(seconds(5), |_, frame| Told::read(frame))?.context("no ICMP error")
    }

    fn next<T>(
        &mut self,
        limit: Duration,
        read: impl Fn(&VnetHeader, &[u8]) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let end = std::time::Instant::now() + limit;
        while let Some((header, frame)) =
            self.mock.receive_frame(end.saturating_duration_since(std::time::Instant::now()))?
        {
            if let Some(read) = read(&header, &frame)? {
                return Ok(Some(read));
            }
        }
        Ok(None)
    }
}
