//! Whether resolvers answer.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);
/// What is asked: who is responsible for the root (RFC 1035 §4.1), which every resolver knows.
const QUESTION: [u8; 17] = [0x76, 0x6f, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// Asks each, all at once; why one did not answer.
pub(super) fn ask(all: Vec<SocketAddr>) -> Vec<(SocketAddr, Option<String>)> {
    thread::scope(|scope| {
        let asked: Vec<_> = all.into_iter().map(|to| (to, scope.spawn(move || question(to)))).collect();
        let answer = |(to, thread): (SocketAddr, thread::ScopedJoinHandle<'_, io::Result<()>>)| {
            let answer = thread.join().unwrap_or_else(|_| Err(io::Error::other("it could not be asked")));
            (to, answer.err().map(|error| why(&error)))
        };
        asked.into_iter().map(answer).collect()
    })
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("nothing came within {} s", LIMIT.as_secs()),
        _ => error.to_string(),
    }
}

fn question(to: SocketAddr) -> io::Result<()> {
    let from: SocketAddr =
        if to.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.send(&QUESTION)?;
    let until = Instant::now() + LIMIT;
    let mut answer = [0; 512];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut answer)?;
        // An answer to this question, whatever it says: somebody works there.
        if length >= 12 && answer[..2] == QUESTION[..2] && answer[2] & 0x80 != 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_answers_and_one_that_is_not_there() {
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = resolver.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut question = [0; 512];
            let (length, from) = resolver.recv_from(&mut question).unwrap();
            resolver.send_to(b"nonsense that is long enough", from).unwrap();
            question[2] |= 0x80;
            resolver.send_to(&question[..length], from).unwrap();
        });
        let asked = ask(vec![at, nobody]);
        server.join().unwrap();
        assert_eq!(asked[0], (at, None));
        assert!(asked[1].1.as_ref().is_some_and(|why| why.contains("refused")), "{asked:?}");
    }
}
