//! The one host that a fuzzed guest may reach: it says back what it hears, by TCP and by UDP, on loopback.
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

/// Connections at once; more take the place of the oldest, which is reset.
const PLACES: usize = 16;

/// Ports: TCP's, UDP's.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) tcp: u16,
    pub(crate) udp: u16,
}

/// The host; started when it is first asked for.
pub(crate) fn ports() -> Option<Ports> {
    static PORTS: OnceLock<Option<Ports>> = OnceLock::new();
    *PORTS.get_or_init(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        listener.set_nonblocking(true).ok()?;
        let ports = Ports { tcp: listener.local_addr().ok()?.port(), udp: socket.local_addr().ok()?.port() };
        thread::spawn(move || streams(&listener));
        thread::spawn(move || datagrams(&socket));
        Some(ports)
    })
}

fn streams(listener: &TcpListener) {
    let (mut open, mut next) = (Vec::<TcpStream>::new(), 0);
    let mut buffer = [0; 16 * 1024];
    loop {
        while let Ok((stream, _)) = listener.accept() {
            let _ = stream.set_nonblocking(true);
            if open.len() < PLACES {
                open.push(stream);
            } else {
                open[next % PLACES] = stream;
                next += 1;
            }
        }
        open.retain_mut(|stream| match stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => stream.write_all(&buffer[..n]).is_ok(),
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
        thread::sleep(Duration::from_micros(200));
    }
}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
        let loopback = matches!(from, SocketAddr::V4(from) if from.ip().is_loopback());
        if loopback {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}
