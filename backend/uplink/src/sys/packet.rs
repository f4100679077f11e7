//! Calls on a packet socket (packet(7)). Frames go through it by the same calls as through a tap (`super::tap`).
#![allow(unsafe_code)]
use super::tcp::{check, set_option};
use libc::c_int;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use vonic_frame::{MacAddr, VNET_HEADER_LEN};

/// Instructions of the kernel's filter machine (Documentation/networking/filter.rst of Linux): code, jumps if true and false, constant.
type Instruction = (u32, u8, u8, u32);
/// What stands beside the bytes: the tag that the kernel has taken off a frame (include/uapi/linux/filter.h, SKF_AD_VLAN_TAG).
const TAG: u32 = (-0x1000_i32 + 44) as u32;
/// Whether it has.
const IS_TAGGED: u32 = (-0x1000_i32 + 48) as u32;
/// IEEE 802.1Q: a tag's VLAN. 0 is none, the tag then says only how urgent the frame is.
const VLAN: u32 = 0xfff;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Opens a packet socket, non-blocking. It hears nothing before [`bind`].
///
/// # Errors
/// EPERM without CAP_NET_RAW.
pub fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers; a fresh descriptor is owned by nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?)) }
}

/// Frames carry a virtio-net header of 10 bytes, and those that leave the interface are not heard, whoever sent them.
///
/// # Errors
/// ENOPROTOOPT before Linux 4.20.
pub fn prepare(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set_option(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
}

/// Sets how many bytes the kernel keeps for each direction, beyond the host's limits if this process may. What it keeps is counted with all
/// that belongs to a frame in the kernel.
///
/// # Errors
/// The system's.
pub fn set_buffers(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    for (forced, limited) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        set_option(fd, libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| set_option(fd, libc::SOL_SOCKET, limited, bytes))?;
    }
    Ok(())
}

/// How many bytes the kernel keeps of what comes, as [`set_buffers`] counts them.
///
/// # Errors
/// The system's.
pub fn receive_buffer(fd: BorrowedFd<'_>) -> io::Result<c_int> {
    let (mut bytes, mut len) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
    let place = (&raw mut bytes).cast();
    // SAFETY: place and length are valid for the call, which writes no more than that.
    unsafe { check(libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, place, &raw mut len))? };
    // socket(7): it keeps twice of what was set, for what belongs to the bytes.
    Ok(bytes / 2)
}

/// Binds the socket to an interface: from here on it hears what its filter lets through.
///
/// # Errors
/// ENODEV.
pub fn bind(fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as c_int;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address outlives the call and `len` is its length.
    unsafe { check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len)).map(drop) }
}

/// The interface that the socket is bound to; `None`: that is gone, or the socket is another kind's.
pub fn bound_to(fd: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: place and length are valid for the call, which writes no more than that.
    unsafe { check(libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut len)).ok()? };
    let is_packet = i32::from(address.sll_family) == libc::AF_PACKET;
    u32::try_from(address.sll_ifindex).ok().filter(|index| is_packet && *index > 0)
}

/// What the interface is to let up for this socket's sake.
#[derive(Clone, Copy, Debug)]
pub enum Membership {
    /// Frames for this address, too.
    Unicast(MacAddr),
    /// Every group's.
    AllGroups,
}

/// Asks the interface for frames. They come to whoever listens there: a filter sorts them.
///
/// # Errors
/// The system's.
pub fn add_membership(fd: BorrowedFd<'_>, index: u32, wanted: Membership) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid packet_mreq.
    let mut request: libc::packet_mreq = unsafe { std::mem::zeroed() };
    request.mr_ifindex = index as c_int;
    match wanted {
        Membership::Unicast(MacAddr(address)) => {
            request.mr_type = libc::PACKET_MR_UNICAST as u16;
            request.mr_alen = 6;
            request.mr_address[..6].copy_from_slice(&address);
        }
        Membership::AllGroups => request.mr_type = libc::PACKET_MR_ALLMULTI as u16,
    }
    let (name, len) = (libc::PACKET_ADD_MEMBERSHIP, size_of::<libc::packet_mreq>() as libc::socklen_t);
    // SAFETY: the request outlives the call, and `len` is its length.
    unsafe {
        check(libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, name, (&raw const request).cast(), len)).map(drop)
    }
}

/// Lets frames for `guest` and for groups through, but none of a VLAN: it is another network's. `None`: lets nothing through.
///
/// # Errors
/// The system's.
pub fn set_filter(fd: BorrowedFd<'_>, guest: Option<MacAddr>) -> io::Result<()> {
    let nothing: [Instruction; 1] = [(RETURN, 0, 0, 0)];
    let Some(MacAddr([a, b, c, d, e, f])) = guest else { return attach(fd, &nothing) };
    let (high, low) = (u32::from_be_bytes([a, b, c, d]), u32::from(u16::from_be_bytes([e, f])));
    attach(
        fd,
        &[
            (LOAD_BYTE, 0, 0, IS_TAGGED),
            (IF_EQUAL, 3, 0, 0),
            (LOAD, 0, 0, TAG),
            (AND, 0, 0, VLAN),
            (IF_EQUAL, 0, 7, 0),
            (LOAD_BYTE, 0, 0, 0),
            (IF_SET, 4, 0, 1),
            (LOAD, 0, 0, 0),
            (IF_EQUAL, 0, 3, high),
            (LOAD_HALF, 0, 0, 4),
            (IF_EQUAL, 0, 1, low),
            (RETURN, 0, 0, u32::MAX),
            (RETURN, 0, 0, 0),
        ],
    )
}

fn attach(fd: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let instruction = |&(code, jt, jf, k): &Instruction| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter: Vec<libc::sock_filter> = program.iter().map(instruction).collect();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the program and its instructions outlive the call, which copies them.
    unsafe { check(libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const program).cast(), len)).map(drop) }
}

/// Frames that found no room in the socket since this was last asked (PACKET_STATISTICS).
///
/// # Errors
/// The system's.
pub fn take_drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: all-zero bytes are a valid tpacket_stats.
    let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let place = (&raw mut stats).cast();
    // SAFETY: place and length are valid for the call, which writes no more than that.
    unsafe { check(libc::getsockopt(fd.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, place, &raw mut len))? };
    Ok(stats.tp_drops)
}

/// Takes a frame unseen.
///
/// # Errors
/// As [`peek`].
pub fn discard(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut header = [0u8; VNET_HEADER_LEN];
    // SAFETY: buffer and length are valid for the call.
    let got = unsafe { libc::recv(fd.as_raw_fd(), header.as_mut_ptr().cast(), header.len(), 0) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The leading bytes of the frame that waits longest, behind its header; it goes on waiting. Returns the bytes of all of it.
///
/// # Errors
/// EAGAIN: none waits; EINVAL: its header cannot be told; ENETDOWN: the interface went down.
pub fn peek(fd: BorrowedFd<'_>, front: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_TRUNC;
    // SAFETY: buffer and length are valid for the call.
    let got = unsafe { libc::recv(fd.as_raw_fd(), front.as_mut_ptr().cast(), front.len(), flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}
