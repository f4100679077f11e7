//! Listening sockets of forwards.
#![allow(unsafe_code)]
use super::tcp::{
    check, from_kernel, prepare, set_abort_on_close, set_option, share_address, stream_socket, to_kernel,
};
use libc::{c_int, socklen_t};
use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Connections that wait for `accept`; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// A listening TCP socket of the host.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A connection that the world opened: the kernel has completed its handshake.
#[derive(Debug)]
pub struct Accepted {
    pub(crate) fd: OwnedFd,
    /// Who connected.
    pub peer: SocketAddr,
}

impl Accepted {
    /// One that an engine before this one accepted and had no time to put on record, by its number in the table that engines share;
    /// `None`: it is gone.
    pub fn adopt(fd: RawFd) -> Option<Accepted> {
        // SAFETY: all-zero bytes are a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_storage>() as socklen_t;
        // SAFETY: storage and length are valid for the call; a number that is not open makes it fail.
        unsafe { check(libc::getpeername(fd, (&raw mut storage).cast(), &raw mut len)).ok()? };
        let peer = from_kernel(&storage)?;
        // SAFETY: the master has found out that this connection is nobody's: its owner was another process, which is dead.
        Some(Accepted { fd: unsafe { OwnedFd::from_raw_fd(fd) }, peer })
    }

    /// Whether the connection may have come to a listener at this address.
    pub fn came_to(&self, address: SocketAddr) -> bool {
        Accepted::would_have_come_to(self.fd.as_raw_fd(), address)
    }

    /// The same of one that nobody has [adopted](Accepted::adopt) yet, by its number; of one that is gone, false.
    pub fn would_have_come_to(fd: RawFd, address: SocketAddr) -> bool {
        // SAFETY: whatever the number is, a call with it either names its socket's address or fails; it is not kept.
        let own = local_address(unsafe { BorrowedFd::borrow_raw(fd) });
        own.is_ok_and(|own| {
            own.port() == address.port()
                && own.is_ipv4() == address.is_ipv4()
                && (address.ip().is_unspecified() || own.ip() == address.ip())
        })
    }

    /// Closes it by a reset.
    pub fn abort(self) {
        // Fails on no open TCP socket (socket(7)); a plain close is then all that is left.
        let _ = set_abort_on_close(self.fd.as_fd(), true);
    }
}

impl Listener {
    /// Listens on `address`, and only for what arrives on `interface` if one is given.
    ///
    /// # Errors
    /// The system's, e.g. EADDRINUSE, EACCES (a port below net.ipv4.ip_unprivileged_port_start), ENODEV.
    pub fn bind(address: SocketAddr, interface: Option<&str>) -> io::Result<Listener> {
        let fd = stream_socket(&address)?;
        prepare(&fd)?;
        share_address(fd.as_fd())?;
        bind(fd.as_fd(), address, interface)?;
        // SAFETY: no pointers.
        unsafe { check(libc::listen(fd.as_raw_fd(), BACKLOG))? };
        Ok(Listener(fd))
    }

    /// The next connection; `None` if none is waiting.
    ///
    /// # Errors
    /// The system's, e.g. EMFILE; a connection that died in the queue is passed over.
    pub fn accept(&self) -> io::Result<Option<Accepted>> {
        loop {
            // SAFETY: all-zero bytes are a valid sockaddr_storage.
            let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
            let mut len = size_of::<libc::sockaddr_storage>() as socklen_t;
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: storage and length are valid for the call.
            let fd = unsafe { libc::accept4(self.0.as_raw_fd(), (&raw mut storage).cast(), &raw mut len, flags) };
            if fd < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::ECONNABORTED | libc::EINTR) => continue,
                    _ => return Err(error),
                }
            }
            // SAFETY: a fresh descriptor is owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let Some(peer) = from_kernel(&storage) else { continue };
            return Ok(Some(Accepted { fd, peer }));
        }
    }

    pub(crate) fn of_bound(fd: OwnedFd) -> Listener {
        // An engine may have died while it let nobody in.
        let _ = super::repair::let_in(fd.as_fd());
        Listener(fd)
    }

    /// Lets nobody in who is not there yet, and has no handshake under way: whoever asks hears nothing, and asks again in a second.
    ///
    /// # Errors
    /// The system's.
    pub fn pause(&self) -> io::Result<()> {
        super::repair::shut_out_syns(self.0.as_fd())
    }

    /// Lets everybody in again.
    pub fn resume(&self) {
        // Fails where nothing was paused.
        let _ = super::repair::let_in(self.0.as_fd());
    }

    /// What tells the socket from every other one of this host's, ever (SO_COOKIE).
    ///
    /// # Errors
    /// The system's.
    pub fn cookie(&self) -> io::Result<u64> {
        super::tcp::cookie(self.0.as_fd())
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The system's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        local_address(self.0.as_fd())
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Binds a socket to `address`, and to `interface` if one is given.
pub fn bind(fd: BorrowedFd<'_>, address: SocketAddr, interface: Option<&str>) -> io::Result<()> {
    if address.is_ipv6() {
        // IPv4 has sockets of its own: no peer comes by a mapped address.
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if let Some(name) = interface {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        // SAFETY: pointer and length describe the name's bytes.
        let result =
            unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, name.as_ptr().cast(), name.len() as socklen_t) };
        check(result)?;
    }
    let (storage, len) = to_kernel(&address);
    // SAFETY: the address outlives the call and `len` is its length.
    unsafe { check(libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), len)).map(drop) }
}

/// The address that a socket is bound to.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    address(fd, libc::getsockname)
}

/// The address that a socket is connected to.
pub fn remote_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    address(fd, libc::getpeername)
}

fn address(
    fd: BorrowedFd<'_>,
    ask: unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut socklen_t) -> c_int,
) -> io::Result<SocketAddr> {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as socklen_t;
    // SAFETY: storage and length are valid for either call.
    unsafe { check(ask(fd.as_raw_fd(), (&raw mut storage).cast(), &raw mut len))? };
    from_kernel(&storage).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// Whether a socket that was bound to an interface is so to the one that now has this name: an interface that has gone takes its
/// sockets with it.
pub fn is_on_interface(socket: &impl AsRawFd, interface: &str) -> bool {
    interface_of(socket).is_ok_and(|known| known.as_deref() == Some(interface))
}

/// The name of the interface that a socket was bound to, if it was to one.
///
/// # Errors
/// The system's: ENODEV if that interface has gone.
pub fn interface_of(socket: &impl AsRawFd) -> io::Result<Option<String>> {
    let mut name = [0u8; libc::IFNAMSIZ];
    let mut len = name.len() as socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    // SAFETY: pointer and length describe the buffer.
    unsafe { check(libc::getsockopt(socket.as_raw_fd(), level, option, name.as_mut_ptr().cast(), &raw mut len))? };
    let known = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((!known.is_empty()).then(|| String::from_utf8_lossy(known).into_owned()))
}

/// Whether a socket is of TCP, and not of UDP (SO_TYPE).
pub fn is_stream(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut kind: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as socklen_t;
    let place: *mut libc::c_int = &raw mut kind;
    // SAFETY: the answer is an int, for which the place is valid.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, place.cast(), &raw mut len) };
    check(result).map(|_| kind == libc::SOCK_STREAM)
}
