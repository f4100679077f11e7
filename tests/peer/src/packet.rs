//! Raw frames on an interface: sent as given, and received with an eye on their destination.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::sys;

/// A raw socket on one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    mac: String,
}

/// What a [`Wire`] heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Frames to the interface's own address.
    pub mine: u64,
    /// Frames to a group address, broadcast included.
    pub group: u64,
    /// The same by `SOURCE/ETHERTYPE`, as `52:54:00:00:00:02/0806`.
    pub groups: BTreeMap<String, u64>,
    /// Frames that should not have come here: count by destination.
    pub others: BTreeMap<String, u64>,
}

impl Heard {
    fn count(&mut self, mac: &str, frame: &[u8]) {
        let Some(destination) = frame.get(..6) else { return };
        let text = format_mac(destination);
        if destination[0] & 1 == 1 {
            self.group += 1;
            if let Some([source @ .., a, b]) = frame.get(6..14) {
                *self.groups.entry(format!("{}/{a:02x}{b:02x}", format_mac(source))).or_default() += 1;
            }
        } else if text == mac {
            self.mine += 1;
        } else {
            *self.others.entry(text).or_default() += 1;
        }
    }
}

fn format_mac(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

/// Hexadecimal digits for [`parse_hex`].
pub fn format_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits; blanks and colons between them are ignored.
pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b' ' | b':' | b'\n')).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits.chunks_exact(2).map(|pair| Some((value(pair[0])? << 4 | value(pair[1])?) as u8)).collect()
}

impl Wire {
    /// Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// If there is no such interface, or the capability is missing.
    pub fn open(interface: &str) -> io::Result<Wire> {
        let (socket, mac) = sys::open_packet(interface)?;
        Ok(Wire { socket, mac: format_mac(&mac) })
    }

    /// Sends `frame`, Ethernet header included, as it is.
    ///
    /// # Errors
    /// Of the socket, for instance a frame longer than the interface's MTU.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        sys::send_frame(&self.socket, frame)
    }

    /// Sends `frame` as fast as it goes for `time`; returns how often.
    ///
    /// # Errors
    /// As [`Wire::send`], a full queue excepted.
    pub fn flood(&self, frame: &[u8], time: Duration) -> io::Result<u64> {
        let end = Instant::now() + time;
        let mut sent = 0;
        while Instant::now() < end {
            match self.send(frame) {
                Ok(()) => sent += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// The next frame from outside, at most 64 KiB of it; `None` if none came within `time`.
    ///
    /// # Errors
    /// Of the socket.
    pub fn receive(&self, time: Duration) -> io::Result<Option<Vec<u8>>> {
        let end = Instant::now() + time;
        let mut buffer = vec![0; 65_536];
        while Instant::now() < end {
            if let Some(length) = sys::receive_frame(&self.socket, &mut buffer)? {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
        }
        Ok(None)
    }

    /// Listens until `stop` says so; it is asked ten times a second while it is quiet, and else at each frame.
    ///
    /// # Errors
    /// Of the socket.
    pub fn listen(&self, mut stop: impl FnMut() -> bool) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut buffer = vec![0; 65_536];
        while !stop() {
            if let Some(length) = sys::receive_frame(&self.socket, &mut buffer)? {
                heard.count(&self.mac, &buffer[..length]);
            }
        }
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_with_separators_is_read_and_garbage_is_not() {
        assert_eq!(parse_hex("52:54 00ff"), Some(vec![0x52, 0x54, 0, 0xff]));
        assert_eq!(parse_hex(&format_hex(&[0, 0xff])), Some(vec![0, 0xff]));
        assert_eq!(parse_hex("525"), None);
        assert_eq!(parse_hex("zz"), None);
    }

    #[test]
    fn frames_are_sorted_by_destination() {
        let mut heard = Heard::default();
        for destination in ["525400000001", "ffffffffffff", "3333000000fb", "525400000002", "525400000002"] {
            heard.count("52:54:00:00:00:01", &parse_hex(destination).unwrap());
        }
        heard.count("52:54:00:00:00:01", &[0x52]);
        let others = BTreeMap::from([("52:54:00:00:00:02".to_string(), 2)]);
        assert_eq!(heard, Heard { mine: 1, group: 2, others, ..Heard::default() });
        heard.count("52:54:00:00:00:01", &parse_hex("ffffffffffff 525400000002 0806 0001").unwrap());
        assert_eq!(heard.groups, BTreeMap::from([("52:54:00:00:00:02/0806".to_string(), 1)]));
    }
}
