//! Calls on a TCP socket of the host.
#![allow(unsafe_code)]
use libc::{c_int, c_void, socklen_t};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use vonic_queue::IoVecs;

/// SO_PEEK_OFF (socket(7)).
const SO_PEEK_OFF: c_int = libc::SO_PEEK_OFF;
/// Indices into the answer of SO_MEMINFO (include/uapi/linux/sock_diag.h).
const SK_MEMINFO_SNDBUF: usize = 3;
const SK_MEMINFO_WMEM_QUEUED: usize = 5;
const SK_MEMINFO_VARS: usize = 9;

/// The result of a call that answers −1 on error.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The result of a call that answers how many bytes, or −1 on error.
pub fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A new non-blocking stream socket of the address's family.
pub fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; a fresh descriptor is owned by nobody else.
    unsafe { check(libc::socket(family, kind, 0)).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// A socket address in the kernel's layout, and its length.
pub fn to_kernel(address: &SocketAddr) -> (libc::sockaddr_storage, socklen_t) {
    // SAFETY: all-zero bytes are a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let place: *mut libc::sockaddr_storage = &raw mut storage;
    match address.ip() {
        IpAddr::V4(ip) => {
            let v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is large and aligned enough for every sockaddr type.
            unsafe { place.cast::<libc::sockaddr_in>().write(v4) };
            (storage, size_of::<libc::sockaddr_in>() as socklen_t)
        }
        IpAddr::V6(ip) => {
            let v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as u16,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(v6) };
            (storage, size_of::<libc::sockaddr_in6>() as socklen_t)
        }
    }
}

/// The address in the kernel's layout, read back.
pub fn from_kernel(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let place: *const libc::sockaddr_storage = storage;
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which type the kernel wrote.
            let v4 = unsafe { place.cast::<libc::sockaddr_in>().read() };
            Some((u32::from_be(v4.sin_addr.s_addr).to_be_bytes(), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            Some((v6.sin6_addr.s6_addr, u16::from_be(v6.sin6_port)).into())
        }
        _ => None,
    }
}

/// connect(2); EINPROGRESS is an error like others.
pub fn connect(fd: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    let (storage, len) = to_kernel(address);
    // SAFETY: the address outlives the call and `len` is its length.
    unsafe { check(libc::connect(fd.as_raw_fd(), (&raw const storage).cast(), len)).map(drop) }
}

/// Sets an option of type int.
pub fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as socklen_t;
    // SAFETY: the value outlives the call and `len` is its size.
    unsafe { check(libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len)).map(drop) }
}

/// Takes the pending error of a socket (SO_ERROR).
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ERROR);
    // SAFETY: value and length are valid for the call.
    unsafe { check(libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len))? };
    if value == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(value)) }
}

/// The kernel's accounting of a socket's memory (SO_MEMINFO).
pub fn memory(fd: BorrowedFd<'_>) -> io::Result<[u32; SK_MEMINFO_VARS]> {
    let mut info = [0u32; SK_MEMINFO_VARS];
    let mut len = size_of_val(&info) as socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
    // SAFETY: array and length are valid for the call.
    unsafe { check(libc::getsockopt(fd.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &raw mut len))? };
    Ok(info)
}

/// Bytes of send buffer that are free and in use, by the kernel's own accounting (buffer overhead is counted).
pub fn send_room(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let info = memory(fd)?;
    let queued = info[SK_MEMINFO_WMEM_QUEUED];
    Ok((info[SK_MEMINFO_SNDBUF].saturating_sub(queued), queued))
}

/// Bytes in the send queue, acknowledged by nobody yet; a FIN there counts as one (SIOCOUTQ, tcp(7)).
pub fn unacknowledged(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one int, which outlives the call.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes))? };
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// A message of nothing but these iovecs.
pub fn header(vecs: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vecs.as_ptr().cast_mut();
    message.msg_iovlen = vecs.len();
    message
}

/// sendmsg(2) straight from guest memory; never blocks, never raises SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<usize> {
    let message = header(vecs.as_slice());
    // SAFETY: IoVecs holds checked ranges of guest memory that stay mapped while it is borrowed; the kernel only reads them.
    check_size(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
}

/// recvmsg(2) with MSG_PEEK straight into guest memory; the bytes stay in the socket's queue.
pub fn peek(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<usize> {
    let mut message = header(vecs.as_slice());
    // SAFETY: as for `send`; the ranges are writable, and no reference to guest memory exists anywhere.
    check_size(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_PEEK) })
}

/// Looks at one byte of the receive queue; 0: its end.
pub fn peek_byte(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut byte = 0u8;
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: there is place for one byte.
    check_size(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) })
}

/// Drops bytes from the head of the receive queue without copying them (recv(2), MSG_TRUNC on TCP).
pub fn discard(fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer (tcp(7)).
    check_size(unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut::<c_void>(), len, flags) })
}

/// Where the next peek starts, from the head of the receive queue (SO_PEEK_OFF).
pub fn set_peek_offset(fd: BorrowedFd<'_>, offset: c_int) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PEEK_OFF, offset)
}

/// Sends FIN behind everything accepted so far.
pub fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    unsafe { check(libc::shutdown(fd.as_raw_fd(), libc::SHUT_WR)).map(drop) }
}

/// Whether a close is a reset, whoever closes (SO_LINGER, socket(7)).
pub fn set_abort_on_close(fd: BorrowedFd<'_>, abort: bool) -> io::Result<()> {
    let linger = libc::linger { l_onoff: c_int::from(abort), l_linger: 0 };
    let len = size_of::<libc::linger>() as socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: the value outlives the call and `len` is its size.
    unsafe { check(libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const linger).cast(), len)).map(drop) }
}

