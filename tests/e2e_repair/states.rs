//! The states that a connection can be in when its guest moves: how it gets there, and how it ends well afterwards.
use crate::line::{End, Host, finish, wait};
use std::net::Shutdown;
use vonic_uplink::Peer;

/// A state.
pub struct State {
    pub name: &'static str,
    /// Leads there; answers the peer's end, if that stays open.
    pub begin: fn(&mut Host, End) -> Option<End>,
    /// Everything that is left arrives.
    pub end: fn(&mut Host, Option<End>),
}

pub const STATES: &[State] = &[
    State {
        name: "ESTABLISHED, idle",
        begin: |_, peer| Some(peer),
        end: |host, peer| {
            let mut peer = peer.unwrap();
            assert!(host.end.write(50_000) && peer.write(40_000));
            both_end(host, peer);
        },
    },
    State {
        name: "ESTABLISHED, all queues and windows full",
        begin: |host, mut peer| {
            host.end.fill();
            peer.fill();
            Some(peer)
        },
        end: |host, peer| both_end(host, peer.unwrap()),
    },
    State {
        name: "FIN-WAIT-1, the end behind what is not sent",
        begin: |host, peer| {
            host.end.fill();
            host.shut();
            Some(peer)
        },
        end: |host, peer| {
            let mut peer = peer.unwrap();
            peer.read_all(host.end.wrote);
            assert!(peer.write(10_000));
            finish(&peer);
            host.end.read_all(peer.wrote);
        },
    },
    State {
        name: "FIN-WAIT-2",
        begin: |host, mut peer| {
            host.end.write(1000);
            host.shut();
            peer.read_all(1000);
            wait("the end's acknowledgment", || host.progress().unacknowledged == 0);
            Some(peer)
        },
        end: |host, peer| {
            let mut peer = peer.unwrap();
            assert!(peer.write(300_000));
            finish(&peer);
            host.end.read_all(peer.wrote);
        },
    },
    State {
        name: "CLOSE-WAIT with unread bytes",
        begin: |host, peer| peer_ends(host, peer, 7000, 3000),
        end: end_behind_the_peer,
    },
    State {
        name: "CLOSE-WAIT, all read",
        begin: |host, peer| peer_ends(host, peer, 7000, 7000),
        end: end_behind_the_peer,
    },
    State {
        name: "CLOSING",
        begin: |host, peer| {
            host.end.fill();
            host.shut();
            peer_ends(host, peer, 4000, 100)
        },
        end: |host, peer| {
            peer.unwrap().read_all(host.end.wrote);
            host.end.read_all(4000);
        },
    },
    State {
        name: "LAST-ACK",
        begin: |host, peer| {
            let peer = peer_ends(host, peer, 4000, 100);
            host.end.fill();
            host.shut();
            peer
        },
        end: |host, peer| {
            peer.unwrap().read_all(host.end.wrote);
            host.end.read_all(4000);
        },
    },
    State {
        name: "CLOSE behind LAST-ACK, with unread bytes",
        begin: |host, peer| {
            let mut peer = peer_ends(host, peer, 3000, 10)?;
            host.end.write(20);
            host.shut();
            peer.read_all(20);
            None
        },
        end: |host, _| host.end.read_all(3000),
    },
    State {
        name: "CLOSE behind TIME-WAIT, with unread bytes",
        begin: |host, mut peer| {
            host.end.write(20);
            host.shut();
            peer.read_all(20);
            peer_ends(host, peer, 3000, 10)?;
            None
        },
        end: |host, _| host.end.read_all(3000),
    },
    State {
        name: "CLOSE by a reset, with unread bytes",
        begin: |host, mut peer| {
            peer.write(3000);
            wait("the peer's bytes", || host.progress().queued == 3000);
            host.end.write(20);
            wait("their acknowledgment", || host.progress().unacknowledged == 0);
            // Closed over unread bytes, the peer's kernel resets.
            drop(peer);
            wait("the reset", || host.progress().peer == Peer::Reset);
            None
        },
        end: |host, _| {
            assert_eq!(host.progress().peer, Peer::Reset);
            assert!(host.end.read(3000) && host.end.read == 3000);
        },
    },
];

/// The peer sends so many bytes and its end, of which the guest takes some.
fn peer_ends(host: &mut Host, mut peer: End, sent: usize, taken: usize) -> Option<End> {
    assert!(peer.write(sent));
    finish(&peer);
    wait("the peer's end", || host.progress().peer == Peer::Finished);
    assert!(host.end.read(taken));
    Some(peer)
}

/// Both say goodbye, and hear it.
pub fn both_end(host: &mut Host, mut peer: End) {
    host.shut();
    peer.stream.shutdown(Shutdown::Write).unwrap();
    // In turn, since what one reads makes room for its end.
    peer.read_all(host.end.wrote);
    host.end.read_all(peer.wrote);
}

/// The peer has ended behind 7,000 bytes; this end says more, and ends too.
fn end_behind_the_peer(host: &mut Host, peer: Option<End>) {
    assert!(host.end.write(80_000));
    host.end.read_all(7000);
    host.shut();
    peer.unwrap().read_all(host.end.wrote);
}
