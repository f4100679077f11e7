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
    /// Answers that came once more.
    pub doubled: u64,
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

/// Sends datagrams of 0 to `largest` bytes to a reflector, all sizes `rounds` times, and checks every answer. `twice`: an answer may come
/// once more, as where something on the way has died between sending a datagram and knowing that it had.
///
/// # Errors
/// Of the socket, a wrong answer, or none within `wait`.
pub fn exchange(to: SocketAddr, largest: usize, rounds: u64, wait: Duration, twice: bool) -> io::Result<Exchanged> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(wait / TRIES))?;
    let mut done = Exchanged::default();
    let mut before = None;
    let step = STEP.max((largest / SIZES) | 1);
    for round in 0..rounds {
        for length in (0..largest).step_by(step).chain([largest]) {
            let mut data = vec![0; length];
            pattern::fill(&mut data, round, length as u64);
            one(&socket, &mut data, before.as_deref(), wait, &mut done)?;
            done.datagrams += 1;
            done.bytes += length as u64;
            before = twice.then_some(data);
        }
    }
    Ok(done)
}

/// Sends one until its answer comes, which `data` is then. The answer `before` it may come once more.
fn one(
    socket: &UdpSocket,
    data: &mut [u8],
    before: Option<&[u8]>,
    wait: Duration,
    done: &mut Exchanged,
) -> io::Result<()> {
    let end = Instant::now() + wait;
    let mut answer = vec![0; 65_536];
    socket.send(data)?;
    data.reverse();
    let mut again = 0;
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == *data => return Ok(()),
            Ok(length) if before == Some(&answer[..length]) && Instant::now() < end => done.doubled += 1,
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
                done.again += 1;
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
        let done = exchange(to, 1472, 2, Duration::from_secs(5), false).unwrap();
        let sizes: u64 = (0..25).map(|i| i * 61).sum::<u64>() + 1472;
        assert_eq!((done.datagrams, done.bytes), (2 * 26, 2 * sizes));
        assert_eq!(exchange(to, 0, 3, Duration::from_secs(5), false).unwrap().datagrams, 3);
    }

    #[test]
    fn an_answer_that_comes_twice_is_an_error_unless_it_may() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut data = vec![0; 65_536];
            loop {
                let (length, from) = server.recv_from(&mut data).unwrap();
                data[..length].reverse();
                (0..2).for_each(|_| drop(server.send_to(&data[..length], from)));
            }
        });
        let done = exchange(to, 610, 1, Duration::from_secs(5), true).unwrap();
        assert_eq!((done.datagrams, done.again, done.doubled), (11, 0, 10));
        assert!(exchange(to, 610, 1, Duration::from_secs(5), false).unwrap_err().to_string().contains("wrong answer"));
    }
}
