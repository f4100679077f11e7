//! A port's virtqueues: which index is which, the pair that a frame to the guest takes, and what is done to all of them.
use crate::calls::CallPolicy;
use crate::command::GuestLog;
use crate::datagram::table::DatagramId;
use crate::flow::table::FlowId;
use crate::port::feature;
use crate::ring::Ring;
use crate::steering;
use std::sync::Arc;
use std::time::Duration;
use vonic_queue::{Direction, MemoryMap};
use vonic_tcp::Instant;

/// Pairs of queues that one port can have.
pub const QUEUE_PAIRS_MAX: u16 = 2;
/// As many, as a number of things in memory.
pub const PAIRS: usize = QUEUE_PAIRS_MAX as usize;
/// Both queues of each pair, and the control queue.
const RINGS: usize = 2 * PAIRS + 1;

/// How long a datagram that is longer than the guest's MTU waits for buffers for all its fragments, while the guest posts none.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the queue `index` carries, by the acknowledged feature bits and the pairs offered (virtio 1.3 §5.1.2): receive and
/// transmit queues in turn, then the control queue, whose place depends on MQ. `None`: there is no such queue.
pub fn queue_direction(bits: u64, queue_pairs: u16, index: u16) -> Option<Direction> {
    let pairs = pairs_of(bits, queue_pairs);
    match usize::from(index) {
        i if i < 2 * pairs && i.is_multiple_of(2) => Some(Direction::HostToGuest),
        i if i < 2 * pairs => Some(Direction::GuestToHost),
        i if i == 2 * pairs && bits & feature::CTRL_VQ != 0 => Some(Direction::Control),
        _ => None,
    }
}

fn pairs_of(bits: u64, queue_pairs: u16) -> usize {
    if bits & feature::MQ == 0 { 1 } else { usize::from(queue_pairs).clamp(1, PAIRS) }
}

/// Who waits for the guest to post buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A connection. It may have ended since.
    Flow(FlowId),
    /// A flow of datagrams. It leaves the list when it ends.
    Datagrams(DatagramId),
    /// The socket of the port's forward with this index. The forwards may have changed since.
    Forward(usize),
}

/// Somebody whose next datagram takes more buffers than there are.
#[derive(Clone, Copy, Debug)]
struct Short {
    waiter: Waiter,
    /// So many are too few.
    too_few: u16,
    /// Until when it waits for more.
    until: Instant,
}

/// A port's queues, by index.
pub struct Queues {
    rings: [Ring; RINGS],
    bits: u64,
    queue_pairs: u16,
    pairs: usize,
    /// Pairs in use as the driver said over the control queue (virtio 1.3 §5.1.6.5.6).
    asked: usize,
    /// The pair of the frame under construction.
    aim: usize,
    /// Who waits for buffers of each pair.
    starved: [Vec<Waiter>; PAIRS],
    /// Who waits for more of them.
    short: [Vec<Short>; PAIRS],
}

impl Queues {
    /// None started.
    pub fn new(bits: u64, queue_pairs: u16) -> Queues {
        Queues {
            rings: Default::default(),
            bits,
            queue_pairs,
            pairs: pairs_of(bits, queue_pairs),
            asked: 1,
            aim: 0,
            starved: [const { Vec::new() }; PAIRS].map(|_: Vec<Waiter>| Vec::with_capacity(64)),
            short: Default::default(),
        }
    }

    /// The driver acknowledged features: they decide which queue is which.
    pub fn set_features(&mut self, bits: u64) {
        self.bits = bits;
        self.pairs = pairs_of(bits, self.queue_pairs);
        self.aim = 0;
        self.settle();
    }

    /// Pairs that the driver may use.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// What the queue `index` carries.
    pub fn direction(&self, index: u16) -> Option<Direction> {
        queue_direction(self.bits, self.queue_pairs, index)
    }

    /// Every queue index that there can be.
    pub fn indices() -> std::ops::Range<u16> {
        0..RINGS as u16
    }

