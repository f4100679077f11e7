//! Do the kernel's counters say where both streams of a connection are, in each state that an engine may leave it in?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::time::{Duration, Instant};
use vonic_uplink::{Ahead, HostSocket, Known, Listener, Origin, PeekMode, Peer, Progress};

/// A host socket that vonic has, the same socket for writing, and its peer's end.
struct Line {
    socket: HostSocket,
    writes: TcpStream,
    peer: TcpStream,
    connected: bool,
    shut: bool,
}

impl Line {
    fn new(connected: bool) -> Line {
        let (socket, peer) = if connected {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let (socket, _) = HostSocket::connect(server.local_addr().unwrap(), PeekMode::Offset).unwrap();
            (socket, server.accept().unwrap().0)
        } else {
            let listener = Listener::bind("127.0.0.1:0".parse::<SocketAddr>().unwrap(), None).unwrap();
            let peer = TcpStream::connect(listener.local().unwrap()).unwrap();
            (HostSocket::accepted(listener.accept().unwrap().unwrap(), PeekMode::Offset).unwrap(), peer)
        };
        let writes = TcpStream::from(socket.as_fd().try_clone_to_owned().unwrap());
        Line { socket, writes, peer, connected, shut: false }
    }

    fn progress(&self) -> Progress {
        self.socket.progress(&Known { origin: Origin::fresh(self.connected), shut: self.shut, aborted: false }).unwrap()
    }

