//! Segments with their bytes, and the link that loses, repeats, delays and reorders them.

use vonic_tcp::{Flags, Header, Seq};

use crate::random::Random;

#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    pub(crate) fn of(header: &Header, payload: Vec<u8>) -> Wire {
        Wire {
            seq: header.seq.0,
            ack: header.ack.0,
            flags: header.flags.0,
            window: header.window,
            options: header.options.as_slice().to_vec(),
            payload,
        }
    }

    pub(crate) fn segment(&self) -> vonic_tcp::Segment<'_> {
        vonic_tcp::Segment {
            seq: Seq(self.seq),
            ack: Seq(self.ack),
            flags: Flags(self.flags),
            window: self.window,
            options: &self.options,
            len: self.payload.len() as u32,
        }
    }
}

/// One direction.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// Microseconds; every segment is delayed by `delay` and up to `jitter` more.
    pub(crate) delay: u64,
    pub(crate) jitter: u64,
}

impl Link {
    /// To a guest that keeps nothing out of order, order is kept and less is lost: else it would get a frame or two for
    /// each timeout, and by Karn's rule no measurement would ever take the longest timeout back.
    pub(crate) fn to_guest(guest_keeps: bool, random: &mut Random) -> Link {
        let link = Link::to_leg(random);
        if guest_keeps { link } else { Link { loss: link.loss.min(20), jitter: 0, ..link } }
    }

    pub(crate) fn to_leg(random: &mut Random) -> Link {
        Link {
            loss: random.pick(&[0, 0, 10, 50, 200]),
            duplication: random.pick(&[0, 0, 10, 100]),
            delay: random.scaled(1, 50_000),
            jitter: random.pick(&[0, 0, 10, 1000, 100_000]),
        }
    }

    /// When copies of a segment arrive that is sent now.
    pub(crate) fn arrivals(&self, now: u64, random: &mut Random) -> Vec<u64> {
        let copies = if random.chance(self.duplication) { 2 } else { 1 };
        let mut arrivals = vec![];
        for _ in 0..copies {
            if !random.chance(self.loss) {
                arrivals.push(now + self.delay + random.between(0, self.jitter));
            }
        }
        arrivals
    }
}
