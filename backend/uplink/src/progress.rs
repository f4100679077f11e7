//! How far a connection's two streams are, by the kernel's own counters: what an engine that takes over a socket knows of it.
#[cfg(feature = "crash-points")]
use crate::mutation::{self, Mutation};
use crate::socket::{HostSocket, PeekMode};
use crate::sys::repair;
use crate::sys::tcp::{self, Counters, States};
use std::io;
use std::os::fd::{AsFd, RawFd};

/// How often the counters are read again while they move. A reading takes microseconds. Where a peer sends a segment in each of so many, its
/// segments are thrown away for as long as the last of them take, as if lost on their way: it does not hold up everybody else's connections.
const READINGS: usize = 64;
/// How many of them may still move when nothing is let in: what has passed the filter's place before.
const LAST_READINGS: usize = 16;

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

/// How far a connection had come when its socket was made again on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connect is in progress.
    Connecting,
    /// The peer may send on.
    Open,
    /// The peer's end had come before, and does not come again.
    PeerFinished,
    /// Both streams have ended in order. The socket is nothing but a place for what the guest has yet to take.
    Over,
    /// The same after a reset.
    Reset,
}

/// Where a socket's counters begin. They count one socket's bytes, not a connection's: what moved before the socket was made again on
/// this host stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// This side opened the connection with this socket, by a SYN that counts among what the peer has acknowledged.
    pub connected: bool,
    /// How far the connection had come.
    pub stage: Stage,
    /// What [`Progress::taken`] was, less what the new socket has taken again; modulo 2³².
    pub taken: u32,
    /// What [`Progress::dropped`] was; modulo 2³².
    pub dropped: u32,
}

impl Origin {
    /// Of a socket that has had its connection from the beginning.
    pub const fn fresh(connected: bool) -> Origin {
        Origin { connected, stage: Stage::Open, taken: 0, dropped: 0 }
    }
}

/// What whoever had the socket has put down of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where its counters begin.
    pub origin: Origin,
    /// An end of our own was passed on, or was about to be.
    pub shut: bool,
    /// A reset was noticed, or may have been: the socket's error may be taken.
    pub aborted: bool,
}

