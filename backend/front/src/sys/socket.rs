//! Sockets, and what a descriptor says of itself.
use super::check;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most descriptors that one message may carry (vhost-user: one per memory region, and the crates take 32).
const MAX_FDS: usize = 32;

/// Reads at most `buffer.len()` bytes without waiting, and adds the descriptors that came with them, close-on-exec, to
/// `fds`. Zero: the end. ENOBUFS: more descriptors than a message may carry, or than this process may hold; all are closed.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    match receive_up_to::<{ (16 + MAX_FDS * 4) / 8 }>(socket, buffer, fds, libc::MSG_DONTWAIT)? {
        Some(read) if fds.len() <= MAX_FDS => Ok(read),
        _ => {
            fds.clear();
            Err(io::Error::from_raw_os_error(libc::ENOBUFS))
        }
    }
}

/// As [`receive`], but waits, and takes as many descriptors as a message can carry at all.
pub(crate) fn receive_many(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    receive_up_to::<{ (16 + SCM_MAX_FD * 4).div_ceil(8) }>(socket, buffer, fds, 0)?
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOBUFS))
}

/// Reads with room for descriptors of so many words. None: there was no room for all, and none is left open.
fn receive_up_to<const WORDS: usize>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: libc::c_int,
) -> io::Result<Option<usize>> {
    // u64s, for cmsghdr's alignment.
    let mut control = [MaybeUninit::<u64>::uninit(); WORDS];
    let mut data = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data, for which zeros are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: `message` points to live buffers of the lengths that it gives.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC | flags) };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: recvmsg filled the control buffer up to `msg_controllen`, which is what the CMSG functions walk; the data of
    // an SCM_RIGHTS message are descriptors that now belong to this process and to nobody else in it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(control) = header.as_ref() {
            if control.cmsg_level == libc::SOL_SOCKET && control.cmsg_type == libc::SCM_RIGHTS {
                let bytes = control.cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(first.add(i).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        fds.clear();
        return Ok(None);
    }
    Ok(Some(read as usize))
}

/// Most descriptors that one message can carry (unix(7)).
pub(crate) const SCM_MAX_FD: usize = 253;

/// Two connected sockets that keep messages apart and tell the end.
pub(crate) fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that socketpair(2) writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both were just opened and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Takes over a descriptor that the engine names by number. It must be open, and from here on nobody else's.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes and gives integers, also for a number that is not open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and the sender of the number gave it up (the channel's contract).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another descriptor, close-on-exec, for what is open at this number.
pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes and gives integers, also for a number that is not open.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: it was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// How a file may be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FdUse {
    /// Opened for reading and writing, and no seal forbids to write.
    pub(crate) writable: bool,
    /// A seal keeps it from becoming shorter.
    pub(crate) cannot_shrink: bool,
}

/// Access mode and seals (memfd_create(2)) of a file; one that cannot be sealed has none.
pub(crate) fn fd_use(fd: BorrowedFd<'_>) -> io::Result<FdUse> {
    // SAFETY: F_GETFL takes and gives integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: F_GET_SEALS takes and gives integers.
    let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }.max(0);
    let sealed_off = seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0;
    Ok(FdUse {
        writable: flags & libc::O_ACCMODE == libc::O_RDWR && !sealed_off,
        cannot_shrink: seals & libc::F_SEAL_SHRINK != 0,
    })
}

/// The kind of file system that a file lies on (statfs(2)). Asks nobody who serves it, but for a FUSE that lets in everybody.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: statfs is plain data, for which zeros are a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` outlives the call.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut found) })?;
    // Its width is the machine's, its values have 32 bits.
    Ok(found.f_type as u32)
}

/// Is this a stream socket of the unix family?
pub(crate) fn is_unix_stream(fd: BorrowedFd<'_>) -> bool {
    let option = |name| {
        let mut value: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        let place = (&raw mut value).cast();
        // SAFETY: `value` and `length` outlive the call, and `length` is the size of `value`.
        let result = unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, place, &raw mut length) };
        (result == 0).then_some(value)
    };
    option(libc::SO_DOMAIN) == Some(libc::AF_UNIX) && option(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// Has the other end of this socket gone?
pub(crate) fn hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd that outlives the call, which does not wait.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}

/// A unix stream socket, non-blocking, bound to nothing.
fn unix_stream() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes integers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: it was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn unix_address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: sockaddr_un is plain data, for which zeros are a value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() {
        let limit = address.sun_path.len() - 1;
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a socket's path has 1 to {limit} bytes")));
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// A non-blocking connection to the unix socket at `path`. Does not wait: `WouldBlock` is a full backlog.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (socket, (address, length)) = (unix_stream()?, unix_address(path)?);
    // SAFETY: `address` outlives the call and is `length` long.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

/// Does anybody listen on the unix socket at `path`? Does not wait: a full backlog is an answer too.
pub(crate) fn is_served(path: &Path) -> io::Result<bool> {
    match connect(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(e) => Err(e),
    }
}

/// A non-blocking socket at `path` that does not listen yet: nobody can connect before its permissions are set.
pub(crate) fn bind(path: &Path) -> io::Result<OwnedFd> {
    let (socket, (address, length)) = (unix_stream()?, unix_address(path)?);
    // SAFETY: `address` outlives the call and is `length` long.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

/// Lets others connect, of whom so many may wait.
pub(crate) fn listen(socket: BorrowedFd<'_>, waiting: i32) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), waiting) }).map(drop)
}
