//! Shares of a worker's time. Ports take turns, of which each is bounded in chains and in time. Who has had more than its part of the time for which
//! several have had work goes without a turn as long as another takes one (processor sharing by virtual time). And frames of which nothing is
//! forwarded, since they are dropped, or vonic itself answers them, have a part of the time that they do not exceed though nobody else needs it: what it
//! takes is taken from whoever else runs on the host.
use crate::worker::BURST;
use vonic_tcp::Instant;

/// Microseconds of a turn: so long a neighbour waits at most for each who is before it. A port may be ahead of the others by as much, and a turn counts
/// for twice as much at most: more is not its work, but that of whoever had the processor meanwhile.
pub const TURN_US: u64 = 200;
/// What is held against a port at most: it uses time that nobody else needs, and is not to pay for it for long.
const AHEAD_MAX_US: u64 = 1000;
/// Microseconds for which a port counts as one of those that share the time, from its last turn on. Who waits for an answer sends nothing meanwhile.
const WINDOW_US: u64 = 1000;

/// Of so many microseconds one is for frames of which nothing is forwarded.
const UNFORWARDED_PART: u64 = 16;
/// Microseconds for them at once.
const UNFORWARDED_US: u64 = 250;
/// Microseconds that one such frame counts for at most: more is not its work, but that of whoever had the processor meanwhile.
const FRAME_US: u64 = 20;
/// The longest rest, in microseconds.
const REST_MAX_US: u64 = 20_000;

/// Parts of a microsecond in which virtual time is counted.
const PARTS: u64 = 1024;

/// One port's.
#[derive(Debug)]
pub struct Share {
    /// The virtual time that it has had.
    had: u64,
    /// The last window in which it had work.
    window: u64,
    /// Chains of its next turn.
    turn: usize,
    /// Microseconds that frames took of which nothing was forwarded, less what they may take, as of then.
    unforwarded: u64,
    counted: Instant,
    rests_until: Instant,
}

impl Default for Share {
    fn default() -> Share {
        Share { had: 0, window: 0, turn: BURST, unforwarded: 0, counted: Instant(0), rests_until: Instant(0) }
    }
}

impl Share {
    /// Chains of each queue that its next turn may take.
    pub fn turn(&self) -> usize {
        self.turn
    }

    /// Until when it has no turn.
    pub fn rests(&self, now: Instant) -> Option<Instant> {
        Some(self.rests_until).filter(|until| *until > now)
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Microseconds.
    pub took: u64,
    /// Chains of it, and those of them of which nothing was forwarded.
    pub chains: usize,
    pub unforwarded: usize,
}

/// A worker's.
#[derive(Debug)]
pub struct Shares {
    /// [`TURN_US`], or more.
    turn_us: u64,
    /// How much each port would have had by now that had always had work.
    virtual_time: u64,
    /// Which window this is, beginning with 1, and when it began.
    window: u64,
    began: Instant,
    /// How many ports have had work in it, and in the one before.
    busy: u64,
    busy_before: u64,
}

impl Shares {
    /// Of turns of so many microseconds.
    pub fn new(turn_us: u64) -> Shares {
        Shares { turn_us, virtual_time: 0, window: 0, began: Instant(0), busy: 0, busy_before: 0 }
    }

    /// A port has work.
    pub fn see(&mut self, share: &mut Share, now: Instant) {
        let passed = now.0.saturating_sub(self.began.0);
        if passed >= WINDOW_US || self.window == 0 {
            self.busy_before = if passed < 2 * WINDOW_US { self.busy } else { 0 };
            (self.window, self.began, self.busy) = (self.window + 1, now, 0);
        }
        if share.window != self.window {
            share.window = self.window;
            self.busy += 1;
        }
    }

    /// Whether a port has had more than its part.
    pub fn is_ahead(&self, share: &Share) -> bool {
        share.had > self.virtual_time.saturating_add(self.turn_us.saturating_mul(PARTS))
    }

