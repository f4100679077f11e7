//! AF_PACKET sockets: packet(7); epoll(7); the limit of open files; what the standard library does not know of TCP sockets.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A raw socket on one interface, all protocols, with a receive deadline of 100 ms; and the interface's hardware address.
pub(crate) fn open_packet(interface: &str) -> io::Result<(OwnedFd, [u8; 6])> {
    let name = CString::new(interface)?;
    // SAFETY: name is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol)) })?;
    // SAFETY: fd was just opened and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    let length = |size: usize| size as libc::socklen_t;
    let mut address_length = length(size_of_val(&address));
    // SAFETY: address is a whole sockaddr_ll of the length given.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), address_length) })?;
    // SAFETY: address and its length are live and writable.
    check(unsafe { libc::getsockname(fd, (&raw mut address).cast(), &raw mut address_length) })?;
    // SAFETY: wait is a whole timeval of the length given.
    check(unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), length(size_of_val(&wait)))
    })?;
    let [a, b, c, d, e, f, ..] = address.sll_addr;
    Ok((socket, [a, b, c, d, e, f]))
}

/// Lets a listener hold as many connections that nobody has accepted as the system allows; the standard library's 128 are fewer than
/// what some tests open at once, and what is too much is dropped, or refused later on.
///
/// # Errors
/// The system's.
pub fn listen_to_all(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::listen(listener.as_raw_fd(), i32::MAX) }).map(drop)
}

/// Sends one whole frame.
pub(crate) fn send_frame(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are of one live slice.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one frame that came from outside; `None` at the deadline or for a frame that this machine sent itself.
pub(crate) fn receive_frame(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&from) as libc::socklen_t;
    // SAFETY: buffer and from are live and writable, of the lengths given.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    Ok((from.sll_pkttype != libc::PACKET_OUTGOING).then_some(got as usize))
}

/// Closing the socket will reset its connection: SO_LINGER with no time.
pub(crate) fn reset_on_close(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// SO_RCVBUF in bytes; the kernel doubles it.
pub(crate) fn receive_buffer(socket: &impl AsRawFd, bytes: usize) -> io::Result<()> {
    set(socket, libc::SO_RCVBUF, &(bytes as libc::c_int))
}

fn set<T>(socket: &impl AsRawFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: value is live, and of the length given.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::from_ref(value).cast(), length)
    })
    .map(drop)
}

/// Waits until something can be read, or accepted; `TimedOut` if nothing can within `limit`.
pub(crate) fn wait_readable(socket: &impl AsRawFd, limit: Duration) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, live and writable.
    match check(unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as libc::c_int) })? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Lets this process have `count` files open, as far as it may: root lifts its hard limit, too.
pub(crate) fn raise_files(count: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is live and writable.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= count {
        return Ok(());
    }
    let whole = libc::rlimit { rlim_cur: count, rlim_max: limit.rlim_max.max(count) };
    // SAFETY: whole lives through the call.
    if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const whole) }).is_ok() {
        return Ok(());
    }
    limit.rlim_cur = limit.rlim_max.min(count);
    // SAFETY: limit lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// An epoll instance for input, level-triggered.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: fd was just opened and nobody else owns it.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Watches a descriptor until it is closed.
    pub(crate) fn add(&self, fd: RawFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        // SAFETY: event lives through the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Waits until there is something; the descriptors that have it.
    pub(crate) fn wait(&self, ready: &mut Vec<RawFd>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: events is live and writable, of the length given.
        let got = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, -1) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        ready.extend(events[..got as usize].iter().map(|event| event.u64 as RawFd));
        Ok(())
    }
}
