//! A model of the host's kernel socket and of the application behind it.

use crate::{Plan, random::Random, stream_byte};

pub(crate) struct Host {
    salt: u64,
    /// The stream to the guest: how long it is, how much has arrived, how much was dropped after it was acknowledged.
    total: u64,
    arrived: u64,
    dropped: u64,
    /// The end of the stream is visible behind the last byte.
    pub(crate) ended: bool,
    /// So many bytes and the end come only after the guest has finished.
    held_back: Option<u64>,
    close_at: u64,
    receive_buffer: u64,
    /// The stream from the guest, as far as the socket took it; how much of it waits in the send buffer.
    pub(crate) taken: Vec<u8>,
    unsent: u64,
    send_buffer: u64,
    pub(crate) shut_down: bool,
    /// How often in a thousand the socket takes less than it could.
    short_takes: u64,
}

impl Host {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Host {
        Host {
            salt: 1,
            total: plan.host_bytes,
            arrived: 0,
            dropped: 0,
            ended: false,
            held_back: plan.host_waits.then(|| random.between(0, plan.host_bytes)),
            close_at: plan.close_at,
            receive_buffer: random.scaled(2000, 200_000),
            taken: vec![],
            unsent: 0,
            send_buffer: plan.host_buffer,
            shut_down: false,
            short_takes: random.pick(&[0, 0, 50, 500]),
        }
    }

    /// Time passes: bytes arrive from the world, and leave towards it. Returns whether the socket is readable anew.
    pub(crate) fn live(&mut self, now: u64, random: &mut Random) -> bool {
        self.unsent -= random.scaled(1, 100_000).min(self.unsent);
        if self.shut_down {
            self.held_back = None;
        }
        let goal = self.total - self.held_back.unwrap_or(0);
        let room = self.receive_buffer - (self.arrived - self.dropped);
        let n = random.scaled(1, 100_000).min(room).min(goal - self.arrived);
        self.arrived += n;
        let complete = self.held_back.is_none() && self.arrived == self.total && now >= self.close_at;
        let end = complete && !self.ended;
        self.ended |= end;
        n > 0 || end
    }

    /// MSG_PEEK at an offset. Empty: nothing there, or the end.
    pub(crate) fn peek(&self, offset: u32, max: u32, random: &mut Random) -> Vec<u8> {
        let from = self.dropped + u64::from(offset);
        assert!(from <= self.arrived, "peek behind what was ever sent");
        let mut n = (self.arrived - from).min(max.into());
        if n > 1 && random.chance(20) {
            n = random.between(1, n); // an urgent mark
        }
        (from..from + n).map(|i| stream_byte(self.salt, i)).collect()
    }

    pub(crate) fn at_end(&self, offset: u32) -> bool {
        self.ended && self.dropped + u64::from(offset) == self.arrived
    }

    /// MSG_TRUNC
    pub(crate) fn discard(&mut self, n: u32) {
        self.dropped += u64::from(n);
        assert!(self.dropped <= self.arrived, "dropped what was never there");
    }

    /// sendmsg: how many bytes were taken.
    pub(crate) fn send(&mut self, bytes: &[u8], random: &mut Random) -> u32 {
        assert!(!self.shut_down, "bytes behind the guest's FIN");
        let mut n = self.free().min(bytes.len() as u64);
        if random.chance(self.short_takes) {
            n = random.between(0, n);
        }
        self.taken.extend_from_slice(&bytes[..n as usize]);
        self.unsent += n;
        n as u32
    }

    /// Bytes that the peer has not acknowledged (SIOCOUTQ).
    pub(crate) fn unacknowledged(&self) -> u32 {
        self.unsent as u32
    }

    /// Bytes that the leg has dropped, since the guest had acknowledged them, and bytes that wait (bytes_received, SIOCINQ).
    pub(crate) fn received(&self) -> (u32, u32) {
        (self.dropped as u32, (self.arrived - self.dropped) as u32)
    }

    pub(crate) fn free(&self) -> u64 {
        self.send_buffer - self.unsent
    }
}
