//! Sessions over TCP. The client says in its first 32 bytes what it wants; the server does its part:
//!
//! | operation | client | server |
//! |---|---|---|
//! | sink | sends the stream, half-closes, reads the count | checks every byte, answers the count after the FIN, closes |
//! | source | checks every byte, answers the count after the FIN, half-closes | sends the stream, half-closes, reads the count |
//! | both | sends the stream and half-closes, checks every byte meanwhile, reads the count | the same; answers the count when it has all |
//! | echo | sends a block, reads it back, closes | sends back what it got |
//! | cut | checks every byte, answers one, expects a reset | sends the stream, reads the byte, resets |
//! | abandon | sends the stream, reads one byte, resets | checks every byte, answers one, expects a reset |

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::{pattern, sys};

const MAGIC: &[u8; 8] = b"VONICPER";
const HEADER: usize = 32;
const BLOCK: usize = 128 * 1024;

/// What a client asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Client to server.
    Sink,
    /// Server to client.
    Source,
    /// Both directions at once.
    Both,
    /// A block there and back.
    Echo,
    /// Server to client; the server resets.
    Cut,
    /// Client to server; the client resets.
    Abandon,
}

impl Operation {
    /// All there are.
    pub const ALL: [Operation; 6] =
        [Operation::Sink, Operation::Source, Operation::Both, Operation::Echo, Operation::Cut, Operation::Abandon];
}

/// One session's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// What is done.
    pub operation: Operation,
    /// Length of the stream, in each direction that carries one.
    pub bytes: u64,
    /// The stream's content; see [`pattern`].
    pub seed: u64,
    /// Hundredths of a second for which receivers of the stream sleep before they read it.
    pub pause: u8,
}

impl Session {
    fn encode(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8] = self.operation as u8;
        header[9] = self.pause;
        header[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        header[24..].copy_from_slice(&self.seed.to_le_bytes());
        header
    }

    fn read(stream: &mut TcpStream) -> io::Result<Session> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let number = |at: usize| header[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        match Operation::ALL.get(usize::from(header[8])) {
            Some(&operation) if &header[..8] == MAGIC => {
                Ok(Session { operation, bytes: number(16), seed: number(24), pause: header[9] })
            }
            _ => Err(invalid("not a session header")),
        }
    }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Sends the stream.
fn write_stream(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut sent = 0;
    while sent < session.bytes {
        let length = (session.bytes - sent).min(BLOCK as u64) as usize;
        pattern::fill(&mut buffer[..length], session.seed, sent);
        stream.write_all(&buffer[..length])?;
        sent += length as u64;
    }
    Ok(())
}

/// Sends the stream and half-closes.
fn send(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    write_stream(stream, session)?;
    stream.shutdown(Shutdown::Write)
}

/// Reads exactly the stream; a byte more, less or other is an error.
fn receive(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    if session.pause > 0 {
        thread::sleep(Duration::from_millis(10) * u32::from(session.pause));
    }
    let mut buffer = vec![0; BLOCK];
    let mut received = 0;
    while received < session.bytes {
        let length = (session.bytes - received).min(BLOCK as u64) as usize;
        match stream.read(&mut buffer[..length]) {
            Ok(0) => return Err(invalid(format!("ended after {received} of {} bytes", session.bytes))),
            // A read with a timeout ends so when its process was stopped (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("after {received} bytes: {error}"))),
            Ok(got) => {
                pattern::check(&buffer[..got], session.seed, received).map_err(|wrong| invalid(wrong.to_string()))?;
                received += got as u64;
            }
        }
    }
    Ok(())
}

fn expect_end(stream: &mut TcpStream) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(invalid("more bytes than were sent")),
    }
}

/// The receiver's word that it got everything, sent after the sender's FIN.
fn confirm(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    expect_end(stream)?;
    stream.write_all(&session.bytes.to_le_bytes())
}

fn expect_confirmation(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    if u64::from_le_bytes(count) != session.bytes {
        return Err(invalid("the receiver counted otherwise"));
    }
    expect_end(stream)
}

