//! DHCPv6 (RFC 8415): each guest gets the address of its file, for ever, and nobody else's.
mod format;

use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::Names;
use crate::switch::{Network, neighbor};
use format::{Message, Request, addresses, option};
use std::net::{IpAddr, Ipv6Addr};
use vonic_frame::{Content, DropReason, Envelope, MacAddr, Transport, VnetHeader, udp_frame};

/// The longest message looked at: an Ethernet frame's worth.
const MESSAGE_MAX: usize = 1500;
/// Server and client port (RFC 8415 §7.2).
const PORTS: (u16, u16) = (547, 546);
/// A lease without end (RFC 8415 §7.7).
const INFINITE: u32 = u32::MAX;
/// The longest DUID, with its type (RFC 8415 §11.1).
const DUID_MAX: usize = 130;

/// Message types (RFC 8415 §7.3).
mod message {
    pub const SOLICIT: u8 = 1;
    pub const ADVERTISE: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RENEW: u8 = 5;
    pub const REBIND: u8 = 6;
    pub const REPLY: u8 = 7;
    pub const RELEASE: u8 = 8;
    pub const DECLINE: u8 = 9;
    pub const INFORMATION_REQUEST: u8 = 11;
}

/// Status codes (RFC 8415 §21.13).
mod status {
    pub const SUCCESS: u16 = 0;
    pub const NO_BINDING: u16 = 3;
    pub const NOT_ON_LINK: u16 = 4;
}

/// Answers a guest that has an address. Others are told nothing, and neither is any other guest: none may be a server.
pub fn handle(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    let Content::Ip(ip) = inbound.frame.content else { return Ok(false) };
    let Transport::Udp(udp) = ip.transport else { return Ok(false) };
    if !neighbor::is_dhcp6_request(&ip) {
        return Ok(false);
    }
    let (Some(address), IpAddr::V6(client)) = (port.spec.address6, ip.src) else { return Ok(true) };
    let gateway = network.spec.v6.gateway.filter(|gateway| network.spec.serves_names(*gateway));
    let server = Server {
        address,
        prefix: network.spec.v6.subnet,
        duid: duid(network.spec.gateway_mac),
        resolver: gateway,
        names: &network.spec.names,
        hostname: port.spec.hostname.as_deref().unwrap_or_default(),
    };
    let mut request = [0u8; MESSAGE_MAX];
    let len = usize::from(udp.payload_len).min(MESSAGE_MAX);
    let offset = inbound.start + u32::from(ip.transport_offset) + 8;
    let got = inbound.burst.read(inbound.chain, offset, &mut request[..len]);
    let mut answer = Message::default();
    if server.answer(&request[..got], &mut answer)?.is_none() {
        return Ok(true);
    }
    let envelope = Envelope {
        src_mac: network.spec.gateway_mac,
        dst_mac: inbound.frame.src,
        src: network.spec.gateway_link_local().into(),
        dst: client.into(),
    };
    let mut out = [0u8; MESSAGE_MAX];
    let n = udp_frame(&envelope, PORTS, answer.as_slice(), &mut out).ok_or(DropReason::Oversized)?;
    port.deliver(&VnetHeader::default(), &out[..n], None).map(|()| true)
}

/// The server's name, of its link-layer address (RFC 8415 §11.4): the same wherever the network is.
fn duid(mac: MacAddr) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// What one guest is told.
struct Server<'a> {
    address: Ipv6Addr,
    prefix: Option<vonic_frame::Subnet>,
    duid: [u8; 10],
    /// The gateway, where it answers questions for names.
    resolver: Option<IpAddr>,
    names: &'a Names,
    hostname: &'a str,
}

/// Of a client's name (RFC 4704 §4.1): the server is to register its addresses; it does so against the client's will; nobody shall.
const NAME_BY_SERVER: u8 = 1;
const NAME_OVERRIDDEN: u8 = 2;
const NAME_UNREGISTERED: u8 = 4;

