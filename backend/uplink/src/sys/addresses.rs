//! The host's own addresses, and the news that they changed (rtnetlink(7)).
#![allow(unsafe_code)]
use super::tcp::{check, from_kernel};
use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Every address of every interface of this host (getifaddrs(3)).
///
/// # Errors
/// The system's.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the place for the list is valid.
    unsafe { check(libc::getifaddrs(&raw mut list))? };
    let mut addresses = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: a non-null entry of the list is valid until freeifaddrs.
        let item = unsafe { &*entry };
        if !item.ifa_addr.is_null() {
            // SAFETY: a valid address starts with its family; only as much is read as that family has.
            let storage = unsafe { copy_address(item.ifa_addr) };
            addresses.extend(storage.and_then(|s| from_kernel(&s)).map(|a| a.ip()));
        }
        entry = item.ifa_next;
    }
    // SAFETY: the list came from getifaddrs and is used no more.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

/// # Safety
/// `address` points to a socket address of the family that it states.
unsafe fn copy_address(address: *const libc::sockaddr) -> Option<libc::sockaddr_storage> {
    // SAFETY: the family is part of every sockaddr.
    let len = match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    // SAFETY: all-zero bytes are a valid sockaddr_storage, and it has room for `len` bytes.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        std::ptr::copy_nonoverlapping(address.cast::<u8>(), (&raw mut storage).cast(), len);
        Some(storage)
    }
}

/// Tells when an address of the host was added or removed.
#[derive(Debug)]
pub struct AddressWatch(OwnedFd);

impl AddressWatch {
    /// Subscribes to changes of both families.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<AddressWatch> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; a fresh descriptor is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE))?) };
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = (libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR) as u32;
        let len = size_of::<libc::sockaddr_nl>() as u32;
        // SAFETY: the address outlives the call and `len` is its length.
        unsafe { check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len))? };
        Ok(AddressWatch(fd))
    }

    /// Blocks until something changed. What changed is read by [`host_addresses`].
    ///
    /// # Errors
    /// The system's, except ENOBUFS: messages were lost, which is news too.
    pub fn wait(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        // SAFETY: buffer and length are valid for the call.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if got >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ENOBUFS) { Ok(()) } else { Err(error) }
    }
}