/// The sender's part of a stream that ends by its reset, once the receiver has all of it.
fn send_and_reset(mut stream: TcpStream, session: &Session) -> io::Result<()> {
    write_stream(&mut stream, session)?;
    stream.read_exact(&mut [0])?;
    sys::reset_on_close(&stream)
}

/// The receiver's part of it.
fn receive_and_be_reset(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    receive(stream, session)?;
    stream.write_all(&[1])?;
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Ok(0) => Err(invalid("an orderly end instead of a reset")),
        Ok(_) => Err(invalid("more bytes than were sent")),
        Err(error) => Err(error),
    }
}

/// `sender` on one thread, the stream read and checked on this one.
fn at_once(
    stream: &mut TcpStream,
    session: &Session,
    sender: fn(&mut TcpStream, &Session) -> io::Result<()>,
) -> io::Result<()> {
    let mut other = stream.try_clone()?;
    thread::scope(|scope| {
        let sender = scope.spawn(move || sender(&mut other, session));
        let received = receive(stream, session);
        let sent = sender.join().unwrap_or_else(|_| Err(invalid("the sending thread died")));
        received.and(sent)
    })
}

/// Runs the client's part of `session` over a fresh connection. `timeout` bounds each wait (connect, read, write).
///
/// # Errors
/// Of the socket; `InvalidData` if a byte is wrong, missing or too many.
pub fn client(address: SocketAddr, session: &Session, timeout: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    set_timeouts(&stream, timeout)?;
    stream.write_all(&session.encode())?;
    match session.operation {
        Operation::Sink => {
            send(&mut stream, session)?;
            expect_confirmation(&mut stream, session)
        }
        Operation::Source => {
            receive(&mut stream, session)?;
            confirm(&mut stream, session)?;
            stream.shutdown(Shutdown::Write)
        }
        Operation::Both => {
            at_once(&mut stream, session, send)?;
            expect_confirmation(&mut stream, session)
        }
        Operation::Echo => {
            let mut block = vec![0; session.bytes as usize];
            pattern::fill(&mut block, session.seed, 0);
            stream.write_all(&block)?;
            receive(&mut stream, session)
        }
        Operation::Cut => receive_and_be_reset(&mut stream, session),
        Operation::Abandon => send_and_reset(stream, session),
    }
}

fn set_timeouts(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))
}

/// What became of one session on the server's side.
#[derive(Debug)]
pub struct Served {
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// What was asked, if that much was heard.
    pub session: Option<Session>,
    /// How it ended.
    pub result: io::Result<()>,
}

fn serve_one(stream: &mut TcpStream, timeout: Duration) -> (Option<Session>, io::Result<()>) {
    let session = match set_timeouts(stream, timeout).and_then(|()| Session::read(stream)) {
        Ok(session) => session,
        Err(error) => return (None, Err(error)),
    };
    let result = match session.operation {
        Operation::Sink => receive(stream, &session).and_then(|()| confirm(stream, &session)),
        Operation::Source => send(stream, &session).and_then(|()| expect_confirmation(stream, &session)),
        Operation::Both => at_once(stream, &session, write_stream).and_then(|()| confirm(stream, &session)),
        Operation::Echo => {
            let mut block = vec![0; session.bytes as usize];
            stream.read_exact(&mut block).and_then(|()| stream.write_all(&block)).and_then(|()| expect_end(stream))
        }
        Operation::Cut => stream.try_clone().and_then(|stream| send_and_reset(stream, &session)),
        Operation::Abandon => receive_and_be_reset(stream, &session),
    };
    (Some(session), result)
}

