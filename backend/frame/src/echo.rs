//! ICMP echo beyond the gateway, and ICMP errors, for both families (RFC 792, RFC 4443).
use crate::build::{HeaderBytes, network_headers};
use crate::{
    DropReason, ETHERNET_LEN, Envelope, Ip, PROTOCOL_ICMP, PROTOCOL_ICMP6, PROTOCOL_TCP, PROTOCOL_UDP, Sum, Transport,
};
use std::net::{IpAddr, SocketAddr};

/// Bytes of an echo message's header: type, code, checksum, identifier, sequence number.
pub const ECHO_HEADER_LEN: usize = 8;

/// The numbers by which a family's ICMP names things.
struct Names {
    protocol: u8,
    request: u8,
    reply: u8,
}

fn names(address: IpAddr) -> Names {
    match address {
        IpAddr::V4(_) => Names { protocol: PROTOCOL_ICMP, request: 8, reply: 0 },
        IpAddr::V6(_) => Names { protocol: PROTOCOL_ICMP6, request: 128, reply: 129 },
    }
}

/// What an ICMP checksum of `len` bytes of message starts with: nothing, or ICMPv6's pseudo header (RFC 4443 §2.3).
pub fn icmp_sum(src: IpAddr, dst: IpAddr, len: u32) -> Sum {
    match src {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::default().pseudo(src, dst, PROTOCOL_ICMP6, len),
    }
}

/// A guest's echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoRequest {
    /// Its first eight bytes, as the guest wrote them.
    pub header: [u8; ECHO_HEADER_LEN],
    /// Whether no router may fragment it: never in IPv6 (RFC 8200 §5).
    pub dont_fragment: bool,
}

impl EchoRequest {
    /// Reads the request that `ip` carries; `head` are the frame's leading bytes. `None`: it carries something else.
    ///
    /// # Errors
    /// `Truncated`; `BadHeader` for a code other than 0.
    pub fn read(head: &[u8], ip: &Ip) -> Result<Option<EchoRequest>, DropReason> {
        let Transport::Icmp(icmp) = ip.transport else { return Ok(None) };
        let names = names(ip.dst);
        if (ip.protocol, icmp.kind) != (names.protocol, names.request) {
            return Ok(None);
        }
        if icmp.code != 0 {
            return Err(DropReason::BadHeader);
        }
        let start = usize::from(ip.transport_offset);
        let header = head.get(start..).and_then(|b| b.first_chunk()).ok_or(DropReason::Truncated)?;
        Ok(Some(EchoRequest { header: *header, dont_fragment: ip.dont_fragment(head) }))
    }

    /// The identifier, by which the guest tells its pings apart.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// The sequence number.
    pub fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }
}

/// An echo request's header without checksum and identifier: a ping socket puts in its own (icmp(7)).
pub fn echo_request(to: IpAddr, sequence: u16) -> [u8; ECHO_HEADER_LEN] {
    let [high, low] = sequence.to_be_bytes();
    [names(to).request, 0, 0, 0, 0, 0, high, low]
}

/// The sequence number of a header that a ping socket received from `from`; `None` if it is no echo reply's.
pub fn echo_reply_sequence(from: IpAddr, header: &[u8; ECHO_HEADER_LEN]) -> Option<u16> {
    (header[0] == names(from).reply).then(|| u16::from_be_bytes([header[6], header[7]]))
}

/// Writes the headers of an echo reply with `len` bytes of data behind them, whose folded sum is `sum`.
pub fn echo_reply(envelope: &Envelope, id: u16, sequence: u16, (len, sum): (u32, u16)) -> HeaderBytes {
    let names = names(envelope.src);
    let total = ECHO_HEADER_LEN as u32 + len;
    let mut message = [names.reply, 0, 0, 0, 0, 0, 0, 0];
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = icmp_sum(envelope.src, envelope.dst, total).bytes(&message).word(sum).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = HeaderBytes::new(&[]);
    network_headers(&mut out, envelope, names.protocol, total);
    out.append(&message);
    out
}

/// An ICMP error, in the numbers of its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Type: 3 destination unreachable, 11 time exceeded (RFC 792); 1, 2 packet too big, 3 time exceeded (RFC 4443).
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The second word of the header: the MTU of the next hop (RFC 1191 §4, RFC 4443 §3.2), else 0.
    pub word: u32,
}

impl IcmpError {
    /// An error of a router or host, if it is one that a guest is told about its datagram.
    pub fn of_world(to: IpAddr, kind: u8, code: u8, mtu: u32) -> Option<IcmpError> {
        let told = match to {
            IpAddr::V4(_) => matches!(kind, 3 | 11),
            IpAddr::V6(_) => matches!(kind, 1..=3),
        };
        let too_big = IcmpError::too_big(to, mtu);
        let is_too_big = (kind, code) == (too_big.kind, too_big.code);
        told.then_some(if is_too_big { too_big } else { IcmpError { kind, code, word: 0 } })
    }

