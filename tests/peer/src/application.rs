//! An application that does as it is told: what lies behind a connection whose other end the test makes by hand. The same program
//! sits behind a guest's kernel and behind a socket of the host, so that the two can be compared.
//!
//! One control connection is one application, with one listener and one connection. A line is a command, and a line answers it:
//!
//! | command | what is done | answer |
//! |---|---|---|
//! | `listen BYTES` | listens on both families, with SO_RCVBUF of so many bytes unless 0 | `port N` |
//! | `accept` | takes the next connection; the listener stays | `accepted` |
//! | `read N` | reads N bytes of the ramp | `read N` |
//! | `end` | reads the ramp to its end | `end N`, then `fin` or the error's kind |
//! | `write N` | writes the ramp's next N bytes | `wrote N` |
//! | `shutdown`, `close`, `reset` | FIN, close, close by a reset | `done` |
//!
//! What fails is answered by `failed` and the error's kind; wrong bytes by `wrong` and their place.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::sys;

/// Length of the ramp's period, a prime: a lost or repeated block shows.
const PERIOD: usize = 251;
/// So long one command may wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// The byte at a place of either stream.
pub fn ramp(at: usize) -> u8 {
    (at % PERIOD) as u8
}

/// Serves control connections for ever, each by a thread of its own.
///
/// # Errors
/// When the listener fails.
pub fn serve(control: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = control.accept()?;
        thread::spawn(move || Application::default().obey(&stream));
    }
}

/// One application.
#[derive(Default)]
struct Application {
    listener: Option<TcpListener>,
    stream: Option<TcpStream>,
    read: usize,
    written: usize,
}

impl Application {
    /// Until the control connection ends.
    fn obey(&mut self, control: &TcpStream) -> io::Result<()> {
        control.set_nodelay(true)?;
        let mut answers = control.try_clone()?;
        for line in BufReader::new(control).lines() {
            let answer = self.command(&line?).unwrap_or_else(|error| format!("failed {:?}", error.kind()));
            answers.write_all(format!("{answer}\n").as_bytes())?;
        }
        Ok(())
    }

    fn command(&mut self, line: &str) -> io::Result<String> {
        let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
        let number: usize = number.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        match word {
            "listen" => self.listen(number),
            "accept" => self.accept(),
            "read" => self.read(number),
            "end" => self.end(),
            "write" => self.write(number),
            "shutdown" => self.stream()?.shutdown(Shutdown::Write).map(|()| "done".to_string()),
            "close" => Ok(self.stream.take().map_or("failed", |_| "done").to_string()),
            "reset" => {
                let stream = self.stream.take().ok_or(io::ErrorKind::NotConnected)?;
                sys::reset_on_close(&stream).map(|()| "done".to_string())
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or(io::ErrorKind::NotConnected.into())
    }

    fn listen(&mut self, receive_buffer: usize) -> io::Result<String> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        if receive_buffer > 0 {
            // Before any connection: its window scale follows from it (tcp(7)).
            sys::receive_buffer(&listener, receive_buffer)?;
        }
        let port = listener.local_addr()?.port();
        self.listener = Some(listener);
        Ok(format!("port {port}"))
    }

    fn accept(&mut self) -> io::Result<String> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        sys::wait_readable(listener, PATIENCE)?;
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        (self.stream, self.read, self.written) = (Some(stream), 0, 0);
        Ok("accepted".to_string())
    }

    fn read(&mut self, count: usize) -> io::Result<String> {
        let mut bytes = vec![0; count];
        self.stream()?.read_exact(&mut bytes)?;
        Ok(self.check(&bytes).unwrap_or(format!("read {count}")))
    }

    fn end(&mut self) -> io::Result<String> {
        let mut bytes = Vec::new();
        let end = match self.stream()?.read_to_end(&mut bytes) {
            Ok(_) => "fin".to_string(),
            Err(error) => format!("{:?}", error.kind()),
        };
        Ok(self.check(&bytes).unwrap_or(format!("end {} {end}", bytes.len())))
    }

    /// What is wrong with bytes that were read.
    fn check(&mut self, bytes: &[u8]) -> Option<String> {
        let start = self.read;
        self.read += bytes.len();
        let wrong = bytes.iter().enumerate().find(|(at, byte)| **byte != ramp(start + at));
        wrong.map(|(at, _)| format!("wrong {}", start + at))
    }

    fn write(&mut self, count: usize) -> io::Result<String> {
        let start = self.written;
        let bytes: Vec<u8> = (start..start + count).map(ramp).collect();
        self.stream()?.write_all(&bytes)?;
        self.written += count;
        Ok(format!("wrote {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Control(TcpStream);

    impl Control {
        fn ask(&mut self, line: &str) -> String {
            writeln!(self.0, "{line}").unwrap();
            let mut answer = String::new();
            BufReader::new(&self.0).read_line(&mut answer).unwrap();
            answer.trim().to_string()
        }
    }

    #[test]
    fn it_does_as_it_is_told_and_says_what_it_saw() {
        let control = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = control.local_addr().unwrap();
        thread::spawn(move || serve(&control));
        let mut control = Control(TcpStream::connect(address).unwrap());
        control.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let answer = control.ask("listen 0");
        let port: u16 = answer.strip_prefix("port ").unwrap().parse().unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(control.ask("accept"), "accepted");
        assert_eq!(control.ask("write 1000"), "wrote 1000");
        let mut got = [0; 1000];
        stream.read_exact(&mut got).unwrap();
        assert!(got.iter().enumerate().all(|(at, byte)| *byte == ramp(at)));
        stream.write_all(&got[..600]).unwrap();
        assert_eq!(control.ask("read 500"), "read 500");
        stream.write_all(&got[601..700]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(control.ask("end"), "wrong 600");
        assert_eq!(control.ask("reset"), "done");
        assert_eq!(stream.read(&mut got).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(control.ask("shutdown"), "failed NotConnected");
        assert_eq!(control.ask("dance"), "failed InvalidInput");
    }
}
