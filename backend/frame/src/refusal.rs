//! A guest's ICMP message that says "nobody listens there" about a datagram which it got (RFC 792, RFC 4443 §3.1).
use crate::{Icmp, Ip, PROTOCOL_UDP, Transport, wire};
use std::net::{IpAddr, SocketAddr};

/// Bytes of an ICMP error's header; the packet that it is about follows.
const ERROR_HEADER: usize = 8;

/// The datagram that a guest's port unreachable is about: the guest's end and the other one. `head` are the frame's leading
/// bytes. `None`: the frame says something else, or quotes a packet that was not sent to its own sender.
pub fn refused_datagram(head: &[u8], ip: &Ip) -> Option<(SocketAddr, SocketAddr)> {
    let Transport::Icmp(Icmp { kind, code }) = ip.transport else { return None };
    let wanted = if ip.src.is_ipv4() { (3, 3) } else { (1, 4) };
    if (kind, code) != wanted {
        return None;
    }
    let at = usize::from(ip.transport_offset) + ERROR_HEADER;
    let (src, dst, protocol, transport) = match ip.src {
        IpAddr::V4(_) => {
            let quoted = wire::Ipv4::at(head, at)?;
            let len = usize::from(quoted.version_ihl & 15) * 4;
            (IpAddr::from(quoted.src), IpAddr::from(quoted.dst), quoted.protocol, at + len.max(wire::Ipv4::LEN))
        }
        IpAddr::V6(_) => {
            let quoted = wire::Ipv6::at(head, at)?;
            (IpAddr::from(quoted.src), IpAddr::from(quoted.dst), quoted.next_header, at + wire::Ipv6::LEN)
        }
    };
    let udp = wire::Udp::at(head, transport)?;
    let ends = (SocketAddr::new(dst, udp.dst.get()), SocketAddr::new(src, udp.src.get()));
    (protocol == PROTOCOL_UDP && dst == ip.src).then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Culprit, Envelope, Frame, IcmpError, MacAddr, icmp_error};

    fn read(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
        let Content::Ip(ip) = Frame::parse(frame, frame.len() as u32).unwrap().content else { panic!() };
        refused_datagram(frame, &ip)
    }

    /// What `guest` says of a datagram that `remote` sent to it.
    fn complaint(guest: IpAddr, remote: IpAddr, code: u8) -> Vec<u8> {
        let envelope = Envelope { src_mac: MacAddr([2; 6]), dst_mac: MacAddr([4; 6]), src: guest, dst: remote };
        let about = Culprit::udp((remote, guest), [0, 7, 0, 80, 0, 12, 0, 0], 12);
        icmp_error(&envelope, &IcmpError::unreachable(remote, code), &about).as_slice().to_vec()
    }

    #[test]
    fn the_refused_datagram_is_named_in_both_families() {
        for (guest, remote) in [("192.0.2.2", "198.51.100.1"), ("2001:db8::2", "2001:db8:1::1")] {
            let (guest, remote): (IpAddr, IpAddr) = (guest.parse().unwrap(), remote.parse().unwrap());
            let ends = (SocketAddr::new(guest, 80), SocketAddr::new(remote, 7));
            let frame = complaint(guest, remote, 3);
            assert_eq!(read(&frame), Some(ends));
            assert_eq!(read(&complaint(guest, remote, 1)), None, "a host that cannot be reached is another matter");
            let (Some(end), start) = (frame.len().checked_sub(8), frame.len() - 30) else { panic!() };
            let Content::Ip(ip) = Frame::parse(&frame, frame.len() as u32).unwrap().content else { panic!() };
            (start..=end).for_each(|cut| assert_eq!(refused_datagram(&frame[..cut], &ip), None, "{cut}"));
        }
    }

    #[test]
    fn a_quoted_packet_that_was_somebody_elses_is_nobodys() {
        let [guest, remote, other] = [[192, 0, 2, 2], [198, 51, 100, 1], [192, 0, 2, 3]].map(IpAddr::from);
        let envelope = Envelope { src_mac: MacAddr([2; 6]), dst_mac: MacAddr([4; 6]), src: guest, dst: remote };
        let unreachable = IcmpError::unreachable(remote, 3);
        let stranger = icmp_error(&envelope, &unreachable, &Culprit::udp((remote, other), [0; 8], 8));
        assert_eq!(read(stranger.as_slice()), None);
        let ends = (SocketAddr::new(remote, 1), SocketAddr::new(guest, 2));
        assert_eq!(read(icmp_error(&envelope, &unreachable, &Culprit::tcp(ends.0, ends.1, 3)).as_slice()), None);
    }
}
