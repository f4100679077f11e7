//! A ring that loses, repeats and reorders frames, and a guest that goes back to the oldest unacknowledged byte.

use vonic_tcp::{Flags, State};

use crate::bench::{Bench, Out};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn percent(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 100
    }

    /// 1 % lost, 3 % twice, 5 % behind the next one.
    fn shake<T: Clone>(&mut self, frames: Vec<T>) -> Vec<T> {
        let mut out: Vec<T> = vec![];
        for frame in frames {
            match self.percent() {
                0 => {}
                1..4 => out.extend([frame.clone(), frame]),
                4..9 => out.insert(out.len().saturating_sub(1), frame),
                _ => out.push(frame),
            }
        }
        out
    }
}

impl Bench {
    /// Moves `bytes` both ways at once. To be called with positions from the connection's beginning.
    pub(crate) fn exercise(&mut self, bytes: u32) {
        let mut dice = Dice(u64::from(self.overlay.frame) * 2 + u64::from(self.overlay.options));
        let (goal_in, goal_out) = (self.taken + bytes, self.arrived + bytes);
        self.host_sends(bytes);
        let mut guest_nxt = self.taken;
        for round in 0.. {
            assert!(round < 20_000, "{:?}: {} of {goal_in}, {} of {goal_out}", self.overlay, self.taken, self.has);
            let before = (self.taken, self.has);
            self.guest_frames(&mut dice, &mut guest_nxt, goal_in);
            let out = self.drain();
            self.guest_receives(dice.shake(out));
            self.millis(1);
            if self.taken == goal_in && self.has == goal_out && self.dropped == goal_out {
                break;
            }
            if before == (self.taken, self.has) {
                guest_nxt = self.taken;
                if self.leg.deadline().is_some() {
                    self.expire();
                }
            }
        }
        assert_eq!(self.leg.state(), State::Established);
        // One byte more, so that the recovery of losses is over (RFC 6582 §3.2, step 2: beyond `recover`).
        self.host_sends(1);
        self.drain();
        self.has += 1;
        let _ = self.segment(self.taken, 0, Flags::ACK);
        self.leg.set_window(crate::bench::ROOM);
        self.drain();
    }

    fn guest_frames(&mut self, dice: &mut Dice, nxt: &mut u32, goal: u32) {
        let mut frames = vec![];
        while frames.len() < 8 && *nxt < goal {
            let len = self.piece().min(goal - *nxt);
            frames.push((*nxt, len));
            *nxt += len;
        }
        for (offset, len) in dice.shake(frames) {
            self.data(offset, len);
        }
        self.leg.set_window(crate::bench::ROOM);
        let _ = self.segment(self.taken, 0, Flags::ACK);
    }

    /// In order, or not at all: one ACK for each frame.
    fn guest_receives(&mut self, frames: Vec<Out>) {
        for out in frames.iter().filter(|out| out.len > 0) {
            if out.at <= self.has && out.at + out.len > self.has {
                self.has = out.at + out.len;
            }
            let _ = self.segment(self.taken, 0, Flags::ACK);
        }
    }
}