    /// The destination cannot be reached; `code` is RFC 792's: 0 net, 1 host, 3 port, 13 prohibited (RFC 1812 §5.2.7.1).
    pub fn unreachable(to: IpAddr, code: u8) -> IcmpError {
        match (to, code) {
            (IpAddr::V4(_), code) => IcmpError { kind: 3, code, word: 0 },
            // RFC 4443 §3.1: 0 no route, 1 prohibited, 3 address unreachable, 4 port unreachable.
            (IpAddr::V6(_), 3) => IcmpError { kind: 1, code: 4, word: 0 },
            (IpAddr::V6(_), 13) => IcmpError { kind: 1, code: 1, word: 0 },
            (IpAddr::V6(_), 1) => IcmpError { kind: 1, code: 3, word: 0 },
            (IpAddr::V6(_), _) => IcmpError { kind: 1, code: 0, word: 0 },
        }
    }

    /// The packet does not fit an MTU on its way.
    pub fn too_big(to: IpAddr, mtu: u32) -> IcmpError {
        match to {
            IpAddr::V4(_) => IcmpError { kind: 3, code: 4, word: mtu.min(0xffff) },
            IpAddr::V6(_) => IcmpError { kind: 2, code: 0, word: mtu },
        }
    }
}

/// Puts the guest's own identifier into the header of an echo request that a ping socket sent, the checksum changed to match
/// (RFC 1624 §3).
pub fn restore_echo_id(mut header: [u8; ECHO_HEADER_LEN], id: u16) -> [u8; ECHO_HEADER_LEN] {
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let sum = Sum::default().word(!word(2)).word(!word(4)).word(id).finish();
    header[2..4].copy_from_slice(&sum.to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header
}

/// A guest's packet that an ICMP error is about: its IP header is rebuilt from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The guest's address.
    pub guest: IpAddr,
    /// Where it was sent.
    pub remote: IpAddr,
    protocol: u8,
    /// Its first eight bytes behind the IP header (RFC 792).
    first: [u8; 8],
    /// Bytes behind the IP header.
    len: u32,
}

impl Culprit {
    /// An echo request of `len` bytes with its header, which was `header`.
    pub fn echo((guest, remote): (IpAddr, IpAddr), header: [u8; ECHO_HEADER_LEN], len: u32) -> Culprit {
        Culprit { guest, remote, protocol: names(remote).protocol, first: header, len }
    }

    /// A UDP datagram of `len` bytes with its header, which was `header`.
    pub fn udp((guest, remote): (IpAddr, IpAddr), header: [u8; 8], len: u32) -> Culprit {
        Culprit { guest, remote, protocol: PROTOCOL_UDP, first: header, len }
    }

    /// A TCP segment with this sequence number, its payload not counted.
    pub fn tcp(guest: SocketAddr, remote: SocketAddr, seq: u32) -> Culprit {
        let mut first = [0; 8];
        first[..2].copy_from_slice(&guest.port().to_be_bytes());
        first[2..4].copy_from_slice(&remote.port().to_be_bytes());
        first[4..].copy_from_slice(&seq.to_be_bytes());
        Culprit { guest: guest.ip(), remote: remote.ip(), protocol: PROTOCOL_TCP, first, len: 20 }
    }
}