    /// Counts a port's turn; true if it has to rest.
    pub fn charge(&mut self, share: &mut Share, turn: Turn, now: Instant) -> bool {
        let counted = turn.took.min(2 * TURN_US) * PARTS;
        let had = share.had.max(self.virtual_time) + counted;
        self.virtual_time += counted / self.busy.max(self.busy_before).max(1);
        share.had = had.min(self.virtual_time + AHEAD_MAX_US * PARTS);
        if turn.took > self.turn_us {
            share.turn = (share.turn / 2).max(1);
        } else if turn.took < self.turn_us / 2 {
            share.turn = (share.turn * 2).min(BURST);
        }
        if turn.unforwarded == 0 {
            return false;
        }
        let may = now.0.saturating_sub(share.counted.0) / UNFORWARDED_PART;
        let part = turn.took.saturating_mul(turn.unforwarded as u64) / turn.chains.max(turn.unforwarded) as u64;
        let part = part.min(FRAME_US * turn.unforwarded as u64);
        share.unforwarded = share.unforwarded.saturating_sub(may) + part;
        share.counted = now;
        let rests = share.unforwarded > UNFORWARDED_US;
        if rests {
            let rest = (share.unforwarded - UNFORWARDED_US / 2) * UNFORWARDED_PART;
            share.rests_until = Instant(now.0 + rest.min(REST_MAX_US));
        }
        rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Turn = Turn { took: 10, chains: 10, unforwarded: 0 };

    /// Rounds over a second of ports, each of which has work in one of so many rounds, and takes so long. What part of the time each had.
    fn run(ports: &[(u64, u64)]) -> Vec<f64> {
        let mut shares = Shares::new(TURN_US);
        let mut all: Vec<(Share, u64)> = ports.iter().map(|_| (Share::default(), 0)).collect();
        let (mut now, mut round) = (Instant(1), 0);
        while now.0 < 1_000_000 {
            let (mut served, mut put_off) = (false, Vec::new());
            for (at, ((every, took), (share, had))) in ports.iter().zip(&mut all).enumerate() {
                if !u64::is_multiple_of(round + at as u64, *every) {
                    continue;
                }
                shares.see(share, now);
                if shares.is_ahead(share) {
                    put_off.push(at);
                    continue;
                }
                now.0 += took;
                *had += took;
                served = true;
                shares.charge(share, Turn { took: *took, ..GOOD }, now);
            }
            for at in put_off.into_iter().filter(|_| !served) {
                let (took, (share, had)) = (ports[at].1, &mut all[at]);
                now.0 += took;
                *had += took;
                shares.charge(share, Turn { took, ..GOOD }, now);
            }
            now.0 += 1;
            round += 1;
        }
        all.iter().map(|(_, had)| *had as f64 / now.0 as f64).collect()
    }

    #[test]
    fn who_takes_long_turns_gets_as_much_time_as_the_others_not_as_many_turns() {
        let mut ports = vec![(1, 10); 8];
        ports[3].1 = 200;
        let had = run(&ports);
        assert!(had.iter().all(|part| (0.09..0.14).contains(part)), "{had:?}");
    }

    #[test]
    fn time_that_nobody_else_needs_is_everybodys() {
        assert!(run(&[(1, 200)])[0] > 0.98);
        // The others need 10 µs every 20 rounds: they have them.
        let had = run(&[(1, 200), (20, 10), (20, 10)]);
        assert!(had[0] > 0.9, "{had:?}");
    }

    #[test]
    fn who_waits_for_answers_comes_before_who_floods() {
        // Each of seven has work in every seventh round, one in each round.
        let mut ports = vec![(7, 10); 7];
        ports.push((1, 100));
        let had = run(&ports);
        assert!(had[7] < 0.2, "{had:?}");
        assert!(had[..7].iter().all(|part| *part > 0.1), "{had:?}");
    }

    #[test]
    fn nothing_is_held_against_a_port_for_long() {
        let (mut shares, mut share, mut other) = (Shares::new(TURN_US), Share::default(), Share::default());
        shares.see(&mut share, Instant(5));
        shares.see(&mut other, Instant(5));
        for _ in 0..1000 {
            shares.charge(&mut share, Turn { took: TURN_US, ..GOOD }, Instant(5));
        }
        assert!(shares.is_ahead(&share) && !shares.is_ahead(&other));
        let turns = (1..).find(|_| {
            shares.charge(&mut other, GOOD, Instant(5));
            !shares.is_ahead(&share)
        });
        assert_eq!(turns, Some(2 * (AHEAD_MAX_US - TURN_US) as usize / 10));
    }

    #[test]
    fn turns_are_as_long_as_they_may_take() {
        let (mut shares, mut share) = (Shares::new(TURN_US), Share::default());
        let mut turn = |took| {
            shares.charge(&mut share, Turn { took, ..GOOD }, Instant(0));
            share.turn()
        };
        // One that was interrupted is the exception; those that take so long are soon short.
        assert_eq!([TURN_US, 100 * TURN_US, 1].map(&mut turn), [64, 32, 64]);
        assert_eq!([u64::MAX; 7].map(&mut turn), [32, 16, 8, 4, 2, 1, 1]);
        assert_eq!([1, 1, TURN_US / 2, 1, 1, 1, 1, 1].map(turn), [2, 4, 4, 8, 16, 32, 64, 64]);
    }

    /// However many chains there were: of one, or of a full burst of each of two queues.
    #[test]
    fn a_turn_that_took_long_halves_the_next_one() {
        for chains in [1, 2 * BURST] {
            let (mut shares, mut share) = (Shares::new(TURN_US), Share::default());
            shares.charge(&mut share, Turn { took: TURN_US + 1, chains, unforwarded: 0 }, Instant(0));
            assert_eq!(share.turn(), BURST / 2, "{chains} chains");
        }
    }

    #[test]
    fn a_frame_in_vain_now_and_then_is_no_reason_to_rest() {
        let (mut shares, mut share) = (Shares::new(TURN_US), Share::default());
        // The processor was somebody else's for four milliseconds while each was looked at.
        for ms in 0..1000 {
            let turn = Turn { took: 4000, chains: 1, unforwarded: 1 };
            assert!(!shares.charge(&mut share, turn, Instant(1000 * ms)), "{ms}: {share:?}");
        }
        assert_eq!(share.rests(Instant(1_000_000)), None);
    }

    #[test]
    fn frames_of_which_nothing_is_forwarded_have_their_part_of_the_time() {
        for took in [5, 60, 500, 5000] {
            let (mut shares, mut share) = (Shares::new(TURN_US), Share::default());
            let (mut now, mut had) = (Instant(1), 0);
            while now.0 < 10_000_000 {
                now.0 += took;
                had += took;
                let turn = Turn { took, chains: 64, unforwarded: 64 };
                if shares.charge(&mut share, turn, now) {
                    now = share.rests(now).unwrap();
                }
                assert!(share.rests(now).is_none());
            }
            let part = had as f64 / now.0 as f64;
            assert!((0.05..0.0635 + 0.2 * (took as f64 / 5000.0)).contains(&part), "{took}: {part}");
        }
    }
}