    /// The ring with this index.
    pub fn ring(&mut self, index: u16) -> Option<&mut Ring> {
        self.rings.get_mut(usize::from(index))
    }

    /// The transmit queue of a pair.
    pub fn tx(&mut self, pair: usize) -> &mut Ring {
        &mut self.rings[2 * pair + 1]
    }

    /// The receive queue aimed at.
    pub fn rx(&mut self) -> &mut Ring {
        &mut self.rings[2 * self.aim]
    }

    /// The control queue, if the driver has one that comes to vonic.
    pub fn control(&mut self) -> Option<&mut Ring> {
        let index = 2 * self.pairs;
        (self.bits & feature::CTRL_VQ != 0).then(|| &mut self.rings[index])
    }

    /// Whether the transmit queues have chains.
    pub fn has_frames(&self) -> bool {
        (0..self.pairs).any(|pair| self.rings[2 * pair + 1].available() != 0)
    }

    /// Whether frames can reach the guest at all.
    pub fn is_live(&self) -> bool {
        self.in_use().any(|pair| self.rings[2 * pair].is_live())
    }

    /// The pairs in use. A driver whose control queue comes to vonic has one until it asks for more; otherwise its VMM
    /// disables rings.
    fn in_use(&self) -> std::ops::Range<usize> {
        let control = self.bits & feature::CTRL_VQ != 0 && self.rings[2 * self.pairs].is_live();
        0..if control { self.asked.min(self.pairs) } else { self.pairs }
    }

    /// VQ_PAIRS_SET; false if there are not so many, or none were asked for.
    pub fn use_pairs(&mut self, pairs: u16) -> bool {
        let valid = (1..=self.pairs).contains(&pairs.into());
        if valid {
            self.asked = pairs.into();
        }
        valid
    }

    /// Aims at the receive queue of a flow, whose hash is asked for if there is a choice: the same one as long as the same
    /// queues take frames. A flow does not follow the queue on which its guest transmits, which virtio 1.3 §5.1.6.5.6.1
    /// recommends: acknowledgements move between queues with the task that reads, and order is worth more.
    pub fn aim(&mut self, hash: impl FnOnce() -> u32) {
        if self.pairs == 1 {
            return;
        }
        let (mut able, mut count) = ([0; PAIRS], 0);
        for pair in self.in_use() {
            if self.rings[2 * pair].takes_frames() {
                able[count] = pair;
                count += 1;
            }
        }
        self.aim = match count {
            0 => self.in_use().find(|pair| self.rings[2 * pair].is_live()).unwrap_or(0),
            1 => able[0],
            _ => able[hash() as usize % count],
        };
    }

    /// Aims at the receive queue for a frame with these leading bytes.
    pub fn aim_at_frame(&mut self, headers: &[u8]) {
        self.aim(|| steering::hash_of_frame(headers));
    }

    /// The pair that is aimed at.
    pub fn aimed(&self) -> usize {
        self.aim
    }

    /// Aims at a pair that was aimed at before; the one that was until now.
    pub fn aim_again(&mut self, pair: usize) -> usize {
        std::mem::replace(&mut self.aim, pair)
    }

    /// Who waits for buffers of the receive queue aimed at.
    pub fn starved(&mut self) -> &mut Vec<Waiter> {
        &mut self.starved[self.aim]
    }

    /// Takes somebody who waits no more from the lists.
    pub fn unlist(&mut self, waiter: Waiter) {
        self.starved.iter_mut().for_each(|waiting| waiting.retain(|other| *other != waiter));
        self.short.iter_mut().for_each(|waiting| waiting.retain(|other| other.waiter != waiter));
    }

    /// Has somebody wait until there are more buffers than now in the receive queue aimed at, for some time.
    pub fn wait_for_more(&mut self, waiter: Waiter, now: Instant) {
        let too_few = self.rx().available();
        let waiting = &mut self.short[self.aim];
        if waiting.iter().all(|other| other.waiter != waiter) {
            waiting.push(Short { waiter, too_few, until: now + PATIENCE });
        }
    }