/// Writes an ICMP error: quoted are the culprit's IP header and first eight bytes.
pub fn icmp_error(envelope: &Envelope, error: &IcmpError, about: &Culprit) -> HeaderBytes {
    let protocol = names(about.remote).protocol;
    let mut inner = HeaderBytes::new(&[]);
    let quoted = Envelope { src: about.guest, dst: about.remote, ..*envelope };
    network_headers(&mut inner, &quoted, about.protocol, about.len);
    inner.append(&about.first);
    let quoted = inner.as_slice().get(ETHERNET_LEN..).unwrap_or_default();
    let mut header = [error.kind, error.code, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&error.word.to_be_bytes());
    let total = (header.len() + quoted.len()) as u32;
    let sum = icmp_sum(envelope.src, envelope.dst, total).bytes(&header).bytes(quoted).finish();
    header[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut out = HeaderBytes::new(&[]);
    network_headers(&mut out, envelope, protocol, total);
    out.append(&header);
    out.append(quoted);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Frame, Icmp, MacAddr};

    fn envelope() -> Envelope {
        Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: IpAddr::from([198, 51, 100, 2]),
            dst: IpAddr::from([192, 0, 2, 2]),
        }
    }

    fn parse(frame: &[u8]) -> Ip {
        let Content::Ip(ip) = Frame::parse(frame, frame.len() as u32).unwrap().content else { panic!() };
        ip
    }

    #[test]
    fn a_reply_has_the_guests_id_and_a_whole_checksum() {
        let data = [9u8, 8, 7];
        let sum = Sum::default().bytes(&data).fold();
        let reply = echo_reply(&envelope(), 0xabcd, 7, (3, sum));
        let frame = [reply.as_slice(), &data].concat();
        assert!(Sum::default().bytes(&frame[34..]).is_valid());
        let ip = parse(&frame);
        assert_eq!((ip.src, ip.dst, ip.transport_len), (envelope().src, envelope().dst, 11));
        assert_eq!(ip.transport, Transport::Icmp(Icmp { kind: 0, code: 0 }));
        assert_eq!(frame[38..42], [0xab, 0xcd, 0, 7]);
    }

    #[test]
    fn a_request_is_read_and_other_messages_are_not() {
        let mut frame = echo_reply(&envelope(), 5, 6, (0, 0)).as_slice().to_vec();
        assert_eq!(EchoRequest::read(&frame, &parse(&frame)), Ok(None));
        frame[34] = 8;
        let request = EchoRequest::read(&frame, &parse(&frame)).unwrap().unwrap();
        assert_eq!((request.id(), request.sequence(), request.dont_fragment), (5, 6, true));
        frame[35] = 1;
        assert_eq!(EchoRequest::read(&frame, &parse(&frame)), Err(DropReason::BadHeader));
        frame[35] = 0;
        assert_eq!(EchoRequest::read(&frame[..40], &parse(&frame)), Err(DropReason::Truncated));
    }

    #[test]
    fn the_kernels_id_is_exchanged_for_the_guests_under_a_right_checksum() {
        for id in [0, 1, 0x1234, 0xfffe, 0xffff] {
            let mut sent = [8, 0, 0, 0, 0x77, 0x66, 0, 9];
            let sum = Sum::default().bytes(&sent).finish().to_be_bytes();
            sent[2..4].copy_from_slice(&sum);
            let back = restore_echo_id(sent, id);
            assert!(Sum::default().bytes(&back).is_valid());
            assert_eq!(back[4..6], id.to_be_bytes());
        }
    }

    #[test]
    fn an_error_quotes_the_request() {
        let request = [8, 0, 1, 2, 3, 4, 5, 6];
        let router = Envelope { src: IpAddr::from([203, 0, 113, 1]), ..envelope() };
        let ends = (envelope().dst, envelope().src);
        let frame = icmp_error(&router, &IcmpError::too_big(ends.1, 1400), &Culprit::echo(ends, request, 64));
        let frame = frame.as_slice();
        let ip = parse(frame);
        assert_eq!(ip.transport, Transport::Icmp(Icmp { kind: 3, code: 4 }));
        assert!(Sum::default().bytes(&frame[34..]).is_valid() && Sum::default().bytes(&frame[42..62]).is_valid());
        assert_eq!(frame[38..42], [0, 0, 5, 120]);
        assert_eq!((&frame[54..58], &frame[58..62]), (&[192, 0, 2, 2][..], &[198, 51, 100, 2][..]));
        assert_eq!((&frame[44..46], &frame[62..]), (&[0, 84][..], &request[..]));
    }

    #[test]
    fn an_error_about_a_segment_names_it_in_both_families() {
        for (guest, remote, code) in
            [("192.0.2.2:7", "198.51.100.1:80", 1), ("[2001:db8::2]:7", "[2001:db8:1::1]:80", 3)]
        {
            let (guest, remote): (SocketAddr, SocketAddr) = (guest.parse().unwrap(), remote.parse().unwrap());
            let envelope = Envelope { src: remote.ip(), dst: guest.ip(), ..envelope() };
            let error = IcmpError::unreachable(remote.ip(), 1);
            let frame = icmp_error(&envelope, &error, &Culprit::tcp(guest, remote, 9));
            let ip = parse(frame.as_slice());
            let start = usize::from(ip.transport_offset);
            assert!(icmp_sum(ip.src, ip.dst, ip.transport_len).bytes(&frame.as_slice()[start..]).is_valid());
            let Transport::Icmp(icmp) = ip.transport else { panic!() };
            assert_eq!(icmp.code, code);
            assert!(frame.as_slice().ends_with(&[0, 7, 0, 80, 0, 0, 0, 9]));
        }
    }

    #[test]
    fn errors_are_told_by_the_numbers_of_their_family() {
        let [v4, v6] = ["198.51.100.2", "2001:db8::2"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(IcmpError::of_world(v4, 5, 0, 0), None, "a redirect is none of the guest's");
        assert_eq!(IcmpError::of_world(v4, 11, 0, 0), Some(IcmpError { kind: 11, code: 0, word: 0 }));
        assert_eq!(IcmpError::of_world(v4, 3, 4, 1300), Some(IcmpError { kind: 3, code: 4, word: 1300 }));
        assert_eq!(IcmpError::of_world(v6, 2, 0, 1300), Some(IcmpError { kind: 2, code: 0, word: 1300 }));
        assert_eq!(IcmpError::of_world(v6, 11, 0, 0), None);
        assert_eq!(IcmpError::unreachable(v4, 3), IcmpError { kind: 3, code: 3, word: 0 });
        assert_eq!(IcmpError::unreachable(v6, 3), IcmpError { kind: 1, code: 4, word: 0 });
        assert_eq!(IcmpError::unreachable(v6, 13), IcmpError { kind: 1, code: 1, word: 0 });
    }

    #[test]
    fn the_sum_of_icmpv6_covers_the_addresses() {
        let [src, dst] = ["2001:db8::1", "2001:db8::2"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(icmp_sum(src, dst, 8), Sum::default().pseudo(src, dst, 58, 8));
    }
}
