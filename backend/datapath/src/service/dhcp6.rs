//! DHCPv6 (RFC 8415): each guest gets the address of its file, for ever, and nobody else's.
use crate::offload::Inbound;
use crate::port::Port;
use crate::switch::{Network, neighbor};
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

/// Options (RFC 8415 §21).
mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_ADDRESS: u16 = 5;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
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
    let server = Server { address, prefix: network.spec.v6.subnet, duid: duid(network.spec.gateway_mac) };
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

/// A message under construction.
struct Message {
    bytes: [u8; 512],
    len: usize,
}

impl Default for Message {
    fn default() -> Message {
        Message { bytes: [0; 512], len: 0 }
    }
}

impl Message {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        let end = self.len + bytes.len();
        self.bytes.get_mut(self.len..end).ok_or(DropReason::Oversized)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn put_u16(&mut self, value: u16) -> Result<(), DropReason> {
        self.put(&value.to_be_bytes())
    }

    fn option(&mut self, code: u16, data: &[u8]) -> Result<(), DropReason> {
        self.put_u16(code)?;
        self.put_u16(data.len() as u16)?;
        self.put(data)
    }

    /// An option that holds others: `fill` writes what is in it.
    fn nested(
        &mut self,
        code: u16,
        fill: impl FnOnce(&mut Message) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        self.put_u16(code)?;
        let at = self.len;
        self.put_u16(0)?;
        fill(self)?;
        let len = (self.len - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    fn status(&mut self, code: u16) -> Result<(), DropReason> {
        self.option(option::STATUS, &code.to_be_bytes())
    }
}

/// The options in `bytes`; what is cut short ends them.
fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d, ref rest @ ..] = bytes else { return None };
        let (data, rest) = rest.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        bytes = rest;
        Some((u16::from_be_bytes([a, b]), data))
    })
}

/// What a client asks.
struct Request<'a> {
    kind: u8,
    transaction: [u8; 3],
    options: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(bytes: &'a [u8]) -> Result<Request<'a>, DropReason> {
        let &[kind, a, b, c, ref options @ ..] = bytes else { return Err(DropReason::BadHeader) };
        Ok(Request { kind, transaction: [a, b, c], options })
    }

    fn find(&self, code: u16) -> Option<&'a [u8]> {
        options(self.options).find(|(other, _)| *other == code).map(|(_, data)| data)
    }

    /// The identity associations: their IAID, and what is in them.
    fn associations(&self) -> impl Iterator<Item = ([u8; 4], &'a [u8])> {
        let all = options(self.options).filter(|(code, _)| *code == option::IA_NA);
        all.filter_map(|(_, data)| Some((*data.first_chunk()?, data.get(12..)?)))
    }
}

/// The addresses that an association names.
fn addresses(association: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let all = options(association).filter(|(code, _)| *code == option::IA_ADDRESS);
    all.filter_map(|(_, data)| data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)))
}

/// What one guest is told.
struct Server {
    address: Ipv6Addr,
    prefix: Option<vonic_frame::Subnet>,
    duid: [u8; 10],
}

impl Server {
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
        Ok(Some(()))
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