    /// Whether anybody waits for buffers.
    pub fn has_waiters(&self) -> bool {
        self.starved.iter().any(|waiting| !waiting.is_empty()) || self.short.iter().any(|waiting| !waiting.is_empty())
    }

    /// What was held against its VMM is no more.
    pub fn forgive(&mut self) {
        self.rings.iter_mut().for_each(Ring::forgive);
    }

    /// Whether a ring broke of which nobody was told.
    pub fn has_broken(&self) -> bool {
        self.rings.iter().any(Ring::is_broken)
    }

    /// Takes somebody who has waited for more buffers of a pair, and there are more now; or, which is said by `true`, who has
    /// waited long enough.
    pub fn got_more(&mut self, pair: usize, now: Instant) -> Option<(Waiter, bool)> {
        let available = self.rings[2 * pair].available();
        let ends = |short: &Short| short.until <= now || short.too_few < available;
        let at = self.short[pair].iter().position(ends)?;
        let short = self.short[pair].remove(at);
        Some((short.waiter, short.too_few >= available))
    }

    /// Until when flows wait for more buffers.
    pub fn short_until(&self) -> Option<Instant> {
        self.short.iter().flatten().map(|short| short.until).min()
    }

    /// Takes those who wait for buffers of a pair: one for each buffer that there is, since more would find none; all of
    /// them if the pair takes no frames any more while another does.
    pub fn fed(&mut self, pair: usize) -> std::vec::Drain<'_, Waiter> {
        let takes = self.in_use().contains(&pair) && self.rings[2 * pair].is_live();
        let most = match (takes, self.is_live()) {
            (true, _) => self.rings[2 * pair].available().into(),
            (false, true) => usize::MAX,
            (false, false) => 0,
        };
        let waiting = &mut self.starved[pair];
        let woken = waiting.len().min(most);
        waiting.drain(..woken)
    }

    /// Whether something may come by a ring that has no kick descriptor; `tap`: frames of a tap wait for buffers.
    pub fn is_polled(&self, tap: bool) -> bool {
        let waits = |index: usize| match index {
            i if i >= 2 * self.pairs || !i.is_multiple_of(2) => true,
            i => tap || !self.starved[i / 2].is_empty() || !self.short[i / 2].is_empty(),
        };
        self.rings.iter().enumerate().any(|(index, ring)| ring.is_polled() && waits(index))
    }

    /// Resolves every ring in a new map.
    pub fn remap(&mut self, map: &Arc<MemoryMap>) {
        self.rings.iter_mut().for_each(|ring| ring.remap(map));
    }

    /// Logs from now on what every ring writes for the guest, or nothing.
    pub fn set_log(&mut self, log: Option<&GuestLog>) {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let alias = log.and_then(|log| log.used.get(index).copied().flatten());
            ring.set_log(log.map(|log| Arc::clone(&log.log)), alias);
        }
    }

    /// Takes in that a ring was started, stopped, enabled or disabled.
    pub fn settle(&mut self) {
        if self.control().is_none_or(|ring| !ring.is_live()) {
            self.asked = 1;
        }
        let runs = (0..self.pairs).any(|pair| self.rings[2 * pair + 1].is_live());
        for pair in 0..PAIRS {
            let on = runs && pair < self.pairs;
            self.tx(pair).discard(on);
        }
    }

    /// Forgets where stopped rings stood: what starts next is somebody new anyway.
    pub fn forget(&mut self) {
        self.rings.iter_mut().for_each(Ring::forget);
    }

    /// Drops the session's rings.
    pub fn disconnect(&mut self) {
        self.rings.iter_mut().for_each(Ring::stop);
        self.forget();
        self.starved.iter_mut().for_each(Vec::clear);
        self.short.iter_mut().for_each(Vec::clear);
        self.settle();
    }

    /// Publishes what the receive queues have completed, and the control queue; `called` is told of each whose call is to be looked after.
    pub fn flush_to_guest(&mut self, policy: CallPolicy, now: Instant, mut called: impl FnMut(u16)) {
        for (ring, index) in self.rings.iter_mut().zip(0..).step_by(2) {
            if ring.flush_by(policy, now) {
                called(index);
            }
        }
    }

    /// Since when a driver is owed a call.
    pub fn owes_since(&self) -> Option<Instant> {
        self.rings.iter().filter_map(Ring::owes_since).min()
    }

    /// Publishes what the transmit queues have completed; true if a driver may be owed a call for it.
    pub fn flush_from_guest(&mut self) -> bool {
        self.rings.iter_mut().skip(1).step_by(2).fold(false, |owes, ring| ring.show() | owes)
    }

    /// The calls for what the transmit queues have published; see [`Ring::call`].
    pub fn call_from_guest(&mut self, all: bool) {
        self.rings.iter_mut().skip(1).step_by(2).for_each(|ring| ring.call(all));
    }

    /// Aims at the receive queue for frames of a tap. They are read before anything is known of them, so all take one queue.
    pub fn aim_at_tap(&mut self) {
        self.aim(|| 0);
    }

    /// Asks for notifications; true if there is work already. Of the receive queues only those for whose buffers somebody
    /// waits want to hear; `tap`: frames of a tap wait for more than so many.
    pub fn arm(&mut self, tap: Option<u16>) -> bool {
        let mut work = false;
        if tap.is_some() {
            self.aim_at_tap();
        }
        for pair in 0..self.pairs {
            work |= self.tx(pair).arm();
            let rx = &mut self.rings[2 * pair];
            let short = self.short[pair].iter().map(|short| short.too_few);
            match tap.filter(|_| pair == self.aim).into_iter().chain(short).min() {
                _ if !self.starved[pair].is_empty() => work |= rx.arm(),
                Some(too_few) => work |= rx.arm_behind(too_few),
                None => rx.disarm(),
            }
        }
        work | self.control().is_some_and(Ring::arm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_queue_is_behind_the_pairs_that_the_driver_may_use() {
        let (data, control) = (feature::VERSION_1, feature::CTRL_VQ);
        let all = |bits, pairs| Queues::indices().map(|index| queue_direction(bits, pairs, index)).collect::<Vec<_>>();
        let (to, from, commands) = (Direction::HostToGuest, Direction::GuestToHost, Direction::Control);
        assert_eq!(all(data, 2), [Some(to), Some(from), None, None, None]);
        assert_eq!(all(data | control, 2), [Some(to), Some(from), Some(commands), None, None]);
        assert_eq!(all(data | feature::MQ, 2), [Some(to), Some(from), Some(to), Some(from), None]);
        assert_eq!(all(data | control | feature::MQ, 2), [Some(to), Some(from), Some(to), Some(from), Some(commands)]);
        assert_eq!(all(data | control | feature::MQ, 1)[2..], [Some(commands), None, None]);
        assert_eq!(all(data | control | feature::MQ, 9).len(), RINGS);
    }

    #[test]
    fn a_driver_gets_the_pairs_that_there_are_and_no_others() {
        let mut queues = Queues::new(feature::MQ | feature::CTRL_VQ, 2);
        assert_eq!([0, 1, 2, 3, u16::MAX].map(|pairs| queues.use_pairs(pairs)), [false, true, true, false, false]);
        queues.set_features(feature::CTRL_VQ);
        assert_eq!([0, 1, 2].map(|pairs| queues.use_pairs(pairs)), [false, true, false]);
        // Without rings nothing is live, nothing waits, and aiming goes nowhere in particular.
        queues.set_features(feature::MQ);
        queues.aim(|| 1);
        assert!(!queues.is_live() && !queues.has_frames() && queues.fed(0).len() == 0 && !queues.arm(None));
        queues.starved().push(Waiter::Flow(7));
        assert!(queues.fed(0).len() == 0, "no ring takes frames: whoever waits goes on waiting");
        queues.starved().push(Waiter::Datagrams(7));
        queues.unlist(Waiter::Datagrams(7));
        assert_eq!(*queues.starved(), [Waiter::Flow(7)], "another kind's number is another's");
    }
}
