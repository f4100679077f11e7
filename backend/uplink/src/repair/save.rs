//! On the host that a connection leaves.
use super::{Agreed, QUEUE_MAX, SocketState};
use crate::progress::{Known, Peer, Progress, Stage};
use crate::socket::{HostSocket, PeekMode};
use crate::sys::listener::{local_address, remote_address};
use crate::sys::repair::{self as sys, Queue, Repair};
use crate::sys::tcp::{self, Counters, States};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Readings of a socket before it is given up as one that does not come to rest.
const READINGS: usize = 8;
/// TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE (include/uapi/linux/tcp.h).
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const SCALED: u8 = 4;

/// Why a connection cannot leave this host. Displayed to the operator.
#[derive(Debug)]
pub enum SaveError {
    /// So many bytes wait in one of its queues: more than [`QUEUE_MAX`].
    TooLong(usize),
    /// Something was still on its way through the kernel.
    Restless,
    /// The system's.
    System(io::Error),
}

impl fmt::Display for SaveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SaveError::TooLong(bytes) => {
                write!(f, "{bytes} bytes wait in one of its queues, at most {QUEUE_MAX} can travel")
            }
            SaveError::Restless => write!(f, "its socket did not come to rest"),
            SaveError::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SaveError {}

impl From<io::Error> for SaveError {
    fn from(error: io::Error) -> SaveError {
        SaveError::System(error)
    }
}

/// A socket that lets nothing in. Dropping it closes it without a word to the peer, which is right once the connection goes on elsewhere:
/// the kernel answers segments of a connection without a socket by a reset, so keep it until the address has left this host.
#[derive(Debug)]
pub struct Frozen(HostSocket);

impl HostSocket {
    /// Whether it was stopped for another host, by whoever had it before.
    pub fn is_frozen(&self) -> bool {
        sys::is_under_repair(self.as_fd())
    }