/// Options of every host socket, and of listeners, from which connections inherit them. Urgent bytes stay in the stream, since SIOCINQ
/// and peeks would otherwise skip them (tcp(7)). A silent peer is asked now and then whether it is still there, as often as the host's
/// administrator says (net.ipv4.tcp_keepalive_*): a guest's own probes go no further than its leg. No Nagle, since the guest's own TCP
/// has already decided what goes now. A close is a reset unless it was wanted: when vonicd dies the kernel closes its sockets, and a peer
/// must not take what it has got by then for the whole stream.
///
/// There is no TCP_USER_TIMEOUT: it would end connections whose peer keeps its window closed for as long, although it answers every
/// probe (RFC 9293 §3.8.6.1; tcp_probe_timer, net/ipv4/tcp_timer.c). A peer that answers nothing is given up after net.ipv4.tcp_retries2.
/// Nor TCP_QUICKACK: the kernel acknowledges at once while a stream begins or is long, and the guest's answer carries it elsewhere.
pub fn prepare(fd: &OwnedFd) -> io::Result<()> {
    set_abort_on_close(fd.as_fd(), true)?;
    set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    set_keepalive(fd.as_fd(), true)?;
    set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Whether a silent peer is asked now and then.
pub fn set_keepalive(fd: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, c_int::from(wanted))
}

/// Lets others bind to the same address and port, as far as connections stay distinct (SO_REUSEADDR).
pub fn share_address(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

/// States of a socket as TCP_INFO has them (include/net/tcp_states.h).
pub struct States;

#[allow(missing_docs, reason = "the names are the kernel's")]
impl States {
    pub const SYN_SENT: u8 = 2;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const CLOSING: u8 = 11;
}

/// What the kernel counts of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Of [`States`].
    pub state: u8,
    /// What the SYNs agreed to (TCPI_OPT_…).
    pub options: u8,
    /// Shifts of the peer's windows, in the low half, and of ours.
    pub scales: u8,
    /// tcpi_bytes_acked: our SYN and our FIN count as one each.
    pub acked: u64,
    /// tcpi_bytes_received: the peer's FIN counts as one.
    pub received: u64,
    /// SIOCINQ
    pub inq: u32,
    /// SIOCOUTQ; our FIN counts as one.
    pub outq: u32,
}

impl Counters {
    /// Whether nothing has moved between the readings of which these are.
    pub fn same_place(&self, other: &Counters) -> bool {
        (self.state, self.acked, self.received) == (other.state, other.acked, other.received)
    }
}

/// Reads the counters, then the queues.
pub fn counters(fd: BorrowedFd<'_>) -> io::Result<Counters> {
    /// struct tcp_info up to tcpi_bytes_received (include/uapi/linux/tcp.h): the C library's is shorter.
    #[repr(C)]
    struct Info {
        state: u8,
        unused: [u8; 4],
        options: u8,
        scales: u8,
        others: [u8; 113],
        acked: u64,
        received: u64,
    }
    let mut info = Info { state: 0, unused: [0; 4], options: 0, scales: 0, others: [0; 113], acked: 0, received: 0 };
    let mut length = size_of::<Info>() as socklen_t;
    let place: *mut Info = &raw mut info;
    // SAFETY: the answer is plain data of at most `length` bytes, for which the place is valid.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place.cast::<c_void>(), &raw mut length)
    })?;
    #[cfg(feature = "crash-points")]
    crate::mutation::linger();
    let (inq, outq) = (queue(fd, libc::FIONREAD)?, queue(fd, libc::TIOCOUTQ)?);
    let Info { state, options, scales, acked, received, .. } = info;
    Ok(Counters { state, options, scales, acked, received, inq, outq })
}

fn queue(fd: BorrowedFd<'_>, which: libc::c_ulong) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: both requests write one integer to a valid place.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), which, &raw mut bytes) })?;
    Ok(bytes as u32)
}

/// Bytes in the receive queue; the peer's FIN does not count (SIOCINQ, tcp(7)).
pub fn queued(fd: BorrowedFd<'_>) -> io::Result<u32> {
    queue(fd, libc::FIONREAD)
}

/// Whether an error is pending, without taking it.
pub fn has_error(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(look(fd)? & libc::POLLERR != 0)
}

/// Whether nothing more comes into the receive queue; and whether an error is pending, which is not taken.
pub fn is_over(fd: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    let seen = look(fd)?;
    Ok((seen & (libc::POLLRDHUP | libc::POLLHUP) != 0, seen & libc::POLLERR != 0))
}

fn look(fd: BorrowedFd<'_>) -> io::Result<libc::c_short> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, live and writable; no waiting.
    check(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
    Ok(poll.revents)
}

/// SO_COOKIE (socket(7)).
pub fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as socklen_t;
    let place: *mut u64 = &raw mut cookie;
    // SAFETY: the answer is a u64, for which the place is valid.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_COOKIE, place.cast::<c_void>(), &raw mut length)
    })?;
    Ok(cookie)
}

/// The socket with this number, if it still is the one with this cookie. Nobody else in this process owns it then: its owner was
/// another process, which is dead.
pub fn adopt(fd: RawFd, cookie: u64) -> Option<OwnedFd> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the borrow ends before this function does; a number that is not open makes the call fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    // SAFETY: by the cookie, which the kernel gives to one socket only, this is the socket that its record is about.
    self::cookie(borrowed).is_ok_and(|own| own == cookie).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
