//! The guest's timestamps and selective acknowledgments.

use vonic_tcp::{Options, SackBlocks, Timestamps};

use crate::Plan;

pub(crate) struct Extras {
    wants_timestamps: bool,
    wants_sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) sack: bool,
    /// Its clock at the start: it wraps soon.
    offset: u32,
    recent: u32,
    /// How much of the host's stream its last ACK covered, as a position.
    pub(crate) last_ack_sent: u64,
}

impl Extras {
    pub(crate) fn new(plan: &Plan) -> Extras {
        Extras {
            wants_timestamps: plan.guest_timestamps,
            wants_sack: plan.guest_sack,
            timestamps: false,
            sack: false,
            offset: u32::MAX - 500,
            recent: 0,
            last_ack_sent: 0,
        }
    }

    /// The leg's SYN: what both want is agreed upon.
    pub(crate) fn agree(&mut self, options: &Options) {
        self.timestamps = self.wants_timestamps && options.timestamps.is_some();
        self.sack = self.wants_sack && options.sack_permitted;
        self.recent = options.timestamps.map_or(0, |timestamps| timestamps.val);
    }

    /// PAWS, and which value is echoed.
    pub(crate) fn admits(&mut self, start: u64, options: &Options) -> bool {
        if !self.timestamps {
            return true;
        }
        let val = options.timestamps.expect("every segment has its timestamp").val;
        let newer = val.wrapping_sub(self.recent) as i32 >= 0;
        if newer && start <= self.last_ack_sent {
            self.recent = val;
        }
        newer
    }

    /// The options of a segment; in a SYN, `answer` says whether it is the second one.
    pub(crate) fn options(&self, now: u64, syn: bool, answer: bool) -> Options {
        let (timestamps, sack) = match (syn, answer) {
            (true, false) => (self.wants_timestamps, self.wants_sack),
            (true, true) => (self.timestamps, self.sack),
            (false, _) => (self.timestamps, false),
        };
        let ecr = if syn && !answer { 0 } else { self.recent };
        let val = self.offset.wrapping_add((now / 1000) as u32);
        Options {
            sack_permitted: sack,
            timestamps: timestamps.then_some(Timestamps { val, ecr }),
            sack: SackBlocks::EMPTY,
            ..Options::default()
        }
    }
}
