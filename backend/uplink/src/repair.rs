//! A connection's socket leaves this host, or comes to it: its kernel state as plain data (TCP_REPAIR, ADR 0013).
//!
//! On the source: [`HostSocket::freeze`], [`Frozen::save`], and then either [`Frozen::thaw`], as if nothing had been, or a drop, which the
//! peer does not see. On the target: [`SocketState::restore`], and as soon as the address is here, [`Parked::release`].
mod restore;
mod save;

pub use restore::Parked;
pub use save::{Frozen, SaveError};

use crate::progress::Stage;
use crate::sys::repair::{self as sys, Repair, RepairWindow};
use crate::sys::tcp;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

/// Bytes of a queue, at most, that travel with a connection.
pub const QUEUE_MAX: usize = 64 << 20;

/// What both SYNs agreed to on the connection with the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The MSS that the peer announced.
    pub mss: u32,
    /// Shifts of the peer's windows and of ours; `None`: windows are not scaled.
    pub scales: Option<(u8, u8)>,
    /// Selective acknowledgments.
    pub sack: bool,
    /// The clock of our timestamps, as the kernel wants it back; `None`: there are none.
    pub timestamp: Option<u32>,
}

/// Everything of a host's socket that another host needs to go on with its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketState {
    /// This end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// How far the connection has come.
    pub stage: Stage,
    /// An end of our own was sent, or is queued.
    pub shut: bool,
    /// [`Progress::taken`](crate::Progress::taken), modulo 2³².
    pub taken: u32,
    /// [`Progress::dropped`](crate::Progress::dropped), modulo 2³².
    pub dropped: u32,
    /// Sequence number of the first byte to send; of our end if there are none but it.
    pub send_from: u32,
    /// What the peer has not acknowledged.
    pub send: Vec<u8>,
    /// Of those, how many were not sent yet.
    pub unsent: u32,
    /// Sequence number behind the bytes received. Where these are there, the peer's end does not count.
    pub received_to: u32,
    /// What the guest has not acknowledged.
    pub received: Vec<u8>,
    /// From the SYNs.
    pub agreed: Agreed,
    /// snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup: the kernel's windows (struct tcp_repair_window).
    pub window: [u32; 5],
    /// Sizes of the buffers to send and to receive, as the kernel counts them.
    pub buffers: (u32, u32),
}

impl SocketState {
    /// Of a connection that has exchanged nothing yet.
    fn new(local: SocketAddr, remote: SocketAddr, stage: Stage) -> SocketState {
        SocketState {
            local,
            remote,
            stage,
            shut: false,
            taken: 0,
            dropped: 0,
            send_from: 0,
            send: Vec::new(),
            unsent: 0,
            received_to: 0,
            received: Vec::new(),
            agreed: Agreed { mss: 0, scales: None, sack: false, timestamp: None },
            window: [0; 5],
            buffers: (0, 0),
        }
    }
}

impl From<RepairWindow> for [u32; 5] {
    fn from(window: RepairWindow) -> [u32; 5] {
        let RepairWindow { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup } = window;
        [snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup]
    }
}

/// Whether sockets can travel, i.e. whether this process may use TCP_REPAIR in its network namespace.
///
/// # Errors
/// The system's: EPERM without CAP_NET_ADMIN.
pub fn can_repair() -> io::Result<()> {
    let socket = tcp::stream_socket(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
    sys::set_repair(socket.as_fd(), Repair::On)
}
