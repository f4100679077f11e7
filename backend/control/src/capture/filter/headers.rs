//! What a filter can ask of a frame, read from its first bytes. Whatever they are, this ends: what is not there is absent.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vonic_frame::{ETHERNET_LEN, MacAddr, PROTOCOL_TCP, PROTOCOL_UDP};

/// EtherTypes (IEEE 802).
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
const VLANS: [u16; 2] = [0x8100, 0x88a8];
const VLAN_LEN: usize = 4;

/// IPv6 extension headers with a length in them (RFC 8200 §4), and the one without.
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;
/// More of them than this has no packet.
const EXTENSIONS_MAX: usize = 8;
/// SCTP (RFC 9260) has its ports where TCP and UDP have theirs.
const PROTOCOL_SCTP: u8 = 132;

/// A frame's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Headers {
    /// Source and destination.
    pub macs: Option<[MacAddr; 2]>,
    /// Behind VLAN tags.
    pub ethertype: Option<u16>,
    /// Source and destination: of a packet, or of an ARP message sender and target.
    pub addresses: Option<[IpAddr; 2]>,
    /// The protocol over IP, behind extension headers.
    pub protocol: Option<u8>,
    /// Source and destination; fragments behind the first have none.
    pub ports: Option<[u16; 2]>,
}

impl Headers {
    pub(super) fn read(frame: &[u8]) -> Headers {
        let mut headers = Headers::default();
        let Some((ethernet, mut rest)) = frame.split_first_chunk::<ETHERNET_LEN>() else { return headers };
        let [dst @ .., _, _, _, _, _, _, _, _] = *ethernet;
        let src = [6, 7, 8, 9, 10, 11].map(|i: usize| ethernet[i]);
        headers.macs = Some([MacAddr(src), MacAddr(dst)]);
        let mut ethertype = u16::from_be_bytes([ethernet[12], ethernet[13]]);
        while VLANS.contains(&ethertype)
            && let Some((tag, behind)) = rest.split_first_chunk::<VLAN_LEN>()
        {
            (ethertype, rest) = (u16::from_be_bytes([tag[2], tag[3]]), behind);
        }
        headers.ethertype = Some(ethertype);
        // What is incomplete has as much as there is.
        let _ = match ethertype {
            IPV4 => headers.ipv4(rest),
            IPV6 => headers.ipv6(rest),
            ARP => headers.arp(rest),
            _ => None,
        };
        headers
    }

    /// RFC 791 §3.1.
    fn ipv4(&mut self, packet: &[u8]) -> Option<()> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        self.addresses = Some([12, 16].map(|at| ipv4(&fixed[at..])));
        self.protocol = Some(fixed[9]);
        let is_first = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff == 0;
        self.transport(packet.get(usize::from(fixed[0] & 15) * 4..)?, is_first)
    }

    /// RFC 8200 §3 and §4.
    fn ipv6(&mut self, packet: &[u8]) -> Option<()> {
        let (fixed, mut rest) = packet.split_first_chunk::<40>()?;
        self.addresses = Some([8, 24].map(|at| ipv6(&fixed[at..])));
        let (mut protocol, mut is_first) = (fixed[6], true);
        for _ in 0..EXTENSIONS_MAX {
            self.protocol = Some(protocol);
            let len = match protocol {
                FRAGMENT => {
                    is_first &= u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) & 0xfff8 == 0;
                    8
                }
                known if EXTENSIONS.contains(&known) => 8 + 8 * usize::from(*rest.get(1)?),
                _ => break,
            };
            protocol = *rest.first()?;
            rest = rest.get(len..)?;
        }
        self.transport(rest, is_first)
    }

    fn transport(&mut self, header: &[u8], is_first: bool) -> Option<()> {
        let has_ports = matches!(self.protocol?, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP) && is_first;
        let ports: &[u8; 4] = header.first_chunk().filter(|_| has_ports)?;
        self.ports = Some([u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])]);
        Some(())
    }

    /// RFC 826: of IPv4 over Ethernet.
    fn arp(&mut self, message: &[u8]) -> Option<()> {
        let message: &[u8; 28] = message.first_chunk()?;
        if message[..6] == [0, 1, 8, 0, 6, 4] {
            self.addresses = Some([14, 24].map(|at| ipv4(&message[at..])));
        }
        Some(())
    }
}

fn ipv4(bytes: &[u8]) -> IpAddr {
    bytes.first_chunk::<4>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |bytes| Ipv4Addr::from(*bytes).into())
}

fn ipv6(bytes: &[u8]) -> IpAddr {
    bytes.first_chunk::<16>().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |bytes| Ipv6Addr::from(*bytes).into())
}