    /// The counters reach this; acknowledgments take a moment.
    fn becomes(&self, wanted: Progress) {
        let end = Instant::now() + Duration::from_secs(5);
        while self.progress() != wanted {
            assert!(Instant::now() < end, "{:?} instead of {wanted:?}", self.progress());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn shut(&mut self) {
        self.shut = true;
        self.socket.shutdown_write().unwrap();
    }
}

const START: Progress = Progress { peer: Peer::Open, taken: 0, unacknowledged: 0, dropped: 0, queued: 0 };

#[test]
fn bytes_are_counted_once_wherever_they_are() {
    for connected in [true, false] {
        let mut line = Line::new(connected);
        line.becomes(START);
        line.writes.write_all(&[7; 1001]).unwrap();
        line.becomes(Progress { taken: 1001, ..START });
        line.peer.write_all(&[8; 700]).unwrap();
        line.becomes(Progress { taken: 1001, queued: 700, ..START });
        assert_eq!(line.socket.discard(300).unwrap(), 300);
        assert_eq!(line.progress(), Progress { taken: 1001, dropped: 300, queued: 400, ..START });
    }
}

#[test]
fn what_the_peer_has_not_acknowledged_was_taken_all_the_same() {
    let mut line = Line::new(true);
    let mut taken = 0;
    // Until its buffers are full, and ours.
    while let Ok(n) = line.writes.write(&[0; 65536]) {
        taken += n as u64;
    }
    let progress = line.progress();
    assert!(progress.taken == taken && progress.unacknowledged > 0, "{progress:?}, {taken} written");
}

#[test]
fn the_ends_of_both_streams_have_their_places() {
    for connected in [true, false] {
        // The peer first: CLOSE-WAIT, then LAST-ACK or CLOSE.
        let mut line = Line::new(connected);
        line.peer.write_all(&[1; 50]).unwrap();
        line.peer.shutdown(Shutdown::Write).unwrap();
        let finished = Progress { peer: Peer::Finished, queued: 50, ..START };
        line.becomes(finished);
        line.socket.discard(20).unwrap();
        line.shut();
        line.becomes(Progress { taken: 1, dropped: 20, queued: 30, ..finished });
        // The guest first: FIN-WAIT-2, then CLOSE with bytes unread.
        let mut line = Line::new(connected);
        line.writes.write_all(&[2; 9]).unwrap();
        line.shut();
        line.becomes(Progress { taken: 10, ..START });
        let mut all = Vec::new();
        line.peer.read_to_end(&mut all).unwrap();
        line.peer.write_all(&[3; 11]).unwrap();
        drop(line.peer.try_clone().unwrap());
        line.peer.shutdown(Shutdown::Write).unwrap();
        line.becomes(Progress { peer: Peer::Finished, taken: 10, unacknowledged: 0, dropped: 0, queued: 11 });
    }
}

#[test]
fn a_reset_is_none_of_the_ends_and_stays_to_be_told() {
    for shut in [false, true] {
        let mut line = Line::new(true);
        line.writes.write_all(&[4; 100]).unwrap();
        if shut {
            line.shut();
        }
        line.becomes(Progress { taken: 100 + u64::from(shut), ..START });
        // Closed with bytes unread, the peer's kernel resets.
        drop(std::mem::replace(
            &mut line.peer,
            TcpStream::connect(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).unwrap(),
        ));
        let end = Instant::now() + Duration::from_secs(5);
        while line.progress().peer != Peer::Reset {
            assert!(Instant::now() < end, "{:?}", line.progress());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(line.progress().peer, Peer::Reset, "looking takes nothing away");
        assert!(line.socket.take_error().is_err());
    }
}

/// A peek that finds no byte takes the socket's error, and with it the only sign of a reset behind both ends.
#[test]
fn what_lies_ahead_is_told_and_no_error_is_taken() {
    for ends in [true, false] {
        let mut line = Line::new(true);
        // Closed with bytes unread, the peer's kernel resets.
        let unread = if ends { 0 } else { 10 };
        line.writes.write_all(&[4; 10][..unread]).unwrap();
        line.shut();
        assert_eq!(line.socket.ahead(0).unwrap(), Ahead::Nothing);
        line.peer.write_all(&[5; 70]).unwrap();
        line.becomes(Progress { taken: 1 + unread as u64, queued: 70, ..START });
        assert_eq!([69, 70].map(|offset| line.socket.ahead(offset).unwrap()), [Ahead::Bytes, Ahead::Nothing]);
        if ends {
            line.peer.shutdown(Shutdown::Write).unwrap();
        }
        drop(std::mem::replace(&mut line.peer, other()));
        let end = Instant::now() + Duration::from_secs(5);
        while line.socket.ahead(70).unwrap() == Ahead::Nothing {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        let behind = if ends { Ahead::End } else { Ahead::Failure };
        assert_eq!([69, 70, 70].map(|offset| line.socket.ahead(offset).unwrap()), [Ahead::Bytes, behind, behind]);
        assert_eq!(line.progress().peer, if ends { Peer::Finished } else { Peer::Reset });
        assert_eq!(line.socket.take_error().is_ok(), ends);
    }
}

/// The peer's end, and then a reset, since its application has gone with bytes unread: what it had sent before is all there.
#[test]
fn an_end_before_a_reset_is_no_byte() {
    for ends in [true, false] {
        let mut line = Line::new(true);
        line.writes.write_all(&[4; 10]).unwrap();
        line.peer.write_all(&[5; 70]).unwrap();
        line.becomes(Progress { taken: 10, queued: 70, ..START });
        line.socket.discard(30).unwrap();
        if ends {
            line.peer.shutdown(Shutdown::Write).unwrap();
            line.becomes(Progress { peer: Peer::Finished, taken: 10, dropped: 30, queued: 40, ..START });
        }
        drop(std::mem::replace(&mut line.peer, other()));
        let end = Instant::now() + Duration::from_secs(5);
        while line.progress().peer != Peer::Reset {
            assert!(Instant::now() < end, "{:?}", line.progress());
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whoever does it may die, and the next one does it again.
        for _ in 0..3 {
            let known = Known { origin: Origin::fresh(true), shut: false, aborted: true };
            let mut progress = line.socket.progress(&known).unwrap();
            line.socket.amend(&mut progress).unwrap();
            assert_eq!((progress.peer, progress.dropped, progress.queued), (Peer::Reset, 30, 40), "an end: {ends}");
        }
    }
}

/// A connection to nobody in particular.
fn other() -> TcpStream {
    TcpStream::connect(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).unwrap()
}

#[test]
fn only_the_same_socket_is_taken_over() {
    let line = Line::new(true);
    let (cookie, other) = (line.socket.cookie().unwrap(), Line::new(false));
    let again = line.socket.as_fd().try_clone_to_owned().unwrap().into_raw_fd();
    assert!(HostSocket::resume(again, cookie, PeekMode::Offset).unwrap().is_some());
    assert!(HostSocket::resume(other.socket.as_fd().as_raw_fd(), cookie, PeekMode::Offset).unwrap().is_none());
    assert!(HostSocket::resume(again, cookie, PeekMode::Offset).unwrap().is_none(), "it is closed");
}
