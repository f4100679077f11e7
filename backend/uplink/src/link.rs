//! Network interfaces of the host, read and changed by rtnetlink(7) messages.
//!
//! A handful of messages of fixed form: built and read here as bytes, in the host's byte order.
use crate::sys::netlink::Netlink;
use std::io;
use vonic_frame::MacAddr;

/// Bytes of `struct nlmsghdr` and of `struct ifinfomsg` behind it.
const HEADER: usize = 16;
const INFO: usize = 16;
/// Flags of attributes that hold attributes (include/uapi/linux/netlink.h).
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;
/// include/uapi/linux/if_link.h: IFLA_BRPORT_ISOLATED, IFLA_INET6_ADDR_GEN_MODE and its value "none".
const BRPORT_ISOLATED: u16 = 33;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
/// IFLA_PROMISCUITY, and of a macvlan (IFLA_INFO_DATA) IFLA_MACVLAN_MODE with its value "passthru".
const PROMISCUITY: u16 = 30;
const MACVLAN_MODE: u16 = 1;
const MACVLAN_PASSTHRU: u32 = 8;
/// The largest answer about one interface; the kernel splits no message.
const ANSWER: usize = 32 << 10;

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// The number of the bridge, or other master, that it is a port of.
    pub master: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is an Ethernet.
    pub ethernet: bool,
    /// Its hardware address, if that has six bytes.
    pub address: Option<MacAddr>,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// For how many reasons it is promiscuous.
    pub promiscuity: u32,
    /// A macvlan that lets up what is for its own address only.
    pub own_address_only: bool,
    /// What kind of virtual interface it is, such as `bridge`; empty for hardware.
    pub kind: String,
}

