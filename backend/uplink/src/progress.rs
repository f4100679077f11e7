//! How far a connection's two streams are, by the kernel's own counters: what an engine that takes over a socket knows of it.
use crate::socket::{HostSocket, PeekMode};
use crate::sys::tcp::{self, Queues, States, Totals};
use std::io;
use std::os::fd::{AsFd, RawFd};

/// What has become of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// There is none: nobody has called connect yet.
    Nobody,
    /// The connect is in progress: nothing is counted yet.
    Connecting,
    /// It may send on.
    Open,
    /// Its stream has ended behind what is queued.
    Finished,
    /// It has reset, or could not be reached.
    Reset,
}

/// What whoever had the socket has put down of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// This side opened the connection, by a SYN that counts among what the peer has acknowledged.
    pub connected: bool,
    /// An end of our own was passed on, or was about to be.
    pub shut: bool,
    /// A reset was noticed, or may have been: the socket's error may be taken.
    pub aborted: bool,
}

/// Where both streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The peer.
    pub peer: Peer,
    /// Bytes that the socket has taken; an end of our own counts as one more.
    pub taken: u64,
    /// Of those, what the peer has not acknowledged.
    pub unacknowledged: u32,
    /// Bytes that were taken out of the receive queue.
    pub dropped: u64,
    /// Bytes that wait in it.
    pub queued: u32,
}

impl Progress {
    /// Of what the kernel says.
    fn of(totals: &Totals, queues: Queues, pending_error: bool, known: Known) -> Progress {
        let Known { connected, shut, aborted } = known;
        let Totals { state, acked, received } = *totals;
        let Queues { inq, outq } = queues;
        let peer = match state {
            States::SYN_SENT => Peer::Connecting,
            States::CLOSE_WAIT | States::LAST_ACK | States::CLOSING => Peer::Finished,
            States::CLOSE if aborted || pending_error => Peer::Reset,
            // A handshake would be counted.
            States::CLOSE if connected && acked == 0 => Peer::Nobody,
            // Both streams have ended in order, or else everything has ended at once.
            States::CLOSE if shut && outq == 0 => Peer::Finished,
            States::CLOSE => Peer::Reset,
            _ => Peer::Open,
        };
        // The peer's end has a place among what was received, and none in the queue.
        let end = u64::from(peer == Peer::Finished);
        Progress {
            peer,
            taken: (acked + u64::from(outq)).saturating_sub(u64::from(connected)),
            unacknowledged: outq,
            dropped: received.saturating_sub(end + u64::from(inq)),
            queued: inq,
        }
    }
}

impl HostSocket {
    /// Takes over a socket whose engine has died, by its number in the table that engines share; `None`: it is another socket by
    /// now, or none, and is left alone.
    ///
    /// # Errors
    /// The system's.
    pub fn resume(fd: RawFd, cookie: u64, mode: PeekMode) -> io::Result<Option<HostSocket>> {
        tcp::adopt(fd, cookie).map(|fd| HostSocket::of_world(fd, mode)).transpose()
    }

    /// What tells the socket from every other one of this host's, ever (SO_COOKIE).
    ///
    /// # Errors
    /// The system's.
    pub fn cookie(&self) -> io::Result<u64> {
        tcp::cookie(self.as_fd())
    }

    /// Where both streams are. Nothing may be sent or taken meanwhile; acknowledgments and data of the peer's may come. No pending
    /// error is taken by this.
    ///
    /// # Errors
    /// The system's.
    pub fn progress(&self, known: Known) -> io::Result<Progress> {
        // The counters and the queues' lengths are read by several calls. What was read between two equal readings belongs together.
        let mut before = tcp::totals(self.as_fd())?;
        loop {
            let queues = tcp::queues(self.as_fd())?;
            let after = tcp::totals(self.as_fd())?;
            if before == after {
                // Elsewhere an error is no end yet.
                let failed = after.state == States::CLOSE && tcp::has_error(self.as_fd())?;
                return Ok(Progress::of(&after, queues, failed, known));
            }
            before = after;
        }
    }
}
