//! The network side of one datagram flow: a connected datagram socket of the host's kernel, used without holding payload.
use crate::sys::datagram as sys;
use crate::sys::listener::{bind, local_address};
use crate::sys::repair;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use vonic_queue::IoVecs;

/// Why a datagram socket could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The host does not let this process have such a socket, wherever it leads: net.ipv4.ping_group_range leaves it out
    /// (icmp(7)).
    NotPermitted(io::Error),
    /// No way to the destination, or no socket left; see [`classify`](crate::classify).
    Failed(io::Error),
}

/// What a guest's IP header says of a datagram's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hops {
    /// Time to live, at least 1.
    pub ttl: u8,
    /// Whether it may not be fragmented on its way.
    pub dont_fragment: bool,
}

/// One datagram as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes that were written.
    pub len: u32,
    /// Who sent it. A ping socket takes replies from anybody, also when it is connected: check it.
    pub from: IpAddr,
    /// There was more than the buffers could hold; the rest is lost.
    pub truncated: bool,
}

/// What became of a datagram that was sent before (IP_RECVERR, ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramError {
    /// ICMP type and code; `None`: no router or host said so, but this host's own kernel.
    pub icmp: Option<(u8, u8)>,
    /// The MTU of the next hop, where the error is about it; also if this host's own kernel said so.
    pub mtu: u32,
    /// Who said so, if it is known.
    pub offender: Option<IpAddr>,
    /// Where the datagram was sent, if it is known.
    pub to: Option<SocketAddr>,
    /// The first bytes of the payload that it is about: of a ping socket the ICMP header as it was sent.
    pub quoted: [u8; 8],
    /// How many of these bytes there are.
    pub quoted_len: usize,
}

/// A connected datagram socket.
#[derive(Debug)]
pub struct DatagramSocket {
    fd: OwnedFd,
    family: sys::Family,
    hops: Option<Hops>,
}

impl DatagramSocket {
    /// A ping socket to `to` (icmp(7)): it sends echo requests and receives the replies. The kernel gives it an identifier
    /// that is unique on this host, and writes checksums.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn echo(to: IpAddr) -> Result<DatagramSocket, OpenError> {
        let family = sys::Family::of(to);
        let fd = sys::ping_socket(family).map_err(|e| match e.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => OpenError::NotPermitted(e),
            _ => OpenError::Failed(e),
        })?;
        DatagramSocket::connected(fd, SocketAddr::new(to, 0)).map_err(OpenError::Failed)
    }

    /// A UDP socket that is connected to `to` (udp(7)): it sends there, and receives from there and from nobody else.
    ///
    /// # Errors
    /// The system's; see [`classify`](crate::classify).
    pub fn udp(to: SocketAddr) -> io::Result<DatagramSocket> {
        DatagramSocket::connected(sys::udp_socket(sys::Family::of(to.ip()))?, to)
    }

    /// The socket of a flow that was another host's, from the same end of its own: a UDP port, or with `echo` an identifier. With
    /// CAP_NET_ADMIN the address need not be on this host yet: nobody is told meanwhile that the port is closed.
    ///
    /// # Errors
    /// The system's: EADDRINUSE where somebody has this end here, EADDRNOTAVAIL or EPERM where the address is not here.
    pub fn again(echo: bool, local: SocketAddr, to: SocketAddr) -> io::Result<DatagramSocket> {
        let family = sys::Family::of(to.ip());
        let fd = if echo { sys::ping_socket(family)? } else { sys::udp_socket(family)? };
        // Without the capability the address is here, or the bind fails.
        let foreign = repair::allow_foreign_address(fd.as_fd(), to.is_ipv4(), true).is_ok();
        // Until it is connected anybody could send to it.
        repair::shut_out(fd.as_fd())?;
        bind(fd.as_fd(), local, None)?;
        let socket = DatagramSocket::connected(fd, to)?;
        if foreign {
            repair::allow_foreign_address(socket.fd.as_fd(), to.is_ipv4(), false)?;
        }
        repair::let_in(socket.fd.as_fd())?;
        Ok(socket)
    }

    fn connected(fd: OwnedFd, to: SocketAddr) -> io::Result<DatagramSocket> {
        let family = sys::Family::of(to.ip());
        sys::report_errors(fd.as_fd(), family)?;
        crate::sys::tcp::connect(fd.as_fd(), &to)?;
        Ok(DatagramSocket { fd, family, hops: None })
    }

    /// This end: the address that the host has chosen, and the port, or the identifier.
    ///
    /// # Errors
    /// The system's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        local_address(self.fd.as_fd())
    }

    /// Takes over a socket whose engine has died, by its number in the table that engines share; `None`: it is another socket by
    /// now, or none, and is left alone. `to` is where it leads.
    pub fn resume(fd: RawFd, cookie: u64, to: IpAddr) -> Option<DatagramSocket> {
        let fd = crate::sys::tcp::adopt(fd, cookie)?;
        Some(DatagramSocket { fd, family: sys::Family::of(to), hops: None })
    }

    /// What tells the socket from every other one of this host's, ever (SO_COOKIE).
    ///
    /// # Errors
    /// The system's.
    pub fn cookie(&self) -> io::Result<u64> {
        crate::sys::tcp::cookie(self.fd.as_fd())
    }

    /// Sends one datagram, for an echo an ICMP header and its data, straight from guest memory.
    ///
    /// # Errors
    /// The system's: `WouldBlock`; EMSGSIZE beyond [`DatagramSocket::mtu`]; or one that an earlier datagram met, which
    /// [`DatagramSocket::next_error`] explains.
    pub fn send(&mut self, hops: Hops, vecs: &IoVecs<'_>) -> io::Result<()> {
        if self.hops != Some(hops) {
            sys::set_hops(self.fd.as_fd(), self.family, hops)?;
            self.hops = Some(hops);
        }
        crate::sys::tcp::send(self.fd.as_fd(), vecs).map(drop)
    }

    /// Receives one datagram straight into guest memory.
    ///
    /// # Errors
    /// The system's: `WouldBlock` if there is none; or one that an earlier datagram met.
    pub fn receive(&self, vecs: &IoVecs<'_>) -> io::Result<Received> {
        sys::receive(self.fd.as_fd(), vecs, false)
    }

    /// As [`DatagramSocket::receive`], and the datagram stays in the socket's queue.
    ///
    /// # Errors
    /// As [`DatagramSocket::receive`].
    pub fn peek(&self, vecs: &IoVecs<'_>) -> io::Result<Received> {
        sys::receive(self.fd.as_fd(), vecs, true)
    }

    /// Bytes of payload of the next datagram, of a UDP socket; a ping socket does not tell.
    ///
    /// # Errors
    /// As [`DatagramSocket::receive`].
    pub fn next_len(&self) -> io::Result<u32> {
        sys::next_len(self.fd.as_fd())
    }

    /// Throws one datagram away; false if there is none.
    pub fn skip(&self) -> bool {
        sys::skip(self.fd.as_fd()).is_ok()
    }

    /// The oldest untold error of a datagram sent before; `None` if there is none.
    pub fn next_error(&self) -> Option<DatagramError> {
        sys::next_error(self.fd.as_fd()).ok()
    }

    /// The largest packet that the way to the destination takes, as far as it is known, in bytes with the IP header.
    ///
    /// # Errors
    /// The system's.
    pub fn mtu(&self) -> io::Result<u32> {
        sys::path_mtu(self.fd.as_fd(), self.family)
    }
}

impl AsRawFd for DatagramSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
