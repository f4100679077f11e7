//! A model of a guest's TCP, written apart from the leg: positions are 64-bit and absolute, 0 is the SYN, 1 the first
//! byte, one more than the last byte the FIN. It repeats everything from the oldest unacknowledged byte on a fixed
//! timer, and checks what it is told.

use std::collections::BTreeMap;

use vonic_tcp::{Options, Seq};

use crate::{Plan, extras::Extras, stream_byte, wire::Wire};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const RTO: u64 = 300_000;
const MAX_RTO: u64 = 5_000_000;

pub(crate) struct Guest {
    plan: Plan,
    salt: u64,
    iss: u32,
    una: u64,
    nxt: u64,
    max: u64,
    /// The peer's window as a position, and the newest (SEG.SEQ, SEG.ACK) that told it.
    send_edge: u64,
    told: (u64, u64),
    peer_scale: u8,
    duplicates: u32,
    /// How much the application has written, and whether it has closed.
    written: u64,
    closed: bool,
    irs: Option<u32>,
    rcv_nxt: u64,
    right_edge: u64,
    pub(crate) received: Vec<u8>,
    unread: u64,
    kept: BTreeMap<u64, Vec<u8>>,
    kept_fin: Option<u64>,
    pub(crate) finished: bool,
    acks_due: u32,
    timer: Option<u64>,
    backoff: u32,
    pub(crate) extras: Extras,
    /// The position of the segment that was kept last: its block is told first.
    newest: u64,
    now: u64,
}

/// The distance of a sequence number from the start, as the 64-bit position nearest to `near`.
fn position(seq: u32, start: u32, near: u64) -> u64 {
    let low = seq.wrapping_sub(start);
    let step = low.wrapping_sub(near as u32) as i32;
    near.wrapping_add_signed(step.into())
}

