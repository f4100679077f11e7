//! Calls on the UDP socket of a forward: it is not connected, so every datagram comes with who sent it and to which of this
//! host's addresses, and every answer goes with both.
#![allow(unsafe_code)]
use super::datagram::{CONTROL, Control};
use super::tcp::{check_size, from_kernel, header, set_option, to_kernel};
use crate::forward::{Arrived, Local};
use libc::{c_int, socklen_t};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use vonic_queue::IoVecs;

/// Has the kernel tell of each datagram to which address it was sent (ip(7), ipv6(7)).
pub fn report_local(fd: BorrowedFd<'_>, like: SocketAddr) -> io::Result<()> {
    match like {
        SocketAddr::V4(_) => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        SocketAddr::V6(_) => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// recvmsg(2) straight into guest memory.
pub fn receive(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<Arrived> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut control = Control([0; CONTROL]);
    let mut message = header(vecs.as_slice());
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    // SAFETY: IoVecs holds checked, writable ranges that stay mapped while it is borrowed; the name and the ancillary room
    // have the lengths that are stated.
    let len = check_size(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })?;
    let from = from_kernel(&from).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    Ok(Arrived { len: len as u32, from, local: local(&message, from.ip()), truncated })
}

/// This host's own address that a datagram was sent to; `None` if that was a group.
fn local(message: &libc::msghdr, from: IpAddr) -> Option<Local> {
    // SAFETY: the kernel has filled in the ancillary data and its length.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(&raw const *message) };
    while !entry.is_null() {
        // SAFETY: a non-null entry is a whole header within the ancillary data.
        let (kind, data) = unsafe { (((*entry).cmsg_level, (*entry).cmsg_type), libc::CMSG_DATA(entry)) };
        match kind {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: an entry of this type holds an in_pktinfo (ip(7)); ancillary data may lie unaligned.
                let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                // They differ for broadcast and multicast: the second is then the address to answer from.
                let own = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
                let address = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                return own.then_some(Local { address: address.into(), interface: 0 });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: an entry of this type holds an in6_pktinfo (ipv6(7)); ancillary data may lie unaligned.
                let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                // A link-local peer is found on its link only; any other by the host's routes.
                let on_link = matches!(from, IpAddr::V6(from) if from.is_unicast_link_local());
                let interface = if on_link { info.ipi6_ifindex } else { 0 };
                return (!address.is_multicast()).then_some(Local { address: address.into(), interface });
            }
            _ => {}
        }
        // SAFETY: as for the first entry.
        entry = unsafe { libc::CMSG_NXTHDR(&raw const *message, entry) };
    }
    None
}

/// sendmsg(2) straight from guest memory, to `to` and from `local`; never blocks.
pub fn send(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>, to: SocketAddr, local: Local) -> io::Result<()> {
    let (mut name, name_len) = to_kernel(&to);
    let mut control = Control([0; CONTROL]);
    let mut message = header(vecs.as_slice());
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = name_len;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let used = match local.address {
        IpAddr::V4(address) => {
            let source = libc::in_addr { s_addr: u32::from(address).to_be() };
            let none = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: local.interface as c_int, ipi_spec_dst: source, ipi_addr: none };
            attach(&message, (libc::IPPROTO_IP, libc::IP_PKTINFO), info)
        }
        IpAddr::V6(address) => {
            let source = libc::in6_addr { s6_addr: address.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: local.interface };
            attach(&message, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info)
        }
    };
    message.msg_controllen = used as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: IoVecs holds checked ranges of guest memory that stay mapped while it is borrowed, which the kernel only reads;
    // the name and the ancillary data have the lengths that are stated.
    check_size(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) }).map(drop)
}

/// Writes the only entry of a message's ancillary data; returns the bytes that it takes.
fn attach<T: Copy>(message: &libc::msghdr, (level, kind): (c_int, c_int), info: T) -> usize {
    let len = size_of::<T>() as u32;
    // SAFETY: the ancillary room is `CONTROL` bytes, aligned for a header, and holds this entry, the only one, many times.
    unsafe {
        let entry = libc::CMSG_FIRSTHDR(&raw const *message);
        (*entry).cmsg_level = level;
        (*entry).cmsg_type = kind;
        (*entry).cmsg_len = libc::CMSG_LEN(len) as _;
        libc::CMSG_DATA(entry).cast::<T>().write_unaligned(info);
        libc::CMSG_SPACE(len) as usize
    }
}
