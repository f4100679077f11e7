//! Checked datagrams: every size from nothing up to a largest one, each answered by its like before the next one goes.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::pattern;

/// The least step between two sizes: a prime, so that every alignment occurs; about a hundred sizes make a round.
const STEP: usize = 61;
const SIZES: usize = 100;
/// How often one datagram is sent: the way may lose some, as UDP's does.
const TRIES: u32 = 3;

/// What was exchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exchanged {
    /// Datagrams that were answered.
    pub datagrams: u64,
    /// Their bytes, one way.
    pub bytes: u64,
    /// Datagrams that were sent again.
    pub again: u64,
}

/// Answers every datagram by its bytes in reverse, for ever.
///
/// # Errors
/// Of the socket; that a peer has gone is none.
pub fn reflect(socket: &UdpSocket) -> io::Result<()> {
    let mut data = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut data) {
            Ok((length, from)) => {
                data[..length].reverse();
                socket.send_to(&data[..length], from)?;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends datagrams of 0 to `largest` bytes to a reflector, all sizes `rounds` times, and checks every answer.
///
/// # Errors
/// Of the socket, a wrong answer, or none within `wait`.
pub fn exchange(to: SocketAddr, largest: usize, rounds: u64, wait: Duration) -> io::Result<Exchanged> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(wait / TRIES))?;
    let mut done = Exchanged::default();
    let step = STEP.max((largest / SIZES) | 1);
    for round in 0..rounds {
        for length in (0..largest).step_by(step).chain([largest]) {
            let mut data = vec![0; length];
            pattern::fill(&mut data, round, length as u64);
            done.again += one(&socket, &mut data, wait)?;
            done.datagrams += 1;
            done.bytes += length as u64;
        }
    }
    Ok(done)
}

/// Sends one until its answer comes; returns how often it was sent again.
fn one(socket: &UdpSocket, data: &mut [u8], wait: Duration) -> io::Result<u64> {
    let end = Instant::now() + wait;
    let mut answer = vec![0; 65_536];
    socket.send(data)?;
    data.reverse();
    let mut again = 0;
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == *data => return Ok(again),
            // The answer to one that was sent twice.
            Ok(_) if again > 0 && Instant::now() < end => {}
            Ok(length) => return Err(io::Error::other(format!("a wrong answer of {length} bytes to {}", data.len()))),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && Instant::now() < end =>
            {
                data.reverse();
                socket.send(data)?;
                data.reverse();
                again += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reflected_is_found_right() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || reflect(&server));
        let done = exchange(to, 1472, 2, Duration::from_secs(5)).unwrap();
        let sizes: u64 = (0..25).map(|i| i * 61).sum::<u64>() + 1472;
        assert_eq!((done.datagrams, done.bytes), (2 * 26, 2 * sizes));
        assert_eq!(exchange(to, 0, 3, Duration::from_secs(5)).unwrap().datagrams, 3);
    }
}
