//! The host's own addresses, and the news that they changed (rtnetlink(7)).
#![allow(unsafe_code)]
use super::netlink::Netlink;
use super::tcp::{check, from_kernel};
use std::io;
use std::mem::size_of;
use std::net::IpAddr;

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
pub struct AddressWatch(Netlink);

impl AddressWatch {
    /// Subscribes to changes of both families.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<AddressWatch> {
        Netlink::open(libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR).map(AddressWatch)
    }

    /// Blocks until something changed. What changed is read by [`host_addresses`].
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self) -> io::Result<()> {
        self.0.wait()
    }
}
