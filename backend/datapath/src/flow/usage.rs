//! How much of its limits a port has used.
use crate::keyed::KeyedMap;
use crate::limit::Limit;
use crate::spec::Limits;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use vonic_tcp::Instant;

/// How much of its limits one port has used. What the guest opens and what the world opens have limits of their own, so
/// that neither can shut the other out.
#[derive(Debug, Default)]
pub struct Usage {
    /// Connections in the table, those in TIME-WAIT not counted.
    pub connections: u32,
    guest: Opening,
    world: Opening,
    groups: Bucket,
    /// Connects of the guest in progress, by destination.
    destinations: KeyedMap<SocketAddr, u32>,
    /// As many holders, besides this one, as connections are open at vonic's own service.
    service: Arc<()>,
}

/// Connections that one guest may have at vonic's own service.
const SERVICE_CONNECTIONS: usize = 8;

/// One connection's place at vonic's own service; free again when it is dropped, by whoever held the connection last.
#[derive(Debug)]
pub struct ServicePlace {
    _held: Arc<()>,
}

/// One new connection, or one frame.
const TOKEN: u64 = 1_000_000;

/// What may happen so often in a second, and as often at once.
#[derive(Debug, Default)]
struct Bucket {
    /// What may still happen, in parts of a [`TOKEN`]: so many are added each microsecond as there may be in a second.
    tokens: u64,
    refilled: Option<Instant>,
}

impl Bucket {
    /// Takes one token, if there is one; of those of a second so many may be taken at once.
    fn take(&mut self, rate: u32, at_once: u32, now: Instant) -> bool {
        let taken = self.wait(rate, at_once, now).is_zero();
        self.tokens -= if taken { TOKEN } else { 0 };
        taken
    }

    /// How long it takes until there is a token.
    fn wait(&mut self, rate: u32, at_once: u32, now: Instant) -> Duration {
        let rate = u64::from(rate);
        let full = u64::from(at_once.max(1)) * TOKEN;
        self.tokens = match self.refilled {
            Some(then) => self.tokens.saturating_add(now.0.saturating_sub(then.0).saturating_mul(rate)).min(full),
            None => full,
        };
        self.refilled = Some(now);
        Duration::from_micros(TOKEN.saturating_sub(self.tokens).div_ceil(rate.max(1)))
    }
}

/// Connections being opened by one side.
#[derive(Debug, Default)]
struct Opening {
    /// Handshakes in progress.
    pending: u32,
    /// New connections that may still start.
    new: Bucket,
}

impl Opening {
    fn admit(&mut self, limits: &Limits, now: Instant) -> Result<(), Limit> {
        if self.pending >= limits.pending { Err(Limit::Pending) } else { self.take(limits, now) }
    }

    /// Takes one token.
    fn take(&mut self, limits: &Limits, now: Instant) -> Result<(), Limit> {
        let rate = limits.new_per_second;
        if self.new.take(rate, rate, now) { Ok(()) } else { Err(Limit::NewPerSecond) }
    }
}