    /// Stops the connection where it is: what comes for it is thrown away from now on, as if lost on its way.
    ///
    /// # Errors
    /// The system's, with the socket as it was: EPERM without CAP_NET_ADMIN; EOPNOTSUPP for a connection to vonic's own service.
    pub fn freeze(self) -> Result<Frozen, (HostSocket, io::Error)> {
        if !self.hang_up_is_reset() {
            return Err((self, io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        }
        // The filter first: repair alone keeps nothing out.
        let stopped = sys::shut_out(self.as_fd()).and_then(|()| sys::set_repair(self.as_fd(), Repair::On));
        match stopped {
            Ok(()) => Ok(Frozen(self)),
            Err(error) => {
                drop(sys::let_in(self.as_fd()));
                Err((self, error))
            }
        }
    }
}

impl Frozen {
    /// This end of it.
    ///
    /// # Errors
    /// The system's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        local_address(self.0.as_fd())
    }

    /// Reads everything that another host needs. `known` is as for [`HostSocket::progress`]; `remote` is where the socket led, for those
    /// that the kernel has forgotten it of.
    ///
    /// # Errors
    /// See [`SaveError`]: the connection is to be thawed, or reset.
    pub fn save(&self, known: &Known, remote: SocketAddr) -> Result<SocketState, SaveError> {
        let fd = self.0.as_fd();
        let mut before = tcp::counters(fd)?;
        // A segment may have passed the filter's place before the filter was there.
        for _ in 0..READINGS {
            let progress = Progress::of(&before, tcp::has_error(fd)?, known);
            let state = self.read(&before, &progress, known, remote)?;
            let after = tcp::counters(fd)?;
            if before.same_place(&after) {
                return Ok(state);
            }
            before = after;
        }
        Err(SaveError::Restless)
    }

    fn read(
        &self,
        counters: &Counters,
        progress: &Progress,
        known: &Known,
        remote: SocketAddr,
    ) -> Result<SocketState, SaveError> {
        let fd = self.0.as_fd();
        // A socket that is not connected any more, or not yet, names no peer.
        let remote = remote_address(fd).unwrap_or(remote);
        let mut state = SocketState::new(local_address(fd)?, remote, stage(counters, progress, known.origin.stage));
        state.taken = progress.taken as u32;
        state.dropped = progress.dropped as u32;
        if state.stage == Stage::Connecting {
            return Ok(state);
        }
        self.read_received(counters, &mut state)?;
        state.buffers = sys::buffers(fd)?;
        if matches!(state.stage, Stage::Open | Stage::PeerFinished) {
            read_to_send(fd, counters, &mut state)?;
            state.agreed = agreed(fd, counters)?;
            state.window = sys::window(fd)?.into();
        }
        Ok(state)
    }

    fn read_received(&self, counters: &Counters, state: &mut SocketState) -> Result<(), SaveError> {
        let fd = self.0.as_fd();
        sys::select_queue(fd, Queue::Receive)?;
        let length = counters.inq as usize;
        // The peer's end counts here. What is acknowledged has to stay so; that the bytes then seem to lie one further on, nobody sees.
        state.received_to = sys::queue_sequence(fd)?;
        // A peek stops at an urgent mark (tcp(7)); the next one goes on behind it, if the kernel's cursor moves.
        if self.0.peek_mode() == PeekMode::Offset {
            tcp::set_peek_offset(fd, 0)?;
        }
        read_queue(fd, length, &mut state.received)
    }

    /// Goes on as if nothing had been. What was thrown away meanwhile was lost on its way to the socket.
    ///
    /// # Errors
    /// The system's; the connection is over then.
    pub fn thaw(self) -> io::Result<HostSocket> {
        let Frozen(mut socket) = self;
        let fd = socket.as_fd();
        sys::select_queue(fd, Queue::None)?;
        // The end of repair asks the peer where it is: its answer is to get in.
        sys::let_in(fd)?;
        sys::set_repair(fd, Repair::Off)?;
        // Repair leaves it unset.
        tcp::share_address(fd)?;
        socket.rewind()?;
        Ok(socket)
    }
}

fn stage(counters: &Counters, progress: &Progress, origin: Stage) -> Stage {
    match (origin, progress.peer) {
        (_, Peer::Nobody | Peer::Connecting) => Stage::Connecting,
        (_, Peer::Reset) => Stage::Reset,
        (Stage::Over, _) => Stage::Over,
        (_, Peer::Finished) if counters.state == States::CLOSE => Stage::Over,
        (_, Peer::Finished) => Stage::PeerFinished,
        (_, Peer::Open) => Stage::Open,
    }
}

fn read_to_send(fd: BorrowedFd<'_>, counters: &Counters, state: &mut SocketState) -> Result<(), SaveError> {
    // An end of our own counts in every number here while it is not acknowledged. Where it is, it is sent once more, at the same place:
    // that is the only way to a socket that has sent one.
    let queued = matches!(counters.state, States::FIN_WAIT1 | States::LAST_ACK | States::CLOSING);
    let acknowledged = counters.state == States::FIN_WAIT2;
    state.shut = queued || acknowledged;
    // From here on nothing new goes out by the socket's own timers: the kernel takes what it would send as sent, while this queue is
    // selected (tcp_write_xmit, net/ipv4/tcp_output.c). Else the peer would acknowledge what the new socket has not sent.
    sys::select_queue(fd, Queue::Send)?;
    let behind = counters.outq + u32::from(acknowledged);
    state.send_from = sys::queue_sequence(fd)?.wrapping_sub(behind);
    let unsent = sys::unsent(fd)?;
    state.unsent = unsent.saturating_sub(u32::from(queued));
    read_queue(fd, counters.outq.saturating_sub(u32::from(queued)) as usize, &mut state.send)
}

fn read_queue(fd: BorrowedFd<'_>, length: usize, to: &mut Vec<u8>) -> Result<(), SaveError> {
    if length > QUEUE_MAX {
        return Err(SaveError::TooLong(length));
    }
    while to.len() < length {
        if sys::peek(fd, to, length - to.len())? == 0 {
            return Err(SaveError::Restless);
        }
    }
    Ok(())
}

fn agreed(fd: BorrowedFd<'_>, counters: &Counters) -> io::Result<Agreed> {
    let has = |option| counters.options & option != 0;
    Ok(Agreed {
        mss: sys::announced_mss(fd)?,
        scales: has(SCALED).then_some((counters.scales & 0xf, counters.scales >> 4)),
        sack: has(SACK),
        timestamp: if has(TIMESTAMPS) { Some(ahead(sys::timestamp(fd)?)) } else { None },
    })
}

/// A clock that is ahead of what the old socket still says, while it is kept: it goes on repeating what was not acknowledged, with
/// timestamps from which the peer would take the new socket's for old ones (RFC 7323 §5).
fn ahead(clock: u32) -> u32 {
    // The lowest bit says whether it counts microseconds, or milliseconds.
    let second = if clock & 1 == 1 { 1_000_000 } else { 1000 };
    clock.wrapping_add(60 * second)
}
