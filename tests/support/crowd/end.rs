//! The guest's end of one connection of a crowd: no more of TCP than it takes to check every byte.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::far::pattern;
use crate::frames::Tcp;

const ISS: u32 = 7;
/// As large as it can be: a mebibyte.
const WINDOW: u16 = 0xffff;
const SCALE: u8 = 4;

/// One end.
pub(super) struct End {
    /// The guest's port, the remote's.
    ports: (u16, u16),
    /// What comes next; `None` before the SYN-ACK.
    rcv_nxt: Option<u32>,
    /// How many bytes have come.
    taken: u64,
    /// When the first new byte came since it was forgotten.
    pub(super) heard: Option<Instant>,
    /// It has a segment to send.
    pub(super) owes: bool,
}

impl End {
    pub(super) fn new(port: u16, remote: u16) -> End {
        End { ports: (port, remote), rcv_nxt: None, taken: 0, heard: None, owes: false }
    }

    pub(super) fn is_open(&self) -> bool {
        self.rcv_nxt.is_some()
    }

    /// Takes a segment in; whether it is to be answered (RFC 9293 §3.10.7.4: what is not acceptable is answered, too).
    pub(super) fn hear(&mut self, segment: &Tcp) -> Result<bool> {
        ensure!(segment.flags & (Tcp::RST | Tcp::FIN) == 0, "an end after {} bytes: {segment:?}", self.taken);
        let Some(next) = self.rcv_nxt else {
            ensure!(segment.flags == Tcp::SYN | Tcp::ACK, "no SYN-ACK: {segment:?}");
            self.rcv_nxt = Some(segment.sequence.wrapping_add(1));
            return Ok(true);
        };
        let old = next.wrapping_sub(segment.sequence);
        if segment.text.is_empty() {
            return Ok((1..1 << 31).contains(&old));
        }
        ensure!(old < 1 << 31, "a hole of {} bytes after {}", old.wrapping_neg(), self.taken);
        let new = segment.text.get(old as usize..).unwrap_or_default();
        if !new.is_empty() {
            ensure!(new == pattern(self.taken, new.len()), "other bytes than were sent, after {}", self.taken);
            self.taken += new.len() as u64;
            self.rcv_nxt = Some(next.wrapping_add(new.len() as u32));
            self.heard.get_or_insert_with(Instant::now);
        }
        Ok(true)
    }

    /// The segment that it owes.
    pub(super) fn answer(&mut self) -> Tcp {
        self.owes = false;
        let segment = Tcp { ports: self.ports, sequence: ISS, window: WINDOW, ..Tcp::default() };
        match self.rcv_nxt {
            None => Tcp { flags: Tcp::SYN, options: vec![2, 4, 5, 180, 1, 3, 3, SCALE], ..segment },
            Some(next) => Tcp { flags: Tcp::ACK, sequence: ISS + 1, acknowledgment: next, ..segment },
        }
    }
}
