//! Host sockets against the kernel's loopback. What moves payload is tested with guests, where guest memory is.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vonic_uplink::classify::{ConnectError, SendError, connect_error, send_error};
use vonic_uplink::{Connecting, DatagramSocket, HostSocket, Listener, OpenError, PeekMode, host_addresses};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn any_port() -> SocketAddr {
    SocketAddr::new(LOOPBACK, 0)
}

/// Waits for what a non-blocking call has set going.
fn eventually<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(Instant::now() < end, "not within five seconds");
        std::thread::yield_now();
    }
}

#[test]
fn a_listener_takes_connections_and_says_who_came() {
    let listener = Listener::bind(any_port(), None).unwrap();
    let address = listener.local().unwrap();
    assert!(listener.accept().unwrap().is_none());
    let client = TcpStream::connect(address).unwrap();
    let accepted = eventually(|| listener.accept().unwrap());
    assert_eq!(accepted.peer, client.local_addr().unwrap());
    let taken = Listener::bind(address, None).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
}

#[test]
fn an_interface_that_is_not_there_is_an_error() {
    assert!(Listener::bind(any_port(), Some("no-such-if")).is_err());
    Listener::bind(any_port(), Some("lo")).unwrap();
}

#[test]
fn a_connect_ends_well_or_is_refused() {
    let server = TcpListener::bind(any_port()).unwrap();
    let address = server.local_addr().unwrap();
    let (socket, state) = HostSocket::connect(address, PeekMode::Offset).unwrap();
    assert!(matches!(state, Connecting::Done | Connecting::InProgress));
    server.accept().unwrap();
    socket.take_error().unwrap();
    let room = socket.send_room().unwrap();
    assert!(room.free > 4096 && room.writable);
    drop(server);
    let refused = match HostSocket::connect(address, PeekMode::Offset) {
        Err(error) => error,
        Ok((socket, _)) => eventually(|| socket.take_error().err()),
    };
    assert_eq!(connect_error(&refused), ConnectError::Refused);
}

#[test]
fn an_abort_is_a_reset_and_a_close_is_an_end() {
    let server = TcpListener::bind(any_port()).unwrap();
    let connect = || HostSocket::connect(server.local_addr().unwrap(), PeekMode::Offset).unwrap().0;
    let (aborted, mut peer) = (connect(), server.accept().unwrap().0);
    aborted.abort();
    assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (closed, mut peer) = (connect(), server.accept().unwrap().0);
    drop(closed);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn errors_of_connect_have_a_meaning_for_the_guest() {
    let of = |code| connect_error(&io::Error::from_raw_os_error(code));
    assert_eq!(of(libc::ECONNREFUSED), ConnectError::Refused);
    assert_eq!(of(libc::EHOSTUNREACH), ConnectError::Unreachable(1));
    assert_eq!(of(libc::ENETUNREACH), ConnectError::Unreachable(0));
    assert_eq!(of(libc::EPERM), ConnectError::Unreachable(13));
    assert_eq!(of(libc::ETIMEDOUT), ConnectError::TimedOut);
    assert_eq!(of(libc::EMFILE), ConnectError::Exhausted);
}

#[test]
fn errors_of_sending_have_a_meaning_for_the_guest() {
    let of = |code| send_error(&io::Error::from_raw_os_error(code));
    assert_eq!(of(libc::EMSGSIZE), SendError::TooBig);
    assert_eq!(of(libc::EHOSTUNREACH), SendError::Unreachable(1));
    assert_eq!(of(libc::ECONNREFUSED), SendError::Unreachable(3));
    assert_eq!(of(libc::EPERM), SendError::Unreachable(13));
    assert_eq!([of(libc::EAGAIN), of(libc::ENOBUFS), of(libc::EMFILE)], [SendError::Busy; 3]);
    assert_eq!(send_error(&ErrorKind::WouldBlock.into()), SendError::Busy);
}

/// What this host says of ping sockets depends on its settings; that the answer is the right one of two does not.
#[test]
fn a_ping_socket_is_there_or_not_permitted() {
    match DatagramSocket::echo(LOOPBACK) {
        Ok(socket) => {
            assert!(socket.mtu().unwrap() > 1000);
            assert!(socket.next_error().is_none() && !socket.skip());
        }
        Err(OpenError::NotPermitted(error)) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        Err(OpenError::Failed(error)) => panic!("{error}"),
    }
}

#[test]
fn the_hosts_addresses_are_known() {
    assert!(host_addresses().unwrap().contains(&LOOPBACK));
}

/// A connection to vonic's own service behaves like one to the world, by what a leg asks of it.
#[test]
fn a_service_connection_has_room_until_it_is_full_and_tells_of_its_end() {
    let (mut socket, far) = HostSocket::service(PeekMode::Offset).unwrap();
    let mut far = UnixStream::from(far);
    socket.take_error().unwrap();
    let room = socket.send_room().unwrap();
    assert!(room.free > 65_536 && room.writable, "{room:?}");
    // What a leg makes a window of, three quarters, is taken in segments of 536 bytes, the least that RFC 9293 §3.7.1 expects.
    let mut near = UnixStream::from(socket.as_fd().try_clone_to_owned().unwrap());
    let mut taken = 0;
    while taken + 536 <= room.free / 4 * 3 {
        near.write_all(&[7; 536]).unwrap();
        taken += 536;
    }
    let left = socket.send_room().unwrap();
    assert!(left.free < room.free / 4 && !left.writable, "{left:?}");
    let filled = (0..2000).find_map(|_| near.write(&[7; 536]).err()).unwrap();
    assert_eq!((filled.kind(), socket.send_room().unwrap().free), (ErrorKind::WouldBlock, 0));
    far.set_nonblocking(false).unwrap();
    far.read_exact(&mut vec![0; taken as usize]).unwrap();
    assert!(socket.send_room().unwrap().writable);
    far.write_all(&[9; 10_000]).unwrap();
    assert_eq!(socket.discard(9_990).unwrap(), 9_990);
    assert_eq!(near.read(&mut [0; 64]).unwrap(), 10);
    socket.shutdown_write().unwrap();
    assert!(far.read_to_end(&mut Vec::new()).is_ok());
    assert!(!socket.hang_up_is_reset());
}

/// What is not asked for is a reset (the kernel's close when vonicd is killed: `e2e_systemd`); what is dropped ends in order.
#[test]
fn a_close_that_is_wanted_ends_the_stream_in_order() {
    let server = TcpListener::bind(any_port()).unwrap();
    let forward = Listener::bind(any_port(), None).unwrap();
    let connected = || {
        let (socket, _) = HostSocket::connect(server.local_addr().unwrap(), PeekMode::Offset).unwrap();
        (socket, server.accept().unwrap().0)
    };
    let accepted = || {
        let peer = TcpStream::connect(forward.local().unwrap()).unwrap();
        (HostSocket::accepted(eventually(|| forward.accept().unwrap()), PeekMode::Offset).unwrap(), peer)
    };
    for (socket, mut peer) in [connected(), accepted()] {
        drop(socket);
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }
    for (socket, mut peer) in [connected(), accepted()] {
        socket.abort();
        assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