impl Guest {
    pub(crate) fn new(plan: Plan, iss: u32) -> Guest {
        Guest {
            salt: 2,
            iss,
            una: 0,
            nxt: 0,
            max: 0,
            send_edge: 0,
            told: (0, 0),
            peer_scale: 0,
            duplicates: 0,
            written: 0,
            closed: false,
            irs: None,
            rcv_nxt: 0,
            right_edge: 0,
            received: vec![],
            unread: 0,
            kept: BTreeMap::new(),
            kept_fin: None,
            finished: false,
            acks_due: 0,
            timer: None,
            backoff: 0,
            extras: Extras::new(&plan),
            newest: 0,
            now: 0,
            plan,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.finished && self.closed && self.una == self.fin() + 1
    }

    fn fin(&self) -> u64 {
        self.plan.guest_bytes + 1
    }

    fn scale(&self) -> u8 {
        self.plan.guest_scale.unwrap_or(0)
    }

    pub(crate) fn deadline(&self) -> Option<u64> {
        self.timer
    }

    /// The application reads and writes.
    pub(crate) fn live(&mut self, now: u64, read: u64, write: u64) {
        let before = self.right_edge - self.rcv_nxt;
        self.unread -= read.min(self.unread);
        self.open_window();
        let after = self.right_edge - self.rcv_nxt;
        if self.irs.is_some() && before < after && (before == 0 || after - before >= self.plan.guest_buffer / 2) {
            self.acks_due = self.acks_due.max(1);
        }
        let held_back = if self.plan.guest_waits && !self.finished { self.plan.guest_bytes / 3 } else { 0 };
        self.written = (self.written + write).min(self.plan.guest_bytes - held_back).max(self.written);
        let may_close = now >= self.plan.close_at && (self.finished || !self.plan.guest_waits);
        self.closed = may_close && self.written == self.plan.guest_bytes;
    }

    fn open_window(&mut self) {
        let free = self.plan.guest_buffer - self.unread.min(self.plan.guest_buffer);
        let edge = self.rcv_nxt + free;
        self.right_edge = if self.plan.guest_shrinks { edge } else { edge.max(self.right_edge) };
    }

    pub(crate) fn receive(&mut self, now: u64, wire: &Wire) {
        assert_eq!(wire.flags & RST, 0, "the leg resets a good connection: {wire:?}");
        if wire.flags & SYN != 0 {
            self.receive_syn(wire);
        }
        let Some(irs) = self.irs else { return };
        let options = Options::parse(&wire.options);
        let syn = u64::from(wire.flags & SYN != 0);
        let start = position(wire.seq, irs, self.rcv_nxt) + syn;
        if syn == 0 && !self.extras.admits(start, &options) || !self.acceptable(start, wire) {
            self.acks_due += 1;
            return;
        }
        self.receive_ack(now, start, wire);
        self.receive_text(start, wire);
    }

    fn receive_syn(&mut self, wire: &Wire) {
        if self.irs.is_none() {
            self.irs = Some(wire.seq);
            self.extras.agree(&Options::parse(&wire.options));
            self.rcv_nxt = 1;
            self.right_edge = 1;
            self.open_window();
            let scale = wire.options.windows(3).find(|option| option[..2] == [3, 3]).map(|option| option[2]);
            self.peer_scale = scale.filter(|_| self.plan.guest_scale.is_some()).unwrap_or(0);
        }
        self.acks_due = self.acks_due.max(1);
    }

    fn acceptable(&self, start: u64, wire: &Wire) -> bool {
        let end = start + wire.payload.len() as u64 + u64::from(wire.flags & FIN != 0);
        if start == end {
            return start >= self.rcv_nxt && start <= self.right_edge;
        }
        start == self.rcv_nxt || start < self.right_edge && end > self.rcv_nxt
    }

    fn receive_ack(&mut self, now: u64, start: u64, wire: &Wire) {
        if wire.flags & ACK == 0 {
            return;
        }
        let ack = position(wire.ack, self.iss, self.una);
        assert!(ack <= self.max, "acknowledged what was never sent");
        if ack > self.una {
            self.una = ack;
            self.nxt = self.nxt.max(ack);
            self.backoff = 0;
            self.duplicates = 0;
            self.timer = (self.una < self.nxt).then_some(now + RTO);
        } else if ack == self.una && self.nxt > self.una && wire.payload.is_empty() {
            self.duplicates += 1;
            if self.duplicates == 3 && self.plan.guest_fast {
                self.nxt = self.una.max(1);
            }
        }
        if ack == self.una && (start, ack) >= self.told {
            self.told = (start, ack);
            let shift = if wire.flags & SYN != 0 { 0 } else { self.peer_scale };
            self.send_edge = ack + (u64::from(wire.window) << shift);
        }
    }

    fn receive_text(&mut self, start: u64, wire: &Wire) {
        let end = start + wire.payload.len() as u64;
        let fin = wire.flags & FIN != 0;
        if end == start && !fin {
            return;
        }
        self.acks_due = self.acks_due.max(1);
        if fin {
            assert!(self.kept_fin.is_none_or(|fin| fin == end), "the FIN moved");
            self.kept_fin = Some(end).filter(|_| self.plan.guest_keeps || start <= self.rcv_nxt);
        }
        let cut = end.min(self.right_edge);
        if start > self.rcv_nxt {
            self.acks_due += 1;
            if self.plan.guest_keeps && start < cut {
                let bytes = &wire.payload[..(cut - start) as usize];
                self.newest = start;
                let kept = self.kept.entry(start).or_default();
                if kept.len() < bytes.len() {
                    *kept = bytes.to_vec();
                }
            }
            return;
        }
        self.take(start, &wire.payload[..(cut.max(start) - start) as usize]);
        while let Some((start, bytes)) = self.kept.pop_first() {
            if start > self.rcv_nxt {
                self.kept.insert(start, bytes);
                break;
            }
            self.take(start, &bytes);
        }
        if self.kept_fin == Some(self.rcv_nxt) && !self.finished {
            self.finished = true;
            self.rcv_nxt += 1;
            self.right_edge = self.right_edge.max(self.rcv_nxt);
        }
    }

    /// Bytes that begin at or before the next one wanted.
    fn take(&mut self, start: u64, bytes: &[u8]) {
        if let Some(new) = bytes.get((self.rcv_nxt - start) as usize..) {
            assert!(!self.finished || new.is_empty(), "bytes behind the FIN");
            self.received.extend_from_slice(new);
            self.rcv_nxt += new.len() as u64;
            self.unread += new.len() as u64;
        }
    }

    pub(crate) fn poll(&mut self, now: u64) -> Vec<Wire> {
        self.now = now;
        let mut out = vec![];
        let expired = self.timer.is_some_and(|at| at <= now);
        if expired {
            self.nxt = self.una;
            self.duplicates = 0;
            self.backoff += 1;
        }
        if self.irs.is_some() || self.plan.guest_opens {
            self.send(expired, &mut out);
        }
        if self.irs.is_some() && self.una > 0 {
            for _ in out.len()..self.acks_due.min(4) as usize {
                let seq = if self.nxt < self.max { self.max.min(self.send_edge) } else { self.max };
                out.push(self.wire(seq.max(self.una), ACK, vec![]));
            }
        }
        self.acks_due = 0;
        self.arm(now, expired);
        out
    }

    fn send(&mut self, expired: bool, out: &mut Vec<Wire>) {
        if self.nxt == 0 {
            let flags = if self.irs.is_some() { SYN | ACK } else { SYN };
            out.push(self.wire(0, flags, vec![]));
            self.nxt = 1;
        }
        let mut edge = self.send_edge;
        if expired && edge <= self.una {
            edge = self.una + 1;
        }
        while self.una > 0 && self.nxt < edge {
            let end = edge.min(self.written + 1).min(self.nxt + self.plan.guest_frame);
            let fin = self.closed && end.max(self.nxt) == self.fin() && end < edge;
            if end <= self.nxt && !fin || self.nxt > self.fin() {
                break;
            }
            let payload = (self.nxt..end).map(|i| stream_byte(self.salt, i - 1)).collect();
            let flags = if fin { ACK | FIN } else { ACK };
            out.push(self.wire(self.nxt, flags, payload));
            self.nxt = end.max(self.nxt) + u64::from(fin);
        }
        self.max = self.max.max(self.nxt);
    }

    /// Something is unacknowledged, or waits for a window.
    fn arm(&mut self, now: u64, expired: bool) {
        let unsent = self.nxt < self.written + 1 || self.closed && self.nxt <= self.fin();
        if self.una == self.nxt && (!unsent || self.una == 0) {
            self.timer = None;
        } else if self.timer.is_none() || expired {
            self.timer = Some(now + (RTO << self.backoff.min(8)).min(MAX_RTO));
        }
    }

    /// What was kept out of order goes, though it was acknowledged selectively (RFC 2018 §8).
    pub(crate) fn renege(&mut self) {
        self.kept.clear();
        self.kept_fin = self.kept_fin.filter(|fin| *fin <= self.rcv_nxt);
    }

    /// What is kept, as blocks: the newest first.
    fn blocks(&self, options: &mut Options) {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for (start, bytes) in &self.kept {
            let end = start + bytes.len() as u64;
            match ranges.last_mut() {
                Some(last) if *start <= last.1 => last.1 = last.1.max(end),
                _ => ranges.push((*start, end)),
            }
        }
        ranges.sort_by_key(|range| !(range.0 <= self.newest && self.newest < range.1));
        let seq = |position: u64| Seq(self.irs.unwrap_or(0).wrapping_add(position as u32));
        for (start, end) in ranges.into_iter().filter(|range| range.0 > self.rcv_nxt) {
            options.sack.push(seq(start), seq(end));
        }
    }

    fn wire(&mut self, at: u64, flags: u8, payload: Vec<u8>) -> Wire {
        let syn = flags & SYN != 0;
        let mut options = self.extras.options(self.now, syn, flags & ACK != 0);
        if syn {
            options.mss = Some(self.plan.guest_mss);
            options.window_scale = self.plan.guest_scale;
        } else if self.extras.sack {
            self.blocks(&mut options);
        }
        if flags & ACK != 0 {
            self.extras.last_ack_sent = self.rcv_nxt;
        }
        self.open_window();
        let scale = if syn { 0 } else { self.scale() };
        let wnd = if self.irs.is_some() { self.right_edge - self.rcv_nxt } else { self.plan.guest_buffer };
        Wire {
            seq: self.iss.wrapping_add(at as u32),
            ack: self.irs.map_or(0, |irs| irs.wrapping_add(self.rcv_nxt as u32)),
            flags,
            window: u16::try_from(wnd >> scale).unwrap_or(u16::MAX),
            options: options.emit().as_slice().to_vec(),
            payload,
        }
    }
}
