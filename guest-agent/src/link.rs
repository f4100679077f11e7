//! The connection to vonic: HTTP/1.1 requests one after the other on one connection (RFC 9112), as much of it as is needed.
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use vonic_agent::message::PATH;

/// How long a connect, and how long one request with its answer may take.
const LIMIT: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER_MAX: usize = 16 * 1024;

/// Why a message was not taken.
#[derive(Debug)]
pub enum Failure {
    /// The way there.
    Io(io::Error),
    /// What answers is no HTTP server.
    Garbage,
    /// It says no.
    Refused(u16, String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(error) => error.fmt(f),
            Failure::Garbage => write!(f, "the answer is no HTTP: is this guest's NIC vonic's?"),
            Failure::Refused(status, text) => write!(f, "refused with status {status}: {text}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

/// An open connection.
pub struct Link {
    stream: TcpStream,
    host: String,
    /// The version of the message that its other end has taken.
    pub version: Option<u32>,
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn open(to: SocketAddr) -> io::Result<Link> {
        let stream = TcpStream::connect_timeout(&to, LIMIT)?;
        stream.set_nodelay(true)?;
        // A zone means something on this host only (RFC 6874 §1).
        let host = match to {
            SocketAddr::V4(to) => to.ip().to_string(),
            SocketAddr::V6(to) => format!("[{}]", to.ip()),
        };
        Ok(Link { stream, host, version: None })
    }

    /// Posts a message and waits until it is taken; true if the connection can carry another one.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn post(&mut self, body: &[u8]) -> Result<bool, Failure> {
        let (end, host) = (Instant::now() + LIMIT, &self.host);
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.stream.set_write_timeout(Some(LIMIT))?;
        // One segment: nobody waits for the second half.
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut got = Vec::new();
        loop {
            if let Some(answer) = Answer::read(&got)? {
                return match answer.status {
                    200..=299 => Ok(answer.keep),
                    status => Err(Failure::Refused(status, answer.text)),
                };
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 1024];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) => got.extend_from_slice(&buffer[..n]),
                // What a read timeout is called (SO_RCVTIMEO, socket(7)).
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::from(io::ErrorKind::TimedOut).into());
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    keep: bool,
    text: String,
}

impl Answer {
    /// The answer at the beginning of `bytes`; `None` while it is not all there.
    fn read(bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        if bytes.len() > ANSWER_MAX {
            return Err(Failure::Garbage);
        }
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.ok_or(Failure::Garbage)?;
        let (mut length, mut keep) = (0, true);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = value.parse().map_err(|_| Failure::Garbage)?,
                ("connection", value) => keep = !value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let body = &bytes[end + 4..];
        if length > ANSWER_MAX {
            return Err(Failure::Garbage);
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let clean = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '?' };
        Ok(Some(Answer { status, keep, text: body.iter().map(clean).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let text: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno\x1b!";
        for end in 0..text.len() {
            assert!(matches!(Answer::read(&text[..end]), Ok(None)), "{end}");
        }
        let answer = Answer::read(text).unwrap().unwrap();
        assert_eq!(answer, Answer { status: 400, keep: false, text: "no?!".into() });
        let short = Answer::read(b"HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n").unwrap().unwrap();
        assert_eq!((short.status, short.keep), (204, true));
        for garbage in ["SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n"] {
            assert!(matches!(Answer::read(garbage.as_bytes()), Err(Failure::Garbage)), "{garbage}");
        }
        assert!(matches!(Answer::read(&[b'x'; ANSWER_MAX + 1]), Err(Failure::Garbage)));
    }

    /// A server that gives each of `answers` to one request, and then ends the connection.
    fn server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            for answer in answers {
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn one_connection_carries_many_messages() {
        let taken = "HTTP/1.1 204 No Content\r\n\r\n";
        let refused = "HTTP/1.1 413 Too Long\r\ncontent-length: 4\r\n\r\nlong";
        let mut link = Link::open(server(vec![taken, taken, refused])).unwrap();
        assert!(link.post(b"{}").unwrap());
        assert!(link.post(b"{}").unwrap());
        let failure = link.post(b"{}").unwrap_err();
        assert_eq!(failure.to_string(), "refused with status 413: long");
        assert!(matches!(link.post(b"{}").unwrap_err(), Failure::Io(_)));
    }

    #[test]
    fn a_server_that_says_nothing_is_left_after_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut link = Link::open(listener.local_addr().unwrap()).unwrap();
        let begin = Instant::now();
        let failure = link.post(b"{}").unwrap_err();
        assert!(matches!(failure, Failure::Io(e) if e.kind() == io::ErrorKind::TimedOut));
        assert!(begin.elapsed() < LIMIT * 2);
    }
}
