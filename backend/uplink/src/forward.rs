//! The UDP socket of a forward: one for all peers, used without holding payload.
use crate::datagram::{DatagramError, Hops};
use crate::sys::{datagram, forward as sys, listener};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use vonic_queue::IoVecs;

/// One of this host's own addresses: where a peer had sent to, and what the answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The interface of a peer that is known on its link only; else 0.
    pub interface: u32,
}

/// One datagram as it came from the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Bytes that were written.
    pub len: u32,
    /// Who sent it, or says so.
    pub from: SocketAddr,
    /// Where it was sent; `None` if that was a group.
    pub local: Option<Local>,
    /// There was more than the buffers could hold; the rest is lost.
    pub truncated: bool,
}

/// A UDP socket that anybody may send to.
#[derive(Debug)]
pub struct UdpListener {
    fd: OwnedFd,
    address: SocketAddr,
    /// What the socket's options say of the next datagram's way; only the worker, its one sender, sets them.
    hops: AtomicU32,
}

impl UdpListener {
    /// Binds to `address`, and takes only what arrives on `interface` if one is given.
    ///
    /// # Errors
    /// The system's, e.g. EADDRINUSE, EACCES (a port below net.ipv4.ip_unprivileged_port_start), ENODEV.
    pub fn bind(address: SocketAddr, interface: Option<&str>) -> io::Result<UdpListener> {
        let family = datagram::Family::of(address.ip());
        let fd = datagram::udp_socket(family)?;
        datagram::report_errors(fd.as_fd(), family)?;
        sys::report_local(fd.as_fd(), address)?;
        listener::bind(fd.as_fd(), address, interface)?;
        UdpListener::of_bound(fd)
    }

    /// Of a socket that is bound already.
    pub(crate) fn of_bound(fd: OwnedFd) -> io::Result<UdpListener> {
        let address = listener::local_address(fd.as_fd())?;
        Ok(UdpListener { fd, address, hops: AtomicU32::new(0) })
    }

    /// What tells the socket from every other one of this host's, ever (SO_COOKIE).
    ///
    /// # Errors
    /// The system's.
    pub fn cookie(&self) -> io::Result<u64> {
        crate::sys::tcp::cookie(self.fd.as_fd())
    }

    /// The address that it is bound to.
    pub fn local(&self) -> SocketAddr {
        self.address
    }

    /// Receives one datagram straight into guest memory.
    ///
    /// # Errors
    /// The system's: `WouldBlock` if there is none; or one that an earlier datagram met, to whomever.
    pub fn receive(&self, vecs: &IoVecs<'_>) -> io::Result<Arrived> {
        sys::receive(self.fd.as_fd(), vecs)
    }

    /// Bytes of payload of the next datagram.
    ///
    /// # Errors
    /// As [`UdpListener::receive`].
    pub fn next_len(&self) -> io::Result<u32> {
        datagram::next_len(self.fd.as_fd())
    }

    /// Throws one datagram away; false if there is none.
    pub fn skip(&self) -> bool {
        datagram::skip(self.fd.as_fd()).is_ok()
    }

    /// Sends one datagram straight from guest memory, to `to` and from `local`.
    ///
    /// # Errors
    /// The system's: `WouldBlock`; EMSGSIZE; or one that an earlier datagram met, to whomever, which
    /// [`UdpListener::next_error`] explains.
    pub fn send(&self, hops: Hops, vecs: &IoVecs<'_>, to: SocketAddr, local: Local) -> io::Result<()> {
        let wanted = 1 << 16 | u32::from(hops.dont_fragment) << 8 | u32::from(hops.ttl);
        if self.hops.load(Ordering::Relaxed) != wanted {
            datagram::set_hops(self.fd.as_fd(), datagram::Family::of(self.address.ip()), hops)?;
            self.hops.store(wanted, Ordering::Relaxed);
        }
        sys::send(self.fd.as_fd(), vecs, to, local)
    }

    /// The oldest untold error of a datagram sent before, and to whom; `None` if there is none.
    pub fn next_error(&self) -> Option<DatagramError> {
        datagram::next_error(self.fd.as_fd()).ok()
    }
}

impl AsRawFd for UdpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
