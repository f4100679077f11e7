//! The descriptor table, which outlives each engine that shared it.
use super::check;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

/// How long descriptors that nobody waits for stay open: an engine has taken over by then.
const LATER: Duration = Duration::from_millis(100);

/// A file in memory with these bytes.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    memory_file_of(&[bytes])
}

/// A file in memory with these bytes, one behind the other.
pub(crate) fn memory_file_of(parts: &[&[u8]]) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the call returns a new descriptor.
    let fd = check(unsafe { libc::memfd_create(c"vonic-kept".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let mut file = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    parts.iter().try_for_each(|part| file.write_all(part))?;
    Ok(file.into())
}

/// Every open descriptor of this process.
pub(crate) fn open_descriptors() -> io::Result<BTreeSet<RawFd>> {
    let mut open = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    // The one by which the folder was read is closed again.
    open.retain(|&fd| is_open(fd));
    Ok(open)
}

/// What [`sweep`] has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// How many descriptors were closed.
    pub(crate) closed: usize,
    /// Those that nobody waits for, and that may take long: the ends of an inotify(7) instance and of a netlink(7) socket wait for a grace
    /// period of the kernel's, up to 20 ms and more. They are open, for [`close_later`].
    pub(crate) left: Vec<RawFd>,
}

/// Closes every socket and device but these, which nobody else could have at the same address otherwise; what else is not to be kept is
/// left. TCP connections are reset: whoever is at their other ends is to know that they were cut off. The caller owns what it does
/// not name, and no other thread opens or closes anything meanwhile.
pub(crate) fn sweep(keep: &BTreeSet<RawFd>) -> io::Result<Swept> {
    let mut swept = Swept::default();
    for fd in open_but(keep)? {
        if !is_netlink(fd) && (reset_on_close(fd) || is_device(fd)) {
            swept.closed += usize::from(close(fd).is_ok());
        } else {
            swept.left.push(fd);
        }
    }
    Ok(swept)
}

/// Closes these, however long it takes, on a thread of its own, and not before guests have what they wait for: an epoll(7) instance with a
/// thousand sockets keeps a processor busy for a millisecond.
pub(crate) fn close_later(left: Vec<RawFd>) -> io::Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let body = move || {
        thread::sleep(LATER);
        left.into_iter().for_each(|fd| drop(close(fd)));
    };
    thread::Builder::new().name("sweep".into()).spawn(body).map(drop)
}

/// Every open descriptor that is not in `keep`. The time that it takes is that of the others: thousands of connections are kept.
fn open_but(keep: &BTreeSet<RawFd>) -> io::Result<Vec<RawFd>> {
    let others = (0..table_size()?).filter(|fd| !keep.contains(fd));
    let mut polls: Vec<_> = others.map(|fd| libc::pollfd { fd, events: 0, revents: 0 }).collect();
    // SAFETY: the entries are live and as many as said; no waiting.
    check(unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, 0) })?;
    // What was opened only to name a path (O_PATH), as for Landlock's rules, cannot be polled either.
    let is_open = |poll: &&libc::pollfd| poll.revents & libc::POLLNVAL == 0 || is_open(poll.fd);
    Ok(polls.iter().filter(is_open).map(|poll| poll.fd).collect())
}

/// No descriptor is as large (proc_pid_status(5), FDSize).
fn table_size() -> io::Result<RawFd> {
    let status = fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
    size.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Makes `numbers` taken, so that nothing that is opened from here on gets one of them.
pub(crate) fn reserve(numbers: &BTreeSet<RawFd>, with: BorrowedFd<'_>) -> io::Result<()> {
    numbers.iter().try_for_each(|&number| put(with, number))
}

/// Gives a descriptor this number, in place of what [`reserve`] has put there.
pub(crate) fn place(fd: OwnedFd, number: RawFd) -> io::Result<()> {
    put(fd.as_fd(), number)
}

fn put(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: dup3(2) takes integers. The caller knows that nobody owns what is open at this number.
    check(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) }).map(drop)
}

