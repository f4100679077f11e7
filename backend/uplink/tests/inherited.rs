//! Are sockets known again by their numbers, with where they lead and with what waits in them, and others left alone?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use vonic_uplink::{DatagramSocket, Inherited, Listener, UdpListener};

const HOSTS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

/// Leaves a socket as an engine that is killed does: open, and nobody's.
fn leave(socket: impl AsRawFd) -> i32 {
    let number = socket.as_raw_fd();
    std::mem::forget(socket);
    number
}

fn arrives(mut what: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !what() {
        assert!(Instant::now() < end, "not within five seconds");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_waits_at_a_listener_is_accepted_by_the_next_engine() {
    for (host, interface) in HOSTS.into_iter().zip([None, Some("lo")]) {
        let listener = Listener::bind(host.parse().unwrap(), interface).unwrap();
        let (address, cookie) = (listener.local().unwrap(), listener.cookie().unwrap());
        let peers = [0, 1].map(|_| TcpStream::connect(address).unwrap());
        let number = leave(listener);
        assert!(Inherited::resume(number, cookie + 1).unwrap().is_none(), "another socket has this number now");
        let (socket, place) = Inherited::resume(number, cookie).unwrap().unwrap();
        assert_eq!(place, (address, interface.map(str::to_string)));
        let Inherited::Tcp(listener) = socket else { panic!("{socket:?}") };
        let came = [0, 1].map(|_| listener.accept().unwrap().unwrap().peer);
        assert_eq!(came, peers.map(|peer| peer.local_addr().unwrap()));
    }
    assert!(Inherited::resume(-1, 0).unwrap().is_none());
}

#[test]
fn what_waits_in_a_forwards_socket_is_there() {
    for (host, interface) in HOSTS.into_iter().zip([Some("lo"), None]) {
        let listener = UdpListener::bind(host.parse().unwrap(), interface).unwrap();
        let (address, cookie) = (listener.local(), listener.cookie().unwrap());
        UdpSocket::bind(host).unwrap().send_to(b"waits", address).unwrap();
        let (socket, place) = Inherited::resume(leave(listener), cookie).unwrap().unwrap();
        assert_eq!(place, (address, interface.map(str::to_string)));
        let Inherited::Udp(listener) = socket else { panic!("{socket:?}") };
        assert_eq!(listener.local(), address);
        arrives(|| listener.next_len().is_ok_and(|len| len == 5));
    }
}

#[test]
fn a_flows_socket_keeps_its_port_and_what_came() {
    for host in HOSTS {
        let peer = UdpSocket::bind(host).unwrap();
        let to: SocketAddr = peer.local_addr().unwrap();
        let flow = DatagramSocket::udp(to).unwrap();
        let cookie = flow.cookie().unwrap();
        let number = leave(flow);
        assert!(DatagramSocket::resume(number, cookie ^ 1, to.ip()).is_none());
        let flow = DatagramSocket::resume(number, cookie, to.ip()).unwrap();
        // It is connected as it was: nobody else can have its port.
        let own = flow.local().unwrap().port();
        peer.send_to(b"an answer", SocketAddr::new(to.ip(), own)).unwrap();
        arrives(|| flow.next_len().is_ok_and(|len| len == 9));
        drop(flow);
        assert!(DatagramSocket::resume(number, cookie, to.ip()).is_none(), "it is closed");
    }
}
