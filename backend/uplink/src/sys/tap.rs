//! Calls on a tap device (Documentation/networking/tuntap.rst of Linux).
#![allow(unsafe_code)]
use super::tcp::check;
use libc::{c_int, c_short, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use vonic_frame::{MacAddr, VNET_HEADER_LEN};
use vonic_queue::IoVecs;

/// Opens /dev/net/tun, non-blocking.
///
/// # Errors
/// The system's.
pub fn open() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero; a fresh descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::open(c"/dev/net/tun".as_ptr(), flags))?)) }
}

/// Creates the device: with virtio-net headers, without packet information, and new (IFF_TUN_EXCL). `%d` in the name is
/// replaced by the kernel with a free number. Returns the name.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN, EBUSY for a name in use, EINVAL for one that cannot be.
pub fn create(fd: BorrowedFd<'_>, name: &str) -> io::Result<String> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request))? };
    let name = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The name of the device that a descriptor belongs to (TUNGETIFF).
///
/// # Errors
/// ENOTTY, EBADFD, EBADF: it belongs to none.
pub fn name(fd: BorrowedFd<'_>) -> io::Result<String> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes an ifreq; no other driver knows the number as one of its own.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request))? };
    let name = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The tap with this number in the table that engines share, and its interface's name; `None`: the number is another thing's. Nobody
/// else in this process owns it: its owner was another one, which is dead.
pub fn adopt(fd: RawFd) -> Option<(OwnedFd, String)> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the borrow ends before this function does; a number that is not open makes the call fail.
    let name = name(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    // SAFETY: a tap's descriptor is kept for its record only, which is how the caller has this number.
    Some((unsafe { OwnedFd::from_raw_fd(fd) }, name))
}

fn set_int(fd: BorrowedFd<'_>, request: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: the request reads an int.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), request, &raw const value)).map(drop) }
}

/// Sets the header's form: 12 bytes (virtio 1.3 §5.1.6), little-endian on every host.
///
/// # Errors
/// The system's.
pub fn set_header(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::TUNSETVNETLE, 1)?;
    set_int(fd, libc::TUNSETVNETHDRSZ, VNET_HEADER_LEN as c_int)
}

/// Sets what may come up unfinished: a set of TUN_F_….
///
/// # Errors
/// The system's.
pub fn set_offloads(fd: BorrowedFd<'_>, offloads: c_uint) -> io::Result<()> {
    // SAFETY: the request takes an integer in the place of a pointer.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))).map(drop) }
}

/// Lets only frames for `mac` and for groups come up.
///
/// # Errors
/// The system's.
pub fn set_filter(fd: BorrowedFd<'_>, mac: MacAddr) -> io::Result<()> {
    /// `struct tun_filter` with one address (include/uapi/linux/if_tun.h).
    #[repr(C)]
    struct Filter {
        flags: u16,
        count: u16,
        address: [u8; 6],
    }
    let filter = Filter { flags: libc::TUN_FLT_ALLMULTI as u16, count: 1, address: mac.0 };
    // SAFETY: the request reads a tun_filter with as many addresses as it states.
    unsafe { check(libc::ioctl(fd.as_raw_fd(), libc::TUNSETTXFILTER, &raw const filter)).map(drop) }
}

/// writev(2): one frame behind its virtio-net header. A device takes all of it or nothing.
///
/// # Errors
/// EAGAIN: full; EIO: down; EBADFD: the device is gone; EINVAL: the kernel takes no such frame.
pub fn write(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<()> {
    let list = vecs.as_slice();
    // SAFETY: IoVecs holds checked ranges that stay mapped while it is borrowed; the kernel only reads them.
    let result = unsafe { libc::writev(fd.as_raw_fd(), list.as_ptr(), list.len() as c_int) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// readv(2): one frame behind its virtio-net header; bytes for which there is no room are lost. Returns the bytes read.
///
/// # Errors
/// EAGAIN: no frame waits; EBADFD: the device is gone.
pub fn read(fd: BorrowedFd<'_>, vecs: &IoVecs<'_>) -> io::Result<usize> {
    let list = vecs.as_slice();
    // SAFETY: as for `write`; the ranges are writable, and no reference to guest memory exists anywhere.
    let got = unsafe { libc::readv(fd.as_raw_fd(), list.as_ptr(), list.len() as c_int) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Takes a frame out of the device's queue unseen; false if none waits.
pub fn discard(fd: BorrowedFd<'_>) -> bool {
    let mut header = [0u8; VNET_HEADER_LEN];
    // SAFETY: buffer and length are valid for the call.
    unsafe { libc::read(fd.as_raw_fd(), header.as_mut_ptr().cast(), header.len()) >= 0 }
}