impl Server<'_> {
    /// Writes the answer to a message; `None`: it gets none.
    fn answer(&self, bytes: &[u8], out: &mut Message) -> Result<Option<()>, DropReason> {
        let request = Request::read(bytes)?;
        let client = request.find(option::CLIENT_ID);
        if !self.is_for_us(&request) || client.is_some_and(|duid| duid.len() > DUID_MAX) {
            return Ok(None);
        }
        let rapid = request.kind == message::SOLICIT && request.find(option::RAPID_COMMIT).is_some();
        let kind = if request.kind == message::SOLICIT && !rapid { message::ADVERTISE } else { message::REPLY };
        out.put(&[kind])?;
        out.put(&request.transaction)?;
        out.option(option::SERVER_ID, &self.duid)?;
        client.map_or(Ok(()), |duid| out.option(option::CLIENT_ID, duid))?;
        if rapid {
            out.option(option::RAPID_COMMIT, &[])?;
        }
        match request.kind {
            message::SOLICIT | message::REQUEST | message::RENEW | message::REBIND => self.grant(&request, out)?,
            message::RELEASE | message::DECLINE => self.let_go(&request, out)?,
            message::CONFIRM => match self.confirms(&request) {
                Some(true) => out.status(status::SUCCESS)?,
                Some(false) => out.status(status::NOT_ON_LINK)?,
                None => return Ok(None),
            },
            _ => {}
        }
        if !matches!(request.kind, message::RELEASE | message::DECLINE | message::CONFIRM) {
            self.tell_names(&request, out)?;
        }
        Ok(Some(()))
    }

    /// Tells what the client wants to hear of names: what it lists; without a list, everything (RFC 8415 §21.7).
    fn tell_names(&self, request: &Request<'_>, out: &mut Message) -> Result<(), DropReason> {
        let list = request.find(option::REQUEST);
        let lists = |code: u16| list.is_some_and(|l| l.chunks_exact(2).any(|listed| listed == code.to_be_bytes()));
        let wants = |code: u16| list.is_none() || lists(code);
        if let Some(IpAddr::V6(gateway)) = self.resolver.filter(|_| wants(option::RESOLVERS)) {
            out.option(option::RESOLVERS, &gateway.octets())?;
        }
        if !self.names.search.is_empty() && wants(option::SEARCH) {
            out.option(option::SEARCH, &self.names.search)?;
        }
        // Of its name only those hear that speak of it (RFC 4704 §6).
        let own = request.find(option::CLIENT_NAME);
        if self.hostname.is_empty() || !(own.is_some() || lists(option::CLIENT_NAME)) {
            return Ok(());
        }
        let overridden = own.and_then(|data| data.first()).is_some_and(|flags| flags & NAME_BY_SERVER != 0);
        out.nested(option::CLIENT_NAME, |out| {
            out.put(&[NAME_UNREGISTERED | if overridden { NAME_OVERRIDDEN } else { 0 }])?;
            out.put(&[self.hostname.len() as u8])?;
            out.put(self.hostname.as_bytes())?;
            // A name without its domain has no root at its end (RFC 4704 §4.2); the first domain to search is the guest's.
            let end = self.names.search.iter().position(|length| *length == 0);
            end.map_or(Ok(()), |end| out.put(&self.names.search[..=end]))
        })
    }

    /// Who must name the client, who must name this server, and who must not name any (RFC 8415 §16).
    fn is_for_us(&self, request: &Request<'_>) -> bool {
        let (client, server) = (request.find(option::CLIENT_ID).is_some(), request.find(option::SERVER_ID));
        match request.kind {
            message::SOLICIT | message::CONFIRM | message::REBIND => client && server.is_none(),
            message::REQUEST | message::RENEW | message::RELEASE | message::DECLINE => {
                client && server == Some(&self.duid)
            }
            message::INFORMATION_REQUEST => {
                server.is_none_or(|duid| duid == self.duid) && request.associations().next().is_none()
            }
            _ => false,
        }
    }

    /// Leases the address in the first association. Others get none; whatever else they name is over (RFC 8415 §18.3.4).
    fn grant(&self, request: &Request<'_>, out: &mut Message) -> Result<(), DropReason> {
        for (n, (iaid, association)) in request.associations().enumerate().take(4) {
            out.nested(option::IA_NA, |out| {
                out.put(&iaid)?;
                let times = if n == 0 { INFINITE } else { 0 };
                out.put(&times.to_be_bytes())?;
                out.put(&times.to_be_bytes())?;
                if n == 0 {
                    put_address(out, self.address, INFINITE)?;
                } else {
                    // NoAddrsAvail
                    out.status(2)?;
                }
                let others = addresses(association).filter(|address| n > 0 || *address != self.address).take(4);
                let renews = matches!(request.kind, message::RENEW | message::REBIND);
                for other in others.filter(|_| renews) {
                    put_address(out, other, 0)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The guest gives its address back, or says that another has it; it is its own all the same (RFC 8415 §18.3.7, §18.3.8).
    fn let_go(&self, request: &Request<'_>, out: &mut Message) -> Result<(), DropReason> {
        out.status(status::SUCCESS)?;
        for (iaid, association) in request.associations().take(4) {
            if !addresses(association).any(|address| address == self.address) {
                out.nested(option::IA_NA, |out| {
                    out.put(&iaid)?;
                    out.put(&[0; 8])?;
                    out.status(status::NO_BINDING)
                })?;
            }
        }
        Ok(())
    }

    /// Whether the addresses that the guest has belong here; `None`: it names none (RFC 8415 §18.3.3).
    fn confirms(&self, request: &Request<'_>) -> Option<bool> {
        let all = || request.associations().flat_map(|(_, association)| addresses(association));
        all().next()?;
        Some(all().all(|address| self.prefix.is_some_and(|prefix| prefix.contains(address.into()))))
    }
}

fn put_address(out: &mut Message, address: Ipv6Addr, lifetime: u32) -> Result<(), DropReason> {
    out.nested(option::IA_ADDRESS, |out| {
        out.put(&address.octets())?;
        out.put(&lifetime.to_be_bytes())?;
        out.put(&lifetime.to_be_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::format::options;
    use super::*;

    const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 2];
    const IAID: [u8; 4] = [1, 2, 3, 4];

    static NAMES: Names = Names { resolvers: None, domain: String::new(), search: Vec::new() };

    fn server() -> Server<'static> {
        Server {
            address: "2001:db8::2".parse().unwrap(),
            prefix: "2001:db8::/64".parse().ok(),
            duid: duid(MacAddr([2, 0, 0, 0, 0, 1])),
            resolver: None,
            names: &NAMES,
            hostname: "web1",
        }
    }

    fn request(kind: u8, with_server: bool, addresses: &[&str], rapid: bool) -> Vec<u8> {
        let mut out = Message::default();
        out.put(&[kind, 7, 8, 9]).unwrap();
        out.option(option::CLIENT_ID, &CLIENT).unwrap();
        if with_server {
            out.option(option::SERVER_ID, &server().duid).unwrap();
        }
        if rapid {
            out.option(option::RAPID_COMMIT, &[]).unwrap();
        }
        if kind != message::INFORMATION_REQUEST {
            let fill = |out: &mut Message| {
                out.put(&IAID)?;
                out.put(&[0; 8])?;
                addresses.iter().try_for_each(|address| put_address(out, address.parse().unwrap(), 100))
            };
            out.nested(option::IA_NA, fill).unwrap();
        }
        out.as_slice().to_vec()
    }

    /// The answer's type, the addresses in it with their lifetimes, its own status, and the status of its association.
    type Answer = (u8, Vec<(String, u32)>, Option<u16>, Option<u16>);

    fn ask(bytes: &[u8]) -> Option<Answer> {
        let mut out = Message::default();
        server().answer(bytes, &mut out).unwrap()?;
        let answer = Request::read(out.as_slice()).unwrap();
        assert_eq!(answer.transaction, [7, 8, 9]);
        assert_eq!(answer.find(option::SERVER_ID), Some(&server().duid[..]));
        assert_eq!(answer.find(option::CLIENT_ID), Some(&CLIENT[..]));
        let status =
            |data: &[u8]| options(data).find(|o| o.0 == option::STATUS).map(|o| u16::from_be_bytes([o.1[0], o.1[1]]));
        let (iaid, association) = answer.associations().next().unwrap_or((IAID, &[]));
        assert_eq!(iaid, IAID);
        let leased = options(association).filter(|o| o.0 == option::IA_ADDRESS).map(|(_, data)| {
            assert_eq!(data.len(), 24);
            let octets: [u8; 16] = data[..16].try_into().unwrap();
            (Ipv6Addr::from(octets).to_string(), u32::from_be_bytes(data[20..].try_into().unwrap()))
        });
        Some((answer.kind, leased.collect(), status(answer.options), status(association)))
    }

    #[test]
    fn each_message_has_its_answer() {
        use message::*;
        let own = || vec![("2001:db8::2".to_string(), INFINITE)];
        let moved = || [own(), vec![("2001:db8::9".to_string(), 0)]].concat();
        let cases = [
            (request(SOLICIT, false, &[], false), Some((ADVERTISE, own(), None, None))),
            (request(SOLICIT, false, &["2001:db8::9"], false), Some((ADVERTISE, own(), None, None))),
            (request(SOLICIT, false, &[], true), Some((REPLY, own(), None, None))),
            (request(REQUEST, true, &["2001:db8::2"], false), Some((REPLY, own(), None, None))),
            (request(RENEW, true, &["2001:db8::2"], false), Some((REPLY, own(), None, None))),
            (request(REBIND, false, &["2001:db8::9"], false), Some((REPLY, moved(), None, None))),
            (request(CONFIRM, false, &["2001:db8::2"], false), Some((REPLY, vec![], Some(0), None))),
            (request(CONFIRM, false, &["2001:db9::2"], false), Some((REPLY, vec![], Some(4), None))),
            (request(CONFIRM, false, &[], false), None),
            (request(RELEASE, true, &["2001:db8::2"], false), Some((REPLY, vec![], Some(0), None))),
            (request(DECLINE, true, &["2001:db8::9"], false), Some((REPLY, vec![], Some(0), Some(3)))),
            (request(INFORMATION_REQUEST, false, &[], false), Some((REPLY, vec![], None, None))),
            // Meant for nobody, or for another server (RFC 8415 §16).
            (request(SOLICIT, true, &[], false), None),
            (request(REQUEST, false, &["2001:db8::2"], false), None),
            (request(ADVERTISE, true, &[], false), None),
            (request(12, true, &[], false), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(ask(&bytes), expected, "{bytes:02x?}");
        }
        let mut other = request(RENEW, true, &["2001:db8::2"], false);
        other[4 + 14 + 13] ^= 1;
        assert_eq!(ask(&other), None, "another server");
    }

    #[test]
    fn names_are_told_to_those_who_ask() {
        use message::*;
        let names = Names { search: b"\x07example\x03org\0\x01x\0".to_vec(), ..Names::default() };
        let gateway: IpAddr = "2001:db8::1".parse().unwrap();
        let server = || Server { resolver: Some(gateway), names: &names, ..server() };
        let ask = |kind, more: &[(u16, &[u8])], server: &Server<'_>| {
            let mut bytes = Message::default();
            bytes.put(&request(kind, matches!(kind, REQUEST | RELEASE), &["2001:db8::2"], false)).unwrap();
            more.iter().for_each(|(code, data)| bytes.option(*code, data).unwrap());
            let mut out = Message::default();
            server.answer(bytes.as_slice(), &mut out).unwrap().unwrap();
            let answer = Request::read(out.as_slice()).unwrap();
            [option::RESOLVERS, option::SEARCH, option::CLIENT_NAME].map(|code| answer.find(code).map(<[u8]>::to_vec))
        };
        let resolver = || Some(vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let search = || Some(names.search.clone());
        for kind in [SOLICIT, REQUEST, INFORMATION_REQUEST] {
            assert_eq!(ask(kind, &[], &server()), [resolver(), search(), None], "{kind}");
        }
        assert_eq!(ask(RELEASE, &[], &server()), [None, None, None]);
        assert_eq!(ask(REQUEST, &[(option::REQUEST, &[0, 24])], &server()), [None, search(), None]);
        let name = |flags: u8| Some([&[flags, 4][..], b"web1\x07example\x03org\0"].concat());
        assert_eq!(ask(REQUEST, &[(option::REQUEST, &[0, 23, 0, 39])], &server()), [resolver(), None, name(4)]);
        assert_eq!(ask(REQUEST, &[(option::CLIENT_NAME, &[1, 1, b'a'])], &server()), [resolver(), search(), name(6)]);
        let bare = Server { names: &NAMES, resolver: None, ..server() };
        let alone = Some(b"\x04\x04web1".to_vec());
        assert_eq!(ask(REQUEST, &[(option::CLIENT_NAME, &[0])], &bare), [None, None, alone]);
        let nameless = Server { hostname: "", ..server() };
        assert_eq!(ask(REQUEST, &[(option::CLIENT_NAME, &[0])], &nameless), [resolver(), search(), None]);
    }

    #[test]
    fn no_bytes_panic_or_overflow_the_answer() {
        let good = request(message::RENEW, true, &["2001:db8::9"; 9], false);
        for len in 0..good.len() {
            let _ = server().answer(&good[..len], &mut Message::default());
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[len] = value;
                let _ = server().answer(&bytes, &mut Message::default());
            }
        }
        let many = [&good[..], &good[4 + 14 + 14..], &good[4 + 14 + 14..], &good[4 + 14 + 14..]].concat();
        assert_eq!(server().answer(&many, &mut Message::default()), Ok(Some(())));
        assert_eq!(server().answer(&[1, 2], &mut Message::default()), Err(DropReason::BadHeader));
    }
}