/// A request about one interface, under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, family: i32, index: u32) -> Message {
        let mut bytes = vec![0u8; HEADER + INFO];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
        bytes[HEADER] = family as u8;
        bytes[HEADER + 4..HEADER + 8].copy_from_slice(&index.to_ne_bytes());
        Message(bytes)
    }

    /// Sets interface flags among `mask`.
    fn flags(mut self, flags: i32, mask: i32) -> Message {
        self.0[HEADER + 8..HEADER + 12].copy_from_slice(&flags.to_ne_bytes());
        self.0[HEADER + 12..HEADER + 16].copy_from_slice(&mask.to_ne_bytes());
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Message {
        push(&mut self.0, kind, value);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

/// Appends an attribute, padded to four bytes.
fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, kind, value);
    bytes
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The value of attribute `wanted` among `bytes`.
fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(number16(bytes, 0)?);
        let value = bytes.get(4..len)?;
        if number16(bytes, 2)? & TYPE_MASK == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// The interfaces of the thread's network namespace.
#[derive(Debug)]
pub struct Links(Netlink);

impl Links {
    /// Opens a socket for requests.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Links> {
        Netlink::open(0).map(Links)
    }

    /// Sends a request and takes its answer: the body of a message about a link, if one came before the acknowledgement.
    fn ask(&self, message: Message) -> io::Result<Vec<u8>> {
        self.0.send(&message.finish())?;
        let mut buffer = vec![0u8; ANSWER];
        let mut answer = Vec::new();
        loop {
            let got = self.0.receive(&mut buffer)?;
            let mut rest = &buffer[..got];
            while let (Some(len), Some(kind)) = (number32(rest, 0), number16(rest, 4)) {
                let Some(body) = rest.get(HEADER..len as usize) else { break };
                match i32::from(kind) {
                    libc::NLMSG_ERROR => {
                        let error = number32(body, 0).map_or(0, |n| n as i32);
                        return if error == 0 { Ok(answer) } else { Err(io::Error::from_raw_os_error(-error)) };
                    }
                    _ => answer = body.to_vec(),
                }
                rest = rest.get((len as usize).next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// ENODEV if there is none.
    pub fn by_name(&self, name: &str) -> io::Result<Link> {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.get(Message::new(libc::RTM_GETLINK, libc::AF_UNSPEC, 0).attribute(libc::IFLA_IFNAME, &value))
    }

    /// The interface of this number.
    ///
    /// # Errors
    /// ENODEV if there is none.
    pub fn by_index(&self, index: u32) -> io::Result<Link> {
        self.get(Message::new(libc::RTM_GETLINK, libc::AF_UNSPEC, index))
    }

    fn get(&self, message: Message) -> io::Result<Link> {
        read_link(&self.ask(message)?).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Prepares an interface that is down: its hardware address, its MTU and its alias.
    ///
    /// # Errors
    /// The system's.
    pub fn prepare(&self, index: u32, address: MacAddr, mtu: u16, alias: &str) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, libc::AF_UNSPEC, index)
            .attribute(libc::IFLA_ADDRESS, &address.0)
            .attribute(libc::IFLA_MTU, &u32::from(mtu).to_ne_bytes())
            .attribute(libc::IFLA_IFALIAS, alias.as_bytes());
        self.ask(message).map(drop)
    }

    /// Keeps the host from giving the interface an IPv6 address by itself.
    ///
    /// # Errors
    /// The system's; EAFNOSUPPORT where there is no IPv6.
    pub fn without_ipv6_address(&self, index: u32) -> io::Result<()> {
        let mode = attribute(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
        let family = attribute(libc::AF_INET6 as u16 | NESTED, &mode);
        let message = Message::new(libc::RTM_SETLINK, libc::AF_UNSPEC, index);
        self.ask(message.attribute(libc::IFLA_AF_SPEC | NESTED, &family)).map(drop)
    }

    /// Makes the interface a port of `master`; 0: of nothing.
    ///
    /// # Errors
    /// The system's.
    pub fn set_master(&self, index: u32, master: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_SETLINK, libc::AF_UNSPEC, index);
        self.ask(message.attribute(libc::IFLA_MASTER, &master.to_ne_bytes())).map(drop)
    }

    /// Makes a port of a bridge isolated: the bridge passes nothing between two such ports.
    ///
    /// # Errors
    /// The system's; EINVAL or EOPNOTSUPP if it is no port of a bridge.
    pub fn isolate(&self, index: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_SETLINK, libc::AF_BRIDGE, index);
        let port = attribute(BRPORT_ISOLATED, &[1]);
        self.ask(message.attribute(libc::IFLA_PROTINFO | NESTED, &port)).map(drop)
    }

    /// Puts the interface up or down.
    ///
    /// # Errors
    /// The system's.
    pub fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let flags = if up { libc::IFF_UP } else { 0 };
        self.ask(Message::new(libc::RTM_NEWLINK, libc::AF_UNSPEC, index).flags(flags, libc::IFF_UP)).map(drop)
    }
}

fn read_link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(INFO..)?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_string();
    let info = |wanted| find(attributes, libc::IFLA_LINKINFO).and_then(|info| find(info, wanted));
    let kind = info(libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
    let number = |wanted| find(attributes, wanted).and_then(|value| number32(value, 0));
    let mode = info(libc::IFLA_INFO_DATA).and_then(|data| number32(find(data, MACVLAN_MODE)?, 0));
    Some(Link {
        index: number32(body, 4)?,
        master: number(libc::IFLA_MASTER),
        up: number32(body, 8)? as i32 & libc::IFF_UP != 0,
        address: find(attributes, libc::IFLA_ADDRESS).and_then(|value| Some(MacAddr(value.try_into().ok()?))),
        ethernet: number16(body, 2) == Some(libc::ARPHRD_ETHER),
        mtu: number(libc::IFLA_MTU).unwrap_or_default(),
        promiscuity: number(PROMISCUITY).unwrap_or_default(),
        own_address_only: kind == "macvlan" && mode.is_some_and(|mode| mode != MACVLAN_PASSTHRU),
        kind,
    })
}

/// Tells when an interface came, went or changed.
#[derive(Debug)]
pub struct LinkWatch(Netlink);

impl LinkWatch {
    /// Subscribes.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<LinkWatch> {
        Netlink::open(libc::RTMGRP_LINK).map(LinkWatch)
    }

    /// Blocks until something changed.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self) -> io::Result<()> {
        self.0.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_lies_end_the_search() {
        let mut bytes = attribute(1, &[7]);
        push(&mut bytes, 2 | NESTED, &attribute(9, &5u32.to_ne_bytes()));
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 1), Some(&[7u8][..]));
        let inner = find(&bytes, 2).unwrap();
        assert_eq!(find(inner, 9).and_then(|value| number32(value, 0)), Some(5));
        assert_eq!(find(&bytes, 3), None);
        for cut in 0..bytes.len() {
            assert_eq!(find(&bytes[..cut], 9), None);
        }
        let mut endless = bytes.clone();
        endless[..2].fill(0);
        assert_eq!(find(&endless, 2), None);
    }

    #[test]
    fn the_loopback_is_read_as_it_is() {
        let links = Links::open().unwrap();
        let lo = links.by_name("lo").unwrap();
        assert_eq!((lo.index, lo.master, lo.kind.as_str()), (1, None, ""));
        assert_eq!(links.by_index(1).unwrap(), lo);
        let missing = links.by_name("no-such-link").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
    }
}
