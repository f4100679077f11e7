//! The engine dies: the leg is gone, and another one goes on from what the kernel counts and the record holds.

use vonic_tcp::{Instant, Leg, Restored, Seq, State};

use crate::{random::Random, world::World};

/// When it happens; not drawn from the world's numbers, so that a seed means the same with deaths and without.
pub(crate) struct Fate {
    random: Random,
    /// How often in a thousand rounds.
    chance: u64,
}

impl Fate {
    pub(crate) fn new(seed: u64) -> Fate {
        let mut random = Random::new(seed ^ 0xdead);
        Fate { chance: random.pick(&[0, 0, 1, 5, 20]), random }
    }
}

impl World {
    /// Perhaps the leg dies now, and its successor takes over.
    pub(crate) fn live_or_die(&mut self) {
        let dies = self.fate.random.chance(self.fate.chance);
        // TIME-WAIT has no socket any more, and no record.
        if let Some(leg) = self.leg.take_if(|leg| dies && !matches!(leg.state(), State::TimeWait | State::Closed)) {
            self.leg = Some(self.successor(&leg));
            self.tally.deaths += 1;
        }
    }

    /// Of the dead leg only what a record holds is looked at.
    fn successor(&mut self, dead: &Leg) -> Leg {
        let now = Instant(self.now);
        let Some(agreed) = dead.agreed() else { return Leg::reopen(&self.config(), self.iss, now) };
        let held = self.host.unacknowledged();
        let taken = self.host.taken.len() as u32;
        self.reported = taken - held;
        // What the guest's clock said is forgotten; ours goes on.
        self.stamp = self.stamp.map(|(val, _)| (val, None));
        // Nobody knows by how much the last windows were rounded up.
        self.edge = None;
        let (una, queued) = self.host.received();
        let restored = Restored {
            iss: self.iss,
            irs: Seq(self.guest_iss),
            agreed,
            connected: self.connected,
            established: dead.state() != State::SynReceived,
            una: self.iss + 1 + una,
            queued,
            host_fin: self.host.ended,
            rcv_nxt: Seq(self.guest_iss) + 1 + taken + u32::from(self.host.shut_down),
            guest_fin: self.host.shut_down,
            held,
        };
        let mut leg = Leg::restore(&self.config(), &restored, now);
        leg.set_window(self.host.free() as u32);
        leg
    }
}
