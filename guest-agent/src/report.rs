//! Sends a message each interval.
use crate::arguments::Settings;
use crate::link::{Failure, Link};
use crate::pause::Pause;
use crate::read::{Reader, links6};
use std::io;
use std::time::Instant;
use vonic_agent::message::{OLDEST, VERSION};

/// Sends a message each interval. Only changes are logged: the first success, and the first failure after one.
pub fn send_for_ever(settings: &Settings) -> ! {
    let (mut way, mut pause, mut works) = (Way::default(), Pause::default(), None);
    loop {
        let begin = Instant::now();
        let wait = match way.send(settings) {
            Ok(()) => {
                if works != Some(true) {
                    eprintln!("vonic-agent: connected to vonic");
                }
                works = Some(true);
                pause.reset();
                settings.interval.saturating_sub(begin.elapsed())
            }
            Err(failure) => {
                if works != Some(false) {
                    eprintln!("vonic-agent: {failure}; trying again");
                }
                works = Some(false);
                way.link = None;
                pause.next()
            }
        };
        std::thread::sleep(wait);
    }
}

/// Sends one message.
///
/// # Errors
/// Why it was not taken.
pub fn send_once(settings: &Settings) -> Result<(), Failure> {
    Way::default().send(settings)
}

/// What is kept from one message to the next.
#[derive(Default)]
struct Way {
    reader: Reader,
    link: Option<Link>,
}

impl Way {
    /// Sends one message over the open connection, or over a new one if there is none or it has ended.
    fn send(&mut self, settings: &Settings) -> Result<(), Failure> {
        if let Some(mut open) = self.link.take() {
            match self.post(&mut open) {
                Ok(keep) => {
                    self.link = keep.then_some(open);
                    return Ok(());
                }
                // Its other end may have gone for good reasons; a new one tells.
                Err(Failure::Io(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut last = Failure::Io(io::ErrorKind::AddrNotAvailable.into());
        for to in settings.candidates(&links6()) {
            match Link::open(to) {
                Ok(mut open) => {
                    let keep = self.post(&mut open)?;
                    self.link = keep.then_some(open);
                    return Ok(());
                }
                Err(error) => last = Failure::Io(io::Error::new(error.kind(), format!("{to}: {error}"))),
            }
        }
        Err(last)
    }

    /// Posts this moment's message; true if the connection can carry another one. A host that knows only the oldest version of the
    /// format refuses any other, and ignores what it does not know in that one: it gets all the same under the oldest number.
    fn post(&mut self, link: &mut Link) -> Result<bool, Failure> {
        let version = link.version.unwrap_or(VERSION);
        match link.post(&self.body(version)?) {
            Ok(keep) => {
                link.version = Some(version);
                Ok(keep)
            }
            Err(Failure::Refused(400, _)) if link.version.is_none() => {
                let keep = link.post(&self.body(OLDEST)?)?;
                link.version = Some(OLDEST);
                Ok(keep)
            }
            Err(failure) => Err(failure),
        }
    }

    fn body(&mut self, version: u32) -> io::Result<Vec<u8>> {
        let mut message = self.reader.message();
        message.version = version;
        Ok(serde_json::to_vec(&message)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{self, Task};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use vonic_agent::message::Message;

    /// A host of the first version: it takes only that number. Returns the versions of the messages that came.
    fn old_host(listener: TcpListener) -> Vec<u32> {
        let mut stream = listener.accept().unwrap().0;
        let (mut versions, mut got) = (Vec::new(), Vec::new());
        while versions.len() < 4 {
            let end = got.windows(4).position(|window: &[u8]| window == b"\r\n\r\n").map(|at| at + 4);
            let length = end.and_then(|end| {
                let head = String::from_utf8_lossy(&got[..end]);
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
                length.parse::<usize>().ok()
            });
            let Some((end, length)) = end.zip(length).filter(|(end, length)| got.len() >= end + length) else {
                let mut part = [0; 65_536];
                let n = stream.read(&mut part).unwrap();
                assert!(n > 0, "{versions:?}");
                got.extend_from_slice(&part[..n]);
                continue;
            };
            let message = Message::read(&got[end..end + length]).unwrap();
            got.drain(..end + length);
            versions.push(message.version);
            let answer = if message.version == OLDEST { "204 No Content" } else { "400 Bad Request" };
            stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).unwrap();
        }
        versions
    }

    #[test]
    fn an_outdated_host_gets_the_first_versions_message_from_its_second_try_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let words = ["--address".to_string(), listener.local_addr().unwrap().to_string()];
        let host = thread::spawn(|| old_host(listener));
        let Ok(Task::Send(settings)) = arguments::read(words.into_iter()) else { panic!() };
        let mut way = Way::default();
        for _ in 0..3 {
            way.send(&settings).unwrap();
        }
        assert_eq!(host.join().unwrap(), [VERSION, OLDEST, OLDEST, OLDEST]);
    }
}