impl Usage {
    /// Whether one more connection may start now: of the guest's to `destination`, or of the world's.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn admit(&mut self, limits: &Limits, destination: Option<SocketAddr>, now: Instant) -> Result<(), Limit> {
        if self.connections >= limits.connections {
            return Err(Limit::Connections);
        }
        let Some(to) = destination else { return self.world.admit(limits, now) };
        if self.destinations.get(&to).is_some_and(|n| *n >= limits.pending_per_destination) {
            return Err(Limit::PendingPerDestination);
        }
        self.guest.admit(limits, now)
    }

    /// How long the world's next connection has to wait at its listener for its turn; zero: not at all.
    pub fn world_waits(&mut self, limits: &Limits, now: Instant) -> Duration {
        self.world.new.wait(limits.new_per_second, limits.new_per_second, now)
    }

    /// A place at vonic's own service, if one is left: counted from here until the service has let go of the connection, so that
    /// what a guest opens and resets does not pile up on its way there.
    pub fn service_place(&self) -> Option<ServicePlace> {
        (Arc::strong_count(&self.service) <= SERVICE_CONNECTIONS)
            .then(|| ServicePlace { _held: Arc::clone(&self.service) })
    }

    /// Whether the guest, or else the world, may begin one more flow of datagrams now: its connects and these have one rate.
    ///
    /// # Errors
    /// `NewPerSecond`.
    pub fn admit_datagrams(&mut self, limits: &Limits, by_guest: bool, now: Instant) -> Result<(), Limit> {
        if by_guest { &mut self.guest } else { &mut self.world }.take(limits, now)
    }

    /// Whether the guest may send one more frame to a group now.
    ///
    /// # Errors
    /// `GroupsPerSecond`.
    pub fn admit_group(&mut self, limits: &Limits, now: Instant) -> Result<(), Limit> {
        let rate = limits.groups_per_second;
        // A tenth of a second's at once: no protocol needs more, and everybody gets them.
        if self.groups.take(rate, rate / 10, now) { Ok(()) } else { Err(Limit::GroupsPerSecond) }
    }

    /// A handshake begins.
    pub fn begin(&mut self, destination: Option<SocketAddr>) {
        match destination {
            Some(to) => {
                self.guest.pending += 1;
                *self.destinations.entry(to).or_default() += 1;
            }
            None => self.world.pending += 1,
        }
    }

    /// A handshake that began has ended, well or not.
    pub fn end(&mut self, destination: Option<SocketAddr>) {
        let Some(to) = destination else {
            self.world.pending = self.world.pending.saturating_sub(1);
            return;
        };
        self.guest.pending = self.guest.pending.saturating_sub(1);
        if let Some(n) = self.destinations.get_mut(&to) {
            *n -= 1;
            if *n == 0 {
                self.destinations.remove(&to);
            }
        }
    }
}

