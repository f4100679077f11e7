//! Listening sockets of an engine that has died: they go on, with whatever waits in their queues.
use crate::forward::UdpListener;
use crate::sys::listener::{self, Listener};
use crate::sys::tcp;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, RawFd};

/// A listening socket.
#[derive(Debug)]
pub enum Inherited {
    /// For connections.
    Tcp(Listener),
    /// For datagrams.
    Udp(UdpListener),
}

/// Where a socket listens: its address, and the interface that it is bound to if there is one.
pub type BoundTo = (SocketAddr, Option<String>);

impl Inherited {
    /// Takes over a listening socket by its number in the table that engines share; `None`: it is another socket by now, or none, and
    /// is left alone. With it where it listens.
    ///
    /// # Errors
    /// The system's: the socket is closed then. ENODEV: its interface has gone.
    pub fn resume(fd: RawFd, cookie: u64) -> io::Result<Option<(Inherited, BoundTo)>> {
        let Some(fd) = tcp::adopt(fd, cookie) else { return Ok(None) };
        let place = (listener::local_address(fd.as_fd())?, listener::interface_of(&fd)?);
        let socket = if listener::is_stream(fd.as_fd())? {
            Inherited::Tcp(Listener::of_bound(fd))
        } else {
            Inherited::Udp(UdpListener::of_bound(fd)?)
        };
        Ok(Some((socket, place)))
    }
}
