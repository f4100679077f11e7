//! The descriptor table, which outlives each engine that shared it.
use super::check;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A file in memory with these bytes.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the call returns a new descriptor.
    let fd = check(unsafe { libc::memfd_create(c"vonic-kept".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let mut file = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes)?;
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

/// Closes every descriptor but these. TCP connections are reset: whoever is at their other ends is to know that they were cut
/// off. Returns how many were closed. The caller owns what it names, and no other thread opens or closes anything meanwhile.
pub(crate) fn close_all_but(keep: &BTreeSet<RawFd>) -> io::Result<usize> {
    let doomed = open_descriptors()?;
    let doomed = doomed.difference(keep);
    Ok(doomed.filter(|&&fd| reset_and_close(fd).is_ok()).count())
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
    let open = open_descriptors()?;
    let is_of = |fd: RawFd| {
        fd != listener
            && end(fd, libc::getpeername).is_ok()
            && end(fd, libc::getsockname).is_ok_and(|local| local == own)
    };
    Ok(open.difference(known).copied().find(|&fd| is_of(fd)))
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

fn reset_and_close(fd: RawFd) -> io::Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of_val(&at_once) as libc::socklen_t;
    // SAFETY: `at_once` outlives the call, which only reads it; what is no such socket takes no harm, and refuses.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const at_once).cast(), length) };
    // SAFETY: by the caller's word the descriptor belongs to nobody in this process: its owner was another one, which is dead.
    check(unsafe { libc::close(fd) }).map(drop)
}
