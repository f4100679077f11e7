//! On the host that a connection comes to.
use super::SocketState;
use crate::progress::{Known, Origin, Stage};
use crate::socket::{HostSocket, PeekMode};
use crate::sys::listener::bind;
use crate::sys::repair::{self as sys, OptionKind, Queue, Repair, RepairOption, RepairWindow};
use crate::sys::tcp;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes given to a receive queue at once: each piece is one buffer of the kernel's.
const PIECE: usize = 64 << 10;
/// What buffers get beyond twice what they have to hold, for the kernel's overhead.
const SPARE: u32 = 256 << 10;

/// A connection that has come to this host and does not speak yet. Dropped, it is gone without a word.
#[derive(Debug)]
pub struct Parked {
    /// `None`: it is still to connect.
    socket: Option<OwnedFd>,
    remote: SocketAddr,
    known: Known,
    /// What was not sent yet, from this place on.
    unsent: (Vec<u8>, usize),
}

impl SocketState {
    /// Makes the socket again, of what is left empty then. Its address need not be on this host yet. What could not be made can be tried again.
    ///
    /// # Errors
    /// The system's: EPERM without CAP_NET_ADMIN, ENETUNREACH without a way to the peer, EADDRNOTAVAIL or EADDRINUSE if this host has
    /// such a connection already, EAGAIN or ENOMEM if the kernel has no room for the queues.
    pub fn restore(&mut self) -> io::Result<Parked> {
        let socket = match self.stage {
            Stage::Connecting => None,
            Stage::Open | Stage::PeerFinished => Some(make(self)?),
            Stage::Over | Stage::Reset => Some(make_place(self)?),
        };
        let known = self.known();
        let sent = self.send.len().saturating_sub(self.unsent as usize);
        Ok(Parked { socket, remote: self.remote, known, unsent: (std::mem::take(&mut self.send), sent) })
    }

    /// What is to be put down of the new socket. What is put into its queue to send is counted when the peer acknowledges it, an end too;
    /// what is put into its queue of bytes received counts as received there.
    fn known(&self) -> Known {
        let connecting = self.stage == Stage::Connecting;
        let again = self.send.len() as u32 + u32::from(self.shut);
        let origin = Origin {
            connected: false,
            stage: self.stage,
            taken: self.taken.wrapping_sub(again),
            dropped: self.dropped,
        };
        Known {
            shut: self.shut || self.stage == Stage::Over,
            aborted: self.stage == Stage::Reset,
            origin: if connecting { Origin::fresh(true) } else { origin },
        }
    }
}

impl Parked {
    /// Speaks: the peer is asked where it is, and everything goes on. By what is known of it, the
    /// socket's [progress](HostSocket::progress) can be told.
    ///
    /// # Errors
    /// The system's. The connection cannot go on.
    pub fn release(self, mode: PeekMode) -> io::Result<(HostSocket, Known)> {
        let Some(socket) = self.socket else {
            return HostSocket::connect(self.remote, mode).map(|(socket, _)| (socket, self.known));
        };
        let fd = socket.as_fd();
        let speaks = matches!(self.known.origin.stage, Stage::Open | Stage::PeerFinished);
        if speaks {
            sys::allow_foreign_address(fd, self.remote.is_ipv4(), false)?;
        }
        sys::set_repair(fd, if speaks { Repair::Off } else { Repair::OffSilently })?;
        // Repair leaves it unset; forwards listen on the same port.
        tcp::share_address(fd)?;
        let (bytes, sent) = &self.unsent;
        fill(fd, &bytes[*sent..], usize::MAX)?;
        if speaks && self.known.shut {
            tcp::shutdown_write(fd)?;
        }
        if self.known.origin.stage != Stage::Open {
            // The end that does not come again.
            sys::shutdown_read(fd)?;
        }
        sys::unlock_buffers(fd);
        HostSocket::of_world(socket, mode).map(|socket| (socket, self.known))
    }
}

fn make(state: &SocketState) -> io::Result<OwnedFd> {
    let socket = new_socket(state, state.local)?;
    let fd = socket.as_fd();
    sys::allow_foreign_address(fd, state.local.is_ipv4(), true)?;
    bind(fd, state.local, None)?;
    sys::select_queue(fd, Queue::Send)?;
    sys::set_queue_sequence(fd, state.send_from)?;
    sys::select_queue(fd, Queue::Receive)?;
    sys::set_queue_sequence(fd, state.received_to.wrapping_sub(state.received.len() as u32))?;
    if let Some(clock) = state.agreed.timestamp {
        sys::set_timestamp(fd, clock)?;
    }
    // The kernel fits its segments to the peer's MSS when it connects, and not again.
    sys::limit_mss(fd, state.agreed.mss)?;
    tcp::connect(fd, &state.remote)?;
    sys::set_agreed(fd, &options(state))?;
    fill(fd, &state.received, PIECE)?;
    sys::select_queue(fd, Queue::Send)?;
    fill(fd, &state.send[..state.send.len().saturating_sub(state.unsent as usize)], usize::MAX)?;
    sys::select_queue(fd, Queue::None)?;
    sys::set_window(fd, &window(state))?;
    Ok(socket)
}

/// A place for the bytes of a connection that is over: its peer knows nothing of it any more, so it leads nowhere, on loopback.
fn make_place(state: &SocketState) -> io::Result<OwnedFd> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = new_socket(state, loopback(0))?;
    let fd = socket.as_fd();
    bind(fd, loopback(0), None)?;
    sys::select_queue(fd, Queue::Receive)?;
    // The discard port (RFC 863): nothing is sent there.
    tcp::connect(fd, &loopback(9))?;
    fill(fd, &state.received, PIECE)?;
    sys::select_queue(fd, Queue::None)?;
    tcp::set_keepalive(fd, false)?;
    Ok(socket)
}

/// A socket under repair with every host socket's options and room for the queues.
fn new_socket(state: &SocketState, like: SocketAddr) -> io::Result<OwnedFd> {
    let socket = tcp::stream_socket(&like)?;
    let fd = socket.as_fd();
    tcp::prepare(&socket)?;
    sys::set_repair(fd, Repair::On)?;
    let room = |size: u32, queue: &Vec<u8>| size.max((queue.len() as u32).saturating_mul(2).saturating_add(SPARE));
    let (send, receive) = state.buffers;
    // Before the connection is there: the kernel bounds its windows by what the buffer is then.
    sys::set_buffers(fd, (room(send, &state.send), room(receive, &state.received)))?;
    Ok(socket)
}

fn options(state: &SocketState) -> Vec<RepairOption> {
    let agreed = state.agreed;
    let mut options = vec![RepairOption { code: OptionKind::MSS, value: agreed.mss }];
    if let Some((theirs, ours)) = agreed.scales {
        options.push(RepairOption { code: OptionKind::WINDOW, value: u32::from(theirs) | u32::from(ours) << 16 });
    }
    if agreed.sack {
        options.push(RepairOption { code: OptionKind::SACK_PERMITTED, value: 0 });
    }
    if agreed.timestamp.is_some() {
        options.push(RepairOption { code: OptionKind::TIMESTAMP, value: 0 });
    }
    options
}

fn window(state: &SocketState) -> RepairWindow {
    let [snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup] = state.window;
    RepairWindow { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup }
}

/// Gives all bytes to the selected queue, in pieces of at most so many.
fn fill(fd: BorrowedFd<'_>, mut bytes: &[u8], piece: usize) -> io::Result<()> {
    while !bytes.is_empty() {
        let taken = sys::fill(fd, &bytes[..bytes.len().min(piece)])?;
        bytes = &bytes[taken..];
    }
    Ok(())
}
