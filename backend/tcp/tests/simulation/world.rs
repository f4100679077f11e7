//! Virtual time, the events in it, and the caller of the leg.

use std::{cmp::Reverse, collections::BinaryHeap};

use vonic_tcp::{AckPolicy, Config, Effect, Event, Flags, Instant, Leg, Options, Seq, State, Timestamps, Transmit};

use crate::{
    Plan,
    death::Fate,
    guest::Guest,
    host::Host,
    random::Random,
    stream_byte,
    tally::Tally,
    wire::{Link, Wire},
};

/// Microseconds of virtual time within which everything has ended. Where a fifth of all frames gets lost and nothing measures the round
/// trip, each further loss costs the longest timeout of 60 s (RFC 6298 §5.5): hours for the longest streams.
const TIME_LIMIT: u64 = 24 * 3600 * 1_000_000;
const ROUND_LIMIT: u64 = 2_000_000;

enum Happening {
    ToLeg(Wire),
    ToGuest(Wire),
    HostConnects,
    HostLives,
    GuestLives,
    BothClose,
    /// The guest's ring has buffers again.
    Kick,
}

struct Queued {
    at: u64,
    order: u64,
    happening: Happening,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

pub(crate) struct World {
    seed: u64,
    pub(crate) plan: Plan,
    random: Random,
    pub(crate) now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    to_leg: Link,
    to_guest: Link,
    pub(crate) leg: Option<Leg>,
    pub(crate) iss: Seq,
    guest: Guest,
    pub(crate) guest_iss: u32,
    pub(crate) host: Host,
    /// The right edge that the leg last advertised.
    pub(crate) edge: Option<Seq>,
    /// Its last TSval, and TSecr.
    pub(crate) stamp: Option<(u32, Option<u32>)>,
    pub(crate) fate: Fate,
    /// The host's connect has ended.
    pub(crate) connected: bool,
    /// How much of the guest's stream the peer is reported to have.
    pub(crate) reported: u32,
    kicked: bool,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::random(&mut random);
        let guest_iss = random.bits();
        let mut world = World {
            seed,
            to_leg: Link::to_leg(&mut random),
            to_guest: Link::to_guest(plan.guest_keeps, &mut random),
            host: Host::new(&plan, &mut random),
            guest: Guest::new(plan.clone(), guest_iss),
            guest_iss,
            iss: Seq(random.bits()),
            leg: None,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            edge: None,
            stamp: None,
            fate: Fate::new(seed),
            connected: !plan.guest_opens,
            reported: 0,
            kicked: false,
            tally: Tally::default(),
            plan,
            random,
        };
        if !world.plan.guest_opens {
            world.leg = Some(Leg::open(&world.config(), world.iss, Instant(0)));
        }
        world.queue(0, Happening::HostLives);
        world.queue(0, Happening::GuestLives);
        world.queue(world.plan.close_at, Happening::BothClose);
        world
    }

    pub(crate) fn config(&self) -> Config {
        let ack = if self.plan.by_peer { AckPolicy::Peer } else { AckPolicy::Kernel };
        Config {
            timestamps: self.plan.leg_timestamps.then_some(u32::MAX - 300),
            sack: self.plan.leg_sack,
            ack,
            ..Config::new(1460, self.plan.scale)
        }
    }

