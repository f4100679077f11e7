//! A netlink socket of the route family (rtnetlink(7)): requests about links, and the news that something changed.
#![allow(unsafe_code)]
use super::tcp::check;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket to the kernel's route family, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one that hears of `groups` (RTMGRP_…; 0: of nothing but its own answers).
    ///
    /// # Errors
    /// The system's.
    pub fn open(groups: i32) -> io::Result<Netlink> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers; a fresh descriptor is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE))?) };
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups as u32;
        let len = size_of::<libc::sockaddr_nl>() as u32;
        // SAFETY: the address outlives the call and `len` is its length.
        unsafe { check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len))? };
        Ok(Netlink(fd))
    }

    /// Sends one message to the kernel.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe the message's bytes; an unconnected netlink socket sends to the kernel.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Blocks for the next datagram; returns how many of its bytes stand in `buffer`.
    ///
    /// # Errors
    /// The system's, e.g. ENOBUFS: messages were lost.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: buffer and length are valid for the call.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Blocks until something of its groups changed. However much has changed by then is one piece of news.
    ///
    /// # Errors
    /// The system's, except ENOBUFS: messages were lost, which is news too.
    pub fn wait(&self) -> io::Result<()> {
        let mut buffer = [0u8; 4096];
        match self.receive(&mut buffer) {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return Err(error),
            _ => {}
        }
        let (pointer, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: buffer and length are valid for the call.
        while unsafe { libc::recv(self.0.as_raw_fd(), pointer, len, libc::MSG_DONTWAIT) } >= 0 {}
        Ok(())
    }
}
