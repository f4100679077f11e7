//! Calls by which a connection's state is read and written (TCP_REPAIR). They need CAP_NET_ADMIN in the socket's network namespace.
#![allow(unsafe_code)]
use super::tcp::{check, check_size, set_option};
use libc::{c_int, c_void, socklen_t};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

// What the C library does not name (include/uapi/linux/tcp.h, include/uapi/asm-generic/socket.h, include/uapi/linux/in6.h).
const TCP_REPAIR_WINDOW: c_int = 29;
const SO_BUF_LOCK: c_int = 72;
const IPV6_FREEBIND: c_int = 78;
/// SIOCOUTQNSD (include/uapi/linux/sockios.h).
const UNSENT: libc::c_ulong = 0x894b;

/// Whether a socket is under repair, and how it gets out of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Repair {
    /// A segment asks the peer where it is.
    Off = 0,
    /// Nothing is acknowledged, sent or closed on the wire by calls.
    On = 1,
    /// Nothing is sent.
    OffSilently = -1,
}

/// Which of a socket's queues calls are about (TCP_REPAIR_QUEUE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Queue {
    None = 0,
    Receive = 1,
    Send = 2,
}

/// struct tcp_repair_window (include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RepairWindow {
    pub snd_wl1: u32,
    pub snd_wnd: u32,
    pub max_window: u32,
    pub rcv_wnd: u32,
    pub rcv_wup: u32,
}

/// struct tcp_repair_opt.
#[repr(C)]
pub struct RepairOption {
    pub code: u32,
    pub value: u32,
}

/// Kinds of TCP options (RFC 9293 §3.1, RFC 7323, RFC 2018).
pub struct OptionKind;

#[allow(missing_docs, reason = "the names are the RFCs'")]
impl OptionKind {
    pub const MSS: u32 = 2;
    pub const WINDOW: u32 = 3;
    pub const SACK_PERMITTED: u32 = 4;
    pub const TIMESTAMP: u32 = 8;
}

/// TCP_REPAIR.
pub fn set_repair(fd: BorrowedFd<'_>, repair: Repair) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR, repair as c_int)
}

/// TCP_REPAIR_QUEUE.
pub fn select_queue(fd: BorrowedFd<'_>, queue: Queue) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue as c_int)
}

/// The selected queue's sequence number (TCP_QUEUE_SEQ): behind its last byte, a FIN included.
pub fn queue_sequence(fd: BorrowedFd<'_>) -> io::Result<u32> {
    tcp_option(fd, libc::TCP_QUEUE_SEQ)
}

/// Where the selected queue of a socket that is not connected begins.
pub fn set_queue_sequence(fd: BorrowedFd<'_>, sequence: u32) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, sequence as c_int)
}

/// The MSS that the peer announced (TCP_MAXSEG of a socket under repair).
pub fn announced_mss(fd: BorrowedFd<'_>) -> io::Result<u32> {
    tcp_option(fd, libc::TCP_MAXSEG)
}

/// Bounds the MSS of a socket that is not connected yet.
pub fn limit_mss(fd: BorrowedFd<'_>, mss: u32) -> io::Result<()> {
    // TCP_MIN_MSS and MAX_TCP_WINDOW (include/net/tcp.h) are what the kernel takes.
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, mss.clamp(88, 32767) as c_int)
}

/// The clock of the socket's timestamps (TCP_TIMESTAMP); its lowest bit says what it counts in.
pub fn timestamp(fd: BorrowedFd<'_>) -> io::Result<u32> {
    tcp_option(fd, libc::TCP_TIMESTAMP)
}

/// Sets that clock.
pub fn set_timestamp(fd: BorrowedFd<'_>, value: u32) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP, value as c_int)
}

fn tcp_option(fd: BorrowedFd<'_>, name: c_int) -> io::Result<u32> {
    int_option(fd, libc::IPPROTO_TCP, name)
}

fn int_option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<u32> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // SAFETY: value and length are valid for the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value as u32)
}

/// TCP_REPAIR.
pub fn is_under_repair(fd: BorrowedFd<'_>) -> bool {
    // Fails on sockets that are none of TCP.
    tcp_option(fd, libc::TCP_REPAIR).is_ok_and(|on| on == 1)
}

/// TCP_REPAIR_WINDOW.
pub fn window(fd: BorrowedFd<'_>) -> io::Result<RepairWindow> {
    let mut window = RepairWindow::default();
    let mut length = size_of::<RepairWindow>() as socklen_t;
    let place: *mut RepairWindow = &raw mut window;
    // SAFETY: the answer is plain data of the length given, for which the place is valid.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, place.cast::<c_void>(), &raw mut length)
    })?;
    Ok(window)
}

