//! Very many connections at once, each with a few checked bytes now and then: one thread on either side.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use crate::pattern;
use crate::sys::{self, Epoll};

/// Bytes of one exchange: prime, so that a lost or repeated one shows.
const BLOCK: usize = 251;
/// Connections that ask before the first of them hears its answer.
const WAVE: usize = 64;
/// Files that the server asks for: what Linux allows a process at most unless it was told otherwise (fs.nr_open).
const FILES: u64 = 1 << 20;
/// How long the other clients wait at most for one that does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors beside the connections'.
const OTHERS: u64 = 64;

/// Sends back what it gets, on any number of connections; each is closed when the client has ended its direction.
///
/// # Errors
/// When the listener or epoll fails.
pub fn echo(listener: &TcpListener) -> io::Result<()> {
    sys::raise_files(FILES)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(listener.as_raw_fd())?;
    let mut streams: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut ready = Vec::new();
    loop {
        epoll.wait(&mut ready)?;
        for fd in ready.drain(..) {
            if fd == listener.as_raw_fd() {
                while let Some(stream) = accept(listener)? {
                    epoll.add(stream.as_raw_fd())?;
                    streams.insert(stream.as_raw_fd(), stream);
                }
            } else if streams.get_mut(&fd).is_some_and(|stream| !send_back(stream)) {
                streams.remove(&fd);
            }
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Some(stream))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// False once the stream is over. A client that does not read what it asked for is over, too; one that writes all before it reads has to
/// take what the connection's buffers do not.
fn send_back(stream: &mut TcpStream) -> bool {
    let mut block = [0; 4096];
    match stream.read(&mut block) {
        Ok(0) => false,
        Ok(got) => stream.write_all(&block[..got]).is_ok(),
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// Connections to an [`echo`] server that stay open.
#[derive(Debug)]
pub struct Held {
    streams: Vec<TcpStream>,
    rounds: u64,
}

impl Held {
    /// Opens `count`, one after the other, and moves bytes on each: behind a proxy that alone would not mean that the far end has
    /// them. `timeout` bounds each wait here and later.
    ///
    /// # Errors
    /// Of the socket, or the first wrong byte; with the number of the connection.
    pub fn open(address: SocketAddr, count: usize, timeout: Duration) -> io::Result<Held> {
        sys::raise_files(count as u64 + OTHERS)?;
        let mut held = Held { streams: Vec::with_capacity(count), rounds: 0 };
        while held.count() < count {
            let first = held.count();
            for number in first..count.min(first + WAVE) {
                let stream = connect(address, timeout).map_err(|error| told(number, &error))?;
                held.streams.push(stream);
            }
            talk(&mut held.streams[first..], first, 0)?;
        }
        Ok(held)
    }

    /// Lets a moment pass.
    ///
    /// # Errors
    /// None.
    pub fn wait(&mut self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    }

    /// Moves bytes there and back on each, and checks them.
    ///
    /// # Errors
    /// Of the socket, or the first wrong byte; with the number of the connection.
    pub fn exchange(&mut self) -> io::Result<()> {
        self.rounds += 1;
        let mut waves = self.streams.chunks_mut(WAVE).enumerate();
        waves.try_for_each(|(wave, streams)| talk(streams, wave * WAVE, self.rounds))
    }

    /// Ends all of them, and waits for the server's end of each.
    ///
    /// # Errors
    /// Of the socket, or a byte that nobody asked for; with the number of the connection.
    pub fn close(self) -> io::Result<()> {
        for (wave, streams) in self.streams.chunks(WAVE).enumerate() {
            let numbered = || (wave * WAVE..).zip(streams);
            for (number, stream) in numbered() {
                stream.shutdown(Shutdown::Write).map_err(|error| told(number, &error))?;
            }
            for (number, mut stream) in numbered() {
                match stream.read(&mut [0]).map_err(|error| told(number, &error))? {
                    0 => {}
                    _ => return Err(told(number, &"more bytes than were sent")),
                }
            }
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.streams.len()
    }
}

fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Asks on each of a wave's connections, of which the first has number `first`; then hears each.
fn talk(streams: &mut [TcpStream], first: usize, round: u64) -> io::Result<()> {
    let seed = |number: usize| (round << 32) + number as u64;
    let mut block = [0; BLOCK];
    for (number, stream) in (first..).zip(&mut *streams) {
        pattern::fill(&mut block, seed(number), 0);
        stream.write_all(&block).map_err(|error| told(number, &error))?;
    }
    for (number, stream) in (first..).zip(streams) {
        stream.read_exact(&mut block).map_err(|error| told(number, &error))?;
        pattern::check(&block, seed(number), 0).map_err(|wrong| told(number, &wrong))?;
    }
    Ok(())
}

fn told(number: usize, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("connection {number}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn two_hundred_connections_exchange_twice_and_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || echo(&listener));
        let mut held = Held::open(address, 200, LIMIT).unwrap();
        held.exchange().unwrap();
        assert_eq!(held.count(), 200);
        held.close().unwrap();
    }

    #[test]
    fn a_wrong_byte_is_told_with_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut block = [0; BLOCK];
            stream.read_exact(&mut block).unwrap();
            block[7] ^= 1;
            stream.write_all(&block).unwrap();
        });
        let error = Held::open(address, 1, LIMIT).unwrap_err();
        assert!(error.to_string().contains("connection 0: byte 7"), "{error}");
    }
}
