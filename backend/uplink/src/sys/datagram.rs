//! Calls on a datagram socket of the host.
#![allow(unsafe_code)]
use super::tcp::{check, from_kernel, header, set_option};
use crate::datagram::{DatagramError, Hops, Received};
use libc::{c_int, c_void, socklen_t};
use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vonic_queue::IoVecs;

/// Bytes of ancillary data of one error: sock_extended_err and the offender's address take 44; a local address takes less.
pub const CONTROL: usize = 128;

/// An address family and its names of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// A new non-blocking ping socket (icmp(7)).
pub fn ping_socket(family: Family) -> io::Result<OwnedFd> {
    match family {
        Family::V4 => socket(libc::AF_INET, libc::IPPROTO_ICMP),
        Family::V6 => socket(libc::AF_INET6, libc::IPPROTO_ICMPV6),
    }
}

/// A new non-blocking UDP socket (udp(7)).
pub fn udp_socket(family: Family) -> io::Result<OwnedFd> {
    match family {
        Family::V4 => socket(libc::AF_INET, libc::IPPROTO_UDP),
        Family::V6 => socket(libc::AF_INET6, libc::IPPROTO_UDP),
    }
}

fn socket(domain: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; a fresh descriptor is owned by nobody else.
    unsafe { check(libc::socket(domain, kind, protocol)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// Has the kernel queue what becomes of datagrams (IP_RECVERR, ip(7)).
pub fn report_errors(fd: BorrowedFd<'_>, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => set_option(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1),
        Family::V6 => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1),
    }
}

/// Time to live, and who fragments: nobody, or this host and routers (ip(7)). In IPv6 it is the guest itself or nobody.
pub fn set_hops(fd: BorrowedFd<'_>, family: Family, hops: Hops) -> io::Result<()> {
    match family {
        Family::V4 => {
            set_option(fd, libc::IPPROTO_IP, libc::IP_TTL, hops.ttl.into())?;
            let discover = if hops.dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
            set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover)
        }
        Family::V6 => {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops.ttl.into())?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
        }
    }
}

/// The path's MTU of a connected socket (IP_MTU).
pub fn path_mtu(fd: BorrowedFd<'_>, family: Family) -> io::Result<u32> {
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_MTU),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: value and length are valid for the call.
    unsafe { check(libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len))? };
    Ok(value.unsigned_abs())
}

/// recvmsg(2) straight into guest memory.
pub fn receive(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<Received> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut from: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut message = header(vecs.as_slice());
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
    // SAFETY: IoVecs holds checked, writable ranges that stay mapped while it is borrowed, and the name has its full length.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = u32::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let from = from_kernel(&from).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok(Received { len, from: from.ip(), truncated: message.msg_flags & libc::MSG_TRUNC != 0 })
}

/// Drops the oldest datagram of the receive queue.
pub fn skip(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nowhere: *mut c_void = std::ptr::null_mut();
    // SAFETY: a buffer of no bytes.
    let got = unsafe { libc::recv(fd.as_raw_fd(), nowhere, 0, libc::MSG_DONTWAIT) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for ancillary data, aligned as its headers ask for.
#[repr(C, align(8))]
pub struct Control(pub [u8; CONTROL]);

/// The oldest entry of the socket's error queue.
pub fn next_error(fd: BorrowedFd<'_>) -> io::Result<DatagramError> {
    let mut quoted = [0u8; 8];
    let mut control = Control([0; CONTROL]);
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut to: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let vec = [libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() }];
    let mut message = header(&vec);
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    message.msg_name = (&raw mut to).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as socklen_t;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the one iovec, the name and the ancillary room are valid for the call and have the lengths that are stated.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut error = DatagramError { icmp: None, mtu: 0, offender: None, to: from_kernel(&to), quoted };
    // SAFETY: the kernel has filled in the ancillary data and its length.
    let mut entry = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !entry.is_null() {
        // SAFETY: a non-null entry is a whole header within the ancillary data.
        let kind = unsafe { ((*entry).cmsg_level, (*entry).cmsg_type) };
        if matches!(kind, (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)) {
            // SAFETY: an entry of this type holds a sock_extended_err and the offender's socket address (ip(7)).
            unsafe { explain(libc::CMSG_DATA(entry), &mut error) };
        }
        // SAFETY: as for the first entry.
        entry = unsafe { libc::CMSG_NXTHDR(&raw const message, entry) };
    }
    Ok(error)
}

/// # Safety
/// `data` points to a sock_extended_err that an address of its family follows, or one of family AF_UNSPEC.
unsafe fn explain(data: *const u8, error: &mut DatagramError) {
    // SAFETY: the caller's promise; ancillary data may lie unaligned.
    let told = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
    error.mtu = told.ee_info;
    if !matches!(told.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6) {
        return;
    }
    error.icmp = Some((told.ee_type, told.ee_code));
    let place = data.wrapping_add(size_of::<libc::sock_extended_err>());
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut offender: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: every address starts with its family.
    let family = unsafe { place.cast::<libc::sa_family_t>().read_unaligned() };
    let len = match c_int::from(family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return,
    };
    // SAFETY: the address has the length of its family, and the storage has room for each.
    unsafe { std::ptr::copy_nonoverlapping(place, (&raw mut offender).cast(), len) };
    error.offender = from_kernel(&offender).map(|a| a.ip());
}