    fn queue(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at, order: self.order, happening }));
    }

    pub(crate) fn run(mut self) -> Tally {
        for _ in 0..ROUND_LIMIT {
            if self.is_over() {
                self.check_streams();
                return self.tally;
            }
            self.round();
        }
        self.fail("too many rounds");
    }

    fn is_over(&self) -> bool {
        self.leg.as_ref().is_some_and(Leg::is_closed) && (self.guest.is_done() || self.waited_in_vain())
    }

    /// The guest misses nothing but the ACK of its FIN: TIME-WAIT is shorter towards a guest than on the Internet, and every
    /// copy of the FIN that it waited for was late or lost. In earnest the guest's next copy gets a reset.
    fn waited_in_vain(&self) -> bool {
        self.tally.time_waits > 0 && self.guest.finished && self.host.shut_down
    }

    fn fail(&self, why: &str) -> ! {
        panic!(
            "seed {}: {why} at {} us\n{:?}\n{:?}\nguest has {}, host has {}",
            self.seed,
            self.now,
            self.plan,
            self.leg,
            self.guest.received.len(),
            self.host.taken.len()
        );
    }

    fn check_streams(&mut self) {
        self.check_prefixes();
        let complete = self.guest.received.len() as u64 == self.plan.host_bytes
            && self.host.taken.len() as u64 == self.plan.guest_bytes;
        if !complete || !self.host.shut_down || !self.guest.finished {
            self.fail("the end came before the streams were complete");
        }
        self.tally.bytes = self.plan.host_bytes + self.plan.guest_bytes;
    }

    fn check_prefixes(&self) {
        let exact = |bytes: &[u8], salt| bytes.iter().zip(0..).all(|(byte, at)| *byte == stream_byte(salt, at));
        if !exact(&self.guest.received, 1) || !exact(&self.host.taken, 2) {
            self.fail("a stream is not what was sent");
        }
    }

    /// Goes to the next moment at which anything happens, and lets all of it happen.
    fn round(&mut self) {
        let deadlines = [
            self.queue.peek().map(|Reverse(next)| next.at),
            self.leg.as_ref().and_then(Leg::deadline).map(|at| at.0),
            self.guest.deadline(),
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else { self.fail("everything waits for ever") };
        self.now = self.now.max(next);
        if self.now > TIME_LIMIT {
            self.fail("time is over");
        }
        while self.queue.peek().is_some_and(|Reverse(queued)| queued.at <= self.now) {
            let Some(Reverse(queued)) = self.queue.pop() else { break };
            self.happen(queued.happening);
        }
        self.time_out();
        self.live_or_die();
        self.poll_leg();
        for wire in self.guest.poll(self.now) {
            for at in self.to_leg.arrivals(self.now, &mut self.random) {
                self.queue(at, Happening::ToLeg(wire.clone()));
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToLeg(wire) => self.segment(&wire),
            Happening::ToGuest(wire) => self.guest.receive(self.now, &wire),
            Happening::HostConnects => {
                let now = Instant(self.now);
                self.connected = true;
                self.leg().host_connected(now);
            }
            Happening::Kick => self.kicked = false,
            Happening::HostLives => {
                self.host_lives();
                let pause = self.pause();
                self.queue(self.now + pause, Happening::HostLives);
            }
            Happening::GuestLives => {
                self.guest_lives();
                let pause = self.pause();
                self.queue(self.now + pause, Happening::GuestLives);
            }
            Happening::BothClose => {
                self.host_lives();
                self.guest_lives();
            }
        }
    }

    fn host_lives(&mut self) {
        let readable = self.host.live(self.now, &mut self.random);
        if let Some(leg) = self.leg.as_mut().filter(|_| readable) {
            leg.host_readable();
        }
        if self.random.chance(800) {
            self.report();
        }
    }

    /// What the peer has acknowledged in the meantime.
    fn report(&mut self) {
        let (now, waiting) = (Instant(self.now), self.host.unacknowledged());
        if let Some(leg) = self.leg.as_mut().filter(|leg| leg.held() > waiting) {
            let n = leg.held() - waiting;
            self.reported += n;
            self.tally.reports += 1;
            let before = leg.state();
            leg.peer_acked(now, n);
            self.note_state(before);
        }
    }

    fn guest_lives(&mut self) {
        let (read, write) = (self.random.scaled(1, 100_000), self.random.scaled(1, 100_000));
        self.guest.live(self.now, read, write);
        if self.plan.guest_reneges && self.random.chance(100) {
            self.guest.renege();
        }
    }

    fn pause(&mut self) -> u64 {
        if self.random.chance(10) { self.random.between(1_000_000, 5_000_000) } else { self.random.scaled(100, 50_000) }
    }

    fn leg(&mut self) -> &mut Leg {
        self.leg.as_mut().expect("the leg exists")
    }

    fn segment(&mut self, wire: &Wire) {
        let segment = wire.segment();
        let now = Instant(self.now);
        if self.leg.is_none() {
            if segment.flags != Flags::SYN {
                return;
            }
            self.leg = Some(Leg::accept(&self.config(), &segment, self.iss, now));
            let at = self.now + self.random.scaled(1, 500_000);
            return self.queue(at, Happening::HostConnects);
        }
        self.tally.blocks_heard += Options::parse(segment.options).sack.as_slice().len() as u64;
        let before = self.leg().state();
        let effect = self.leg().handle_segment(now, &segment);
        self.follow(wire, &effect);
        self.note_state(before);
    }

    /// What the leg's caller does with an effect.
    fn follow(&mut self, wire: &Wire, effect: &Effect) {
        if matches!(effect.event, Some(Event::Reset | Event::GaveUp)) {
            self.fail("an event of a broken connection");
        }
        self.host.discard(effect.acked);
        if effect.payload.is_none() && !effect.fin {
            return;
        }
        let range = effect.payload.clone().unwrap_or(0..0);
        let bytes = &wire.payload[range.start as usize..range.end as usize];
        self.tally.offers_cut += u64::from(bytes.len() < wire.payload.len());
        let n = if bytes.is_empty() { 0 } else { self.host.send(bytes, &mut self.random) };
        self.tally.short_takes += u64::from((n as usize) < bytes.len());
        let now = Instant(self.now);
        if self.leg().taken(now, n) {
            assert!(!self.host.shut_down, "shut down twice");
            self.host.shut_down = true;
        }
    }

    fn note_state(&mut self, before: State) {
        let after = self.leg().state();
        if before != after {
            self.tally.time_waits += u64::from(after == State::TimeWait);
            self.tally.last_acks += u64::from(before == State::LastAck);
            self.tally.closings += u64::from(after == State::Closing);
        }
    }

    fn time_out(&mut self) {
        let now = Instant(self.now);
        let Some(leg) = &mut self.leg else { return };
        if leg.deadline().is_none_or(|at| at > now) {
            return;
        }
        self.tally.timeouts += 1;
        if leg.handle_timeout(now) == Some(Event::GaveUp) {
            self.fail("the leg gave up");
        }
    }

    /// Polls while the guest's ring has buffers.
    fn poll_leg(&mut self) {
        if self.leg.is_none() || self.kicked {
            return;
        }
        let free = self.host.free() as u32;
        self.leg().set_window(free);
        for _ in 0..self.random.between(1, 64) {
            let Some((flags, wire)) = self.poll_once() else { return };
            self.check_header(flags, &wire);
            for at in self.to_guest.arrivals(self.now, &mut self.random) {
                self.queue(at, Happening::ToGuest(wire.clone()));
            }
        }
        self.kicked = true;
        let at = self.now + self.random.scaled(1, 10_000);
        self.queue(at, Happening::Kick);
    }

    fn poll_once(&mut self) -> Option<(Flags, Wire)> {
        let now = Instant(self.now);
        loop {
            let max = self.plan.host_frame.max(self.leg().mss().into());
            let plan = match self.leg().poll(now, max)? {
                Transmit::Control(header) => return Some((header.flags, Wire::of(&header, vec![]))),
                Transmit::Question(header) => return Some((header.flags, Wire::of(&header, vec![0]))),
                Transmit::Data(plan) => plan,
            };
            let bytes = self.host.peek(plan.offset, plan.max, &mut self.random);
            let at_end = bytes.is_empty() && self.host.at_end(plan.offset);
            if let Some(header) = self.leg().sent(now, &plan, bytes.len() as u32) {
                return Some((header.flags, Wire::of(&header, bytes)));
            }
            if at_end {
                self.leg().host_finished(plan.offset);
            }
        }
    }

    /// Nothing is acknowledged that the host did not take, and the right edge never moves left.
    fn check_header(&mut self, flags: Flags, wire: &Wire) {
        if !flags.contains(Flags::ACK) {
            return;
        }
        let syn = flags.contains(Flags::SYN);
        let all = self.host.taken.len() as u32;
        let have = if self.plan.by_peer { self.reported } else { all };
        let taken = have + u32::from(self.host.shut_down && have == all);
        if wire.ack.wrapping_sub(self.guest_iss).wrapping_sub(1) != taken {
            self.fail("acknowledges something else than what the host took");
        }
        let shift = if syn || self.plan.guest_scale.is_none() { 0 } else { self.plan.scale };
        let edge = Seq(wire.ack) + (u32::from(wire.window) << shift);
        if self.edge.is_some_and(|before| edge.lt(before)) {
            self.fail("the right edge moved left");
        }
        self.tally.closed_windows += u64::from(wire.window == 0);
        self.edge = Some(edge);
        self.check_options(wire);
    }

    /// Timestamps and what they echo never go back; a block tells of what is acknowledged
    /// (RFC 2883) or of a segment behind a hole (RFC 2018 §8), one at a time.
    fn check_options(&mut self, wire: &Wire) {
        let options = Options::parse(&wire.options);
        // An echo of 0 says that nothing has been heard yet.
        let echo = |timestamps: &Timestamps| Some(timestamps.ecr).filter(|ecr| *ecr != 0);
        let stamp = options.timestamps.map(|timestamps| (timestamps.val, echo(&timestamps)));
        let went_back = |before: u32, now: u32| (now.wrapping_sub(before) as i32) < 0;
        if let (Some(before), Some(now)) = (self.stamp, stamp)
            && (went_back(before.0, now.0) || before.1.zip(now.1).is_some_and(|(before, now)| went_back(before, now)))
        {
            self.fail("a timestamp went back");
        }
        self.stamp = stamp.or(self.stamp);
        self.tally.stamped += u64::from(stamp.is_some());
        for (left, right) in options.sack.as_slice() {
            self.tally.duplicates_told += 1;
            let ack = Seq(wire.ack);
            let behind_hole = left.gt(ack);
            if !left.lt(*right) || (right.gt(ack) && !behind_hole) || options.sack.as_slice().len() > 1 {
                self.fail("a block that is neither of a duplicate nor behind a hole");
            }
            self.tally.holes_told += u64::from(behind_hole);
        }
        if !wire.payload.is_empty() && wire.options.len() != usize::from(self.leg().options_len()) {
            self.fail("options in front of payload have another length than was said");
        }
    }
}