/// Accepts for ever, one thread per connection; `report` is called from those threads.
///
/// # Errors
/// When the listener fails.
pub fn serve(listener: &TcpListener, timeout: Duration, report: impl Fn(Served) + Sync) -> io::Result<()> {
    thread::scope(|scope| {
        loop {
            let (mut stream, peer) = listener.accept()?;
            let report = &report;
            scope.spawn(move || {
                let (session, result) = serve_one(&mut stream, timeout);
                // Reported before the close, so that who sees the end of the connection also finds the report.
                report(Served { peer, session, result });
            });
        }
    })
}

/// What a client's run of one or more sessions came to.
#[derive(Debug)]
pub struct Summary {
    /// Payload bytes over all sessions.
    pub bytes: u64,
    /// Sessions that ended well.
    pub connections: u64,
    /// The whole run's wall time.
    pub elapsed: Duration,
    /// The first failure of each thread.
    pub failures: Vec<io::Error>,
}

/// `streams` sessions at once, each with its own seed.
pub fn parallel(address: SocketAddr, session: &Session, streams: u64, timeout: Duration) -> Summary {
    let start = Instant::now();
    let results: Vec<io::Result<()>> = thread::scope(|scope| {
        let run = |index| {
            scope.spawn(move || {
                let session = Session { seed: session.seed.wrapping_add(index), ..*session };
                client(address, &session, timeout)
            })
        };
        let threads: Vec<_> = (0..streams).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(invalid("a thread died")))).collect()
    });
    let connections = results.iter().filter(|result| result.is_ok()).count() as u64;
    let failures = results.into_iter().filter_map(Result::err).collect();
    Summary { bytes: connections * session.bytes, connections, elapsed: start.elapsed(), failures }
}

/// `count` short connections, one after the other, of 64 bytes each. Stops at the first failure. Who ends a connection first, and by
/// that holds it in TIME-WAIT, is the client with [`Operation::Echo`], the server with [`Operation::Source`].
pub fn in_sequence(address: SocketAddr, operation: Operation, count: u64, timeout: Duration) -> Summary {
    let start = Instant::now();
    let mut summary = Summary { bytes: 0, connections: 0, elapsed: Duration::ZERO, failures: Vec::new() };
    for index in 0..count {
        let session = Session { operation, bytes: 64, seed: index + 1, pause: 0 };
        if let Err(error) = client(address, &session, timeout) {
            summary.failures.push(error);
            break;
        }
        summary.connections += 1;
        summary.bytes += session.bytes;
    }
    summary.elapsed = start.elapsed();
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn server() -> (SocketAddr, mpsc::Receiver<Served>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || serve(&listener, Duration::from_secs(10), |served| drop(sender.send(served))));
        (address, receiver)
    }

    #[test]
    fn every_operation_ends_well_on_both_sides() {
        let (address, reports) = server();
        for operation in Operation::ALL {
            let session = Session { operation, bytes: 1_000_003, seed: 11, pause: 1 };
            client(address, &session, Duration::from_secs(10)).unwrap();
            let served = reports.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(served.session, Some(session));
            served.result.unwrap();
        }
        for operation in [Operation::Echo, Operation::Source] {
            assert_eq!(in_sequence(address, operation, 20, Duration::from_secs(10)).connections, 20);
        }
        let session = Session { operation: Operation::Both, bytes: 65_537, seed: 3, pause: 0 };
        assert_eq!(parallel(address, &session, 8, Duration::from_secs(10)).connections, 8);
    }

    #[test]
    fn a_wrong_a_missing_and_a_surplus_byte_are_told() {
        let (address, reports) = server();
        let session = Session { operation: Operation::Sink, bytes: 1000, seed: 5, pause: 0 };
        let mut good = vec![0; 1000];
        pattern::fill(&mut good, 5, 0);
        let mut wrong = good.clone();
        wrong[500] ^= 1;
        let surplus: Vec<u8> = good.iter().copied().chain([0]).collect();
        for (bytes, message) in
            [(&wrong[..], "byte 500"), (&good[..999], "ended after 999"), (&surplus[..], "more bytes")]
        {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&session.encode()).unwrap();
            stream.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let error = reports.recv_timeout(Duration::from_secs(10)).unwrap().result.unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