/// Sets it, of a socket whose queues are filled.
pub fn set_window(fd: BorrowedFd<'_>, window: &RepairWindow) -> io::Result<()> {
    set_bytes(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, std::slice::from_ref(window))
}

/// TCP_REPAIR_OPTIONS: what the SYNs agreed to.
pub fn set_agreed(fd: BorrowedFd<'_>, options: &[RepairOption]) -> io::Result<()> {
    set_bytes(fd, libc::IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS, options)
}

fn set_bytes<T>(fd: BorrowedFd<'_>, level: c_int, name: c_int, values: &[T]) -> io::Result<()> {
    let length = size_of_val(values) as socklen_t;
    // SAFETY: pointer and length describe the values, which outlive the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, values.as_ptr().cast(), length) }).map(drop)
}

/// Lets nothing in any more: segments are thrown away before the socket sees them (socket(7)).
pub fn shut_out(fd: BorrowedFd<'_>) -> io::Result<()> {
    // "ret #0": keep no byte of any segment.
    let mut drop_all = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_all };
    set_bytes(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::slice::from_ref(&program))
}

/// Begins nothing any more: segments that ask for a connection are thrown away, as if lost on their way, and others are not. A filter of a
/// TCP socket looks from the TCP header on, whose flags are its byte 13 (RFC 9293 §3.1).
pub fn shut_out_syns(fd: BorrowedFd<'_>) -> io::Result<()> {
    const SYN: u32 = 2;
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 13),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    set_bytes(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::slice::from_ref(&program))
}

/// Lets segments in again.
pub fn let_in(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

/// Bytes of the send queue that were not sent yet; an end of our own counts as one.
pub fn unsent(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the request writes one integer to a valid place.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), UNSENT, &raw mut bytes) })?;
    Ok(bytes as u32)
}

/// Copies up to `length` bytes of the selected queue behind what `to` has; answers how many. From its head, or where SO_PEEK_OFF stands.
pub fn peek(fd: BorrowedFd<'_>, to: &mut Vec<u8>, length: usize) -> io::Result<usize> {
    to.reserve_exact(length);
    let place = to.spare_capacity_mut();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the vector has room for so many bytes there.
    let got = check_size(unsafe { libc::recv(fd.as_raw_fd(), place.as_mut_ptr().cast(), length, flags) })?;
    // SAFETY: the kernel has written so many bytes, no more than there was room for.
    unsafe { to.set_len(to.len() + got) };
    Ok(got)
}

/// Appends to the selected queue, or of a socket that is not under repair, sends. Answers how many bytes were taken.
pub fn fill(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe the bytes.
    check_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// The sizes of both buffers as the kernel counts them, its overhead included: to send, to receive.
pub fn buffers(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let size = |name| int_option(fd, libc::SOL_SOCKET, name);
    Ok((size(libc::SO_SNDBUF)?, size(libc::SO_RCVBUF)?))
}

/// Sets them, beyond the administrator's bounds if that is allowed.
pub fn set_buffers(fd: BorrowedFd<'_>, (send, receive): (u32, u32)) -> io::Result<()> {
    let both = [(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send), (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive)];
    for (force, ask, size) in both {
        // The kernel doubles what it is told (socket(7)).
        let size = (size / 2) as c_int;
        set_option(fd, libc::SOL_SOCKET, force, size).or_else(|_| set_option(fd, libc::SOL_SOCKET, ask, size))?;
    }
    Ok(())
}

/// Lets the kernel fit the buffers to the connection again, as it does until their sizes are set. Older kernels (before 5.14) do not know this.
pub fn unlock_buffers(fd: BorrowedFd<'_>) {
    drop(set_option(fd, libc::SOL_SOCKET, SO_BUF_LOCK, 0));
}

/// Whether the socket may have an address that this host does not have, or not yet: to bind to, and to find a way from.
pub fn allow_foreign_address(fd: BorrowedFd<'_>, is_v4: bool, allowed: bool) -> io::Result<()> {
    let names = if is_v4 {
        [(libc::IPPROTO_IP, libc::IP_FREEBIND), (libc::IPPROTO_IP, libc::IP_TRANSPARENT)]
    } else {
        [(libc::IPPROTO_IPV6, IPV6_FREEBIND), (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)]
    };
    names.iter().try_for_each(|&(level, name)| set_option(fd, level, name, c_int::from(allowed)))
}

/// Ends the stream from the peer: reads find its end behind what is queued.
pub fn shutdown_read(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    unsafe { check(libc::shutdown(fd.as_raw_fd(), libc::SHUT_RD)).map(drop) }
}