/// Takes standard input, and leaves /dev/null in its place.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let null = fs::File::open("/dev/null")?;
    // SAFETY: dup2(2) takes integers; number 0 is standard input, which stays open for the standard library.
    check(unsafe { libc::dup2(null.as_raw_fd(), 0) })?;
    Ok(taken)
}

/// Moves a descriptor to a number that is none of these.
pub(crate) fn move_off(fd: OwnedFd, numbers: &BTreeSet<RawFd>) -> io::Result<OwnedFd> {
    let mut copies = vec![fd];
    while let Some(last) = copies.last().filter(|fd| numbers.contains(&fd.as_raw_fd())) {
        let next = last.try_clone()?;
        copies.push(next);
    }
    copies.pop().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A connection that was accepted at this listener, besides those that are known.
pub(crate) fn accepted_at(listener: RawFd, known: &BTreeSet<RawFd>) -> io::Result<Option<RawFd>> {
    let Ok(own) = end(listener, libc::getsockname) else { return Ok(None) };
    let is_of = |fd: RawFd| {
        fd != listener
            && end(fd, libc::getpeername).is_ok()
            && end(fd, libc::getsockname).is_ok_and(|local| local == own)
    };
    Ok(open_but(known)?.into_iter().find(|&fd| is_of(fd)))
}

/// Family and port of one end of an IP socket: where a connection's own end is like its listener's, though that may have no address.
fn end(
    fd: RawFd,
    name: unsafe extern "C" fn(RawFd, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
) -> io::Result<(u16, [u8; 2])> {
    // SAFETY: zeros are a sockaddr_in6.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: place and length are valid for the call, which writes no more than that; the number need not be open.
    check(unsafe { name(fd, (&raw mut address).cast(), &raw mut length) })?;
    match i32::from(address.sin6_family) {
        // Both families have the port in the same place.
        libc::AF_INET | libc::AF_INET6 => Ok((address.sin6_family, address.sin6_port.to_ne_bytes())),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes an integer, of which nothing is expected, and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Has a TCP connection end by a reset; false for what is no socket.
fn reset_on_close(fd: RawFd) -> bool {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&at_once) as libc::socklen_t;
    // SAFETY: `at_once` outlives the call, which only reads it; what is no such socket takes no harm, and refuses.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const at_once).cast(), length) };
    set >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOTSOCK)
}

/// Nobody can want its address.
fn is_netlink(fd: RawFd) -> bool {
    let mut domain: libc::c_int = 0;
    let mut length = size_of_val(&domain) as libc::socklen_t;
    let (place, long) = ((&raw mut domain).cast(), &raw mut length);
    // SAFETY: place and length are valid for the call, which writes no more than that; what is no socket refuses.
    let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, place, long) };
    got >= 0 && domain == libc::AF_NETLINK
}

/// A tap, for one.
fn is_device(fd: RawFd) -> bool {
    // SAFETY: a stat of zeros is a value; the call writes a whole one, or fails.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the place is valid.
    unsafe { libc::fstat(fd, &raw mut stat) >= 0 && stat.st_mode & libc::S_IFMT == libc::S_IFCHR }
}

fn close(fd: RawFd) -> io::Result<()> {
    // SAFETY: by the word of the callers' callers the descriptor belongs to nobody: its owner was another process, which is dead.
    check(unsafe { libc::close(fd) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    /// An engine may end while it has any of them.
    #[test]
    fn every_kind_of_descriptor_is_seen() {
        let (file, pair) = (memory_file(b"").unwrap(), io::pipe().unwrap());
        let path = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/proc").unwrap();
        let kept = BTreeSet::from([pair.1.as_raw_fd()]);
        let open = open_but(&kept).unwrap();
        for fd in [file.as_raw_fd(), pair.0.as_raw_fd(), path.as_raw_fd()] {
            assert!(open.contains(&fd), "{fd} of {open:?}");
        }
        assert!(!open.contains(&pair.1.as_raw_fd()));
    }
}