/// Whether a guest that holds `held` of the `total` sockets in use may have one more. One that holds more than its share of the
/// `most` leaves the last quarter to the others: however many VMs are at their limits, another one can open something.
pub fn has_room(most: usize, total: usize, held: usize, guests: usize) -> bool {
    total < most && (held < most / guests.max(1) || total < most - most / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_eight_places_for_a_guest() {
        let usage = Usage::default();
        let mut held: Vec<ServicePlace> = (0..8).map(|_| usage.service_place().unwrap()).collect();
        assert!(usage.service_place().is_none());
        held.pop();
        assert!(usage.service_place().is_some());
    }

    #[test]
    fn the_rate_of_new_connections_is_a_bucket_of_one_second() {
        let limits = Limits {
            connections: 1000,
            pending: 10,
            pending_per_destination: 10,
            udp_flows: 10,
            new_per_second: 5,
            groups_per_second: 3,
        };
        let mut usage = Usage::default();
        let to: SocketAddr = "203.0.113.7:80".parse().unwrap();
        let count =
            |usage: &mut Usage, to, at| (0..100).filter(|_| usage.admit(&limits, to, Instant(at)).is_ok()).count();
        assert_eq!(count(&mut usage, Some(to), 0), 5);
        assert_eq!(count(&mut usage, None, 0), 5, "the world has tokens of its own");
        assert_eq!(count(&mut usage, Some(to), 400_000), 2);
        assert_eq!(count(&mut usage, Some(to), 10_000_000), 5);
        (0..10).for_each(|_| usage.begin(Some(to)));
        assert_eq!(count(&mut usage, Some("203.0.113.8:80".parse().unwrap()), 20_000_000), 0, "ten are pending");
        assert_eq!(count(&mut usage, None, 20_000_000), 5, "but none of the world's");
        usage.end(Some(to));
        assert_eq!(count(&mut usage, Some(to), 30_000_000), 5);
        usage.connections = 1000;
        assert_eq!(count(&mut usage, Some(to), 40_000_000), 0);
    }

    #[test]
    fn each_limit_says_its_name() {
        let limits = Limits {
            connections: 3,
            pending: 2,
            pending_per_destination: 1,
            udp_flows: 10,
            new_per_second: 2,
            groups_per_second: 3,
        };
        let mut usage = Usage::default();
        let [a, b, c]: [SocketAddr; 3] =
            ["203.0.113.7:80", "[2001:db8:7::1]:80", "203.0.113.7:82"].map(|a| a.parse().unwrap());
        usage.begin(Some(a));
        assert_eq!(usage.admit(&limits, Some(a), Instant(0)), Err(Limit::PendingPerDestination));
        usage.begin(Some(b));
        assert_eq!(usage.admit(&limits, Some(c), Instant(0)), Err(Limit::Pending));
        usage.end(Some(a));
        assert_eq!((0..3).map(|_| usage.admit(&limits, Some(c), Instant(0))).last(), Some(Err(Limit::NewPerSecond)));
        assert_eq!(usage.admit_datagrams(&limits, true, Instant(0)), Err(Limit::NewPerSecond));
        assert_eq!(usage.world_waits(&limits, Instant(0)), Duration::ZERO);
        (0..2).for_each(|_| assert_eq!(usage.admit(&limits, None, Instant(0)), Ok(())));
        assert_eq!(usage.world_waits(&limits, Instant(0)), Duration::from_millis(500), "two in a second");
        assert_eq!(usage.world_waits(&limits, Instant(500_000)), Duration::ZERO);
        usage.connections = 3;
        assert_eq!(usage.admit(&limits, Some(a), Instant(9_000_000)), Err(Limit::Connections));
        assert_eq!(usage.admit(&limits, None, Instant(9_000_000)), Err(Limit::Connections));
    }

    #[test]
    fn a_guest_at_all_its_limits_leaves_sockets_to_the_others() {
        // One hog among four guests: a quarter of the sockets is beyond its reach.
        let hog = (0..2000).find(|n| !has_room(1000, *n, *n, 4)).unwrap();
        assert_eq!(hog, 750);
        // Each of the others gets its share of what is left, until there is none.
        assert!((0..250).all(|n| has_room(1000, hog + n, n / 3, 4)));
        assert!(!has_room(1000, 1000, 0, 4));
        // Alone, a guest is within its share.
        assert!(has_room(1000, 999, 999, 1) && has_room(7, 6, 6, 1));
    }

    #[test]
    fn one_destination_cannot_take_all_pending_connects() {
        let limits = Limits {
            connections: 1000,
            pending: 10,
            pending_per_destination: 2,
            udp_flows: 10,
            new_per_second: 1000,
            groups_per_second: 3,
        };
        let mut usage = Usage::default();
        let [a, b]: [SocketAddr; 2] = ["203.0.113.7:80", "203.0.113.7:81"].map(|a| a.parse().unwrap());
        let mut open = |to| usage.admit(&limits, Some(to), Instant(0)).map(|()| usage.begin(Some(to)));
        assert_eq!([open(a), open(a), open(a), open(b)], [Ok(()), Ok(()), Err(Limit::PendingPerDestination), Ok(())]);
        usage.end(Some(a));
        assert_eq!(usage.admit(&limits, Some(a), Instant(0)), Ok(()));
    }

    #[test]
    fn frames_to_groups_have_a_rate_and_a_tenth_of_it_at_once() {
        let limits = Limits {
            connections: 1,
            pending: 1,
            pending_per_destination: 1,
            udp_flows: 1,
            new_per_second: 1,
            groups_per_second: 100,
        };
        let mut usage = Usage::default();
        let mut admitted = |at| (0..1000).filter(|_| usage.admit_group(&limits, Instant(at)).is_ok()).count();
        assert_eq!(admitted(1), 10);
        assert_eq!(admitted(50_001), 5);
        assert_eq!(admitted(60_000_001), 10);
        assert_eq!(usage.admit_group(&limits, Instant(60_000_002)), Err(Limit::GroupsPerSecond));
    }
}