/// Where both streams are. Of a socket that was made again the totals hold modulo 2³², as sequence numbers do.
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
    pub(crate) fn of(counters: &Counters, pending_error: bool, known: &Known) -> Progress {
        let Known { origin, shut, aborted } = known;
        let Counters { state, acked, received, inq, outq, .. } = *counters;
        let failed = pending_error || *aborted;
        // A handshake would be counted.
        let nobody = state == States::CLOSE && origin.connected && acked == 0 && !failed;
        // Whether the peer's end has come to this socket: then it has a place among what was received, and none in the queue.
        let end = match state {
            States::CLOSE_WAIT | States::LAST_ACK | States::CLOSING => true,
            #[cfg(feature = "crash-points")]
            States::CLOSE if mutation::is_set(Mutation::CloseIsFinished) => true,
            // Both streams have ended in order, or else everything has ended at once.
            States::CLOSE => *shut && outq == 0 && !failed && !nobody,
            _ => false,
        };
        let peer = match (state, origin.stage) {
            (_, Stage::Reset) => Peer::Reset,
            (_, Stage::Over) => Peer::Finished,
            (States::SYN_SENT, _) => Peer::Connecting,
            _ if nobody => Peer::Nobody,
            (States::CLOSE, _) if !end => Peer::Reset,
            (_, Stage::PeerFinished) => Peer::Finished,
            _ if end => Peer::Finished,
            _ => Peer::Open,
        };
        let taken = (acked + u64::from(outq)).saturating_sub(u64::from(origin.connected));
        let fin = u64::from(end);
        #[cfg(feature = "crash-points")]
        let fin = if mutation::is_set(Mutation::NoFinTerm) { 0 } else { fin };
        let dropped = received.saturating_sub(fin + u64::from(inq));
        let since = |base: u32, moved: u64| if base == 0 { moved } else { u64::from(base.wrapping_add(moved as u32)) };
        Progress {
            peer,
            taken: since(origin.taken, taken),
            unacknowledged: outq,
            dropped: since(origin.dropped, dropped),
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

    /// Of a connection that was reset: whether the peer's end had come before, which nothing counts. It has its place among the bytes received
    /// then. This may take the socket's error: the reset has to be on record. Once the error is taken it can be told no more, and over scratch
    /// memory only if nothing is queued.
    ///
    /// # Errors
    /// The system's.
    pub fn amend(&mut self, progress: &mut Progress) -> io::Result<()> {
        if progress.queued > 0 && self.peeks_over_scratch() || !tcp::has_error(self.as_fd())? {
            return Ok(());
        }
        if progress.queued > 0 {
            tcp::set_peek_offset(self.as_fd(), progress.queued as i32)?;
        }
        // Behind a FIN there is an end, behind all else the error (tcp_recvmsg_locked, net/ipv4/tcp.c).
        let ended = tcp::peek_byte(self.as_fd()).is_ok();
        progress.dropped -= u64::from(ended).min(progress.dropped);
        self.rewind()
    }

    /// Where both streams are. `shut`: an end of our own was passed on, or was about to be. Nothing may be sent or taken meanwhile;
    /// acknowledgments and data of the peer's may come. No pending error is taken by this.
    ///
    /// # Errors
    /// The system's; `TimedOut` if the counters do not come to rest though nothing is let in.
    pub fn progress(&self, known: &Known) -> io::Result<Progress> {
        // Whoever had it before may have died below. Fails where nothing is kept out.
        let _ = repair::let_in(self.as_fd());
        self.progress_after(READINGS, known)
    }

    /// The same, where nothing is let in after so many readings.
    fn progress_after(&self, readings: usize, known: &Known) -> io::Result<Progress> {
        if let Some(progress) = self.progress_within(readings, known)? {
            return Ok(progress);
        }
        repair::shut_out(self.as_fd())?;
        let progress = self.progress_within(LAST_READINGS, known);
        repair::let_in(self.as_fd())?;
        // Bytes counted twice or never would be the guest's.
        progress?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// The same; `None`: it could not be told by so many readings.
    fn progress_within(&self, readings: usize, known: &Known) -> io::Result<Option<Progress>> {
        // The counters and the queues' lengths are read by several calls. What was read between two equal readings belongs together.
        let mut before = tcp::counters(self.as_fd())?;
        for _ in 0..readings {
            let after = tcp::counters(self.as_fd())?;
            #[cfg(feature = "crash-points")]
            let after = if mutation::is_set(Mutation::SingleRead) { before } else { after };
            if before.same_place(&after) {
                return Ok(Some(Progress::of(&before, tcp::has_error(self.as_fd())?, known)));
            }
            before = after;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    const KNOWN: Known = Known { origin: Origin::fresh(true), shut: false, aborted: false };

    /// A connection, and its peer's end.
    fn line() -> (HostSocket, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let (socket, _) = HostSocket::connect(server.local_addr().unwrap(), PeekMode::Offset).unwrap();
        let peer = server.accept().unwrap().0;
        peer.set_nodelay(true).unwrap();
        (socket, peer)
    }

    fn comes_to(socket: &HostSocket, queued: u32) {
        let end = Instant::now() + Duration::from_secs(20);
        while socket.progress(&KNOWN).unwrap().queued != queued {
            assert!(Instant::now() < end, "{:?}", socket.progress(&KNOWN));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_peer_that_never_rests_is_kept_out_for_a_moment_and_loses_nothing() {
        let (socket, mut peer) = line();
        let enough = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let sends = scope.spawn(|| {
                let mut sent = 0;
                while !enough.load(Ordering::Relaxed) && sent < 30_000 {
                    sent += peer.write(&[1]).unwrap() as u32;
                }
                sent
            });
            for _ in 0..200 {
                socket.progress_after(0, &KNOWN).unwrap();
            }
            enough.store(true, Ordering::Relaxed);
            sends.join().unwrap()
        });
        comes_to(&socket, sent);
    }

    #[test]
    fn who_takes_over_from_one_that_died_while_nothing_was_let_in_lets_it_in() {
        let (socket, mut peer) = line();
        repair::shut_out(socket.as_fd()).unwrap();
        peer.write_all(&[1; 9]).unwrap();
        comes_to(&socket, 9);
    }
}
