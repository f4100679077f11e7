//! Whether the worker looks for work before it sleeps. To be woken takes tens of microseconds, more where the host itself is a guest; to look takes a
//! processor, perhaps the one on which what it waits for would run. So it looks where trials show that more gets done by it, and sleeps where they show
//! the opposite; elsewhere it looks as long as that has paid of late.
use super::pace::Pace;
use vonic_tcp::Instant;

/// How long the worker looks for work before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// At most so many microseconds after the last work; 0: not at all.
    For(u64),
    /// For ever: it never sleeps.
    Always,
}

/// How many looks in vain, or how many that paid at once, are remembered.
const MEMORY: i64 = 8;

/// Microseconds that a sleep costs which a look has spared: more only where processors sleep deeply, and then nobody else needs this one.
const SAVED: i64 = 10;

/// Behind bulk looks are so many times as long, and this is what a spared sleep is worth: a guest that takes bulk in has nothing to do until
/// more comes, so that each sleep is taken from its throughput.
const LONGER: u64 = 6;
const SAVED_OF_BULK: i64 = 50;

/// Bytes brought to guests of late that are bulk. Those before each pause count three quarters of what they counted before it, and no more
/// than the most is remembered, so that what was bulk is forgotten within some ten pauses.
const BULK: u32 = 32 << 10;
const MOST_MOVED: u32 = 8 * BULK;

/// What the last pauses between work teach about the next.
#[derive(Clone, Copy)]
struct Habit {
    /// Microseconds of a whole look.
    most: i64,
    /// What finding something is worth.
    saved: i64,
    /// Microseconds that looks for so long have saved of late, or would have, less those that they have cost.
    balance: i64,
}

impl Habit {
    fn new(most: u64, saved: i64) -> Habit {
        Habit { most: most as i64, saved, balance: 0 }
    }

    /// A look that would have found it saved a sleep; any other has cost all of its time.
    fn learn(&mut self, pause: i64) {
        let Habit { most, saved, .. } = *self;
        let gain = if pause <= most { saved.min(most - pause) } else { -most };
        self.balance = (self.balance + gain).clamp(-MEMORY * most, MEMORY * most);
    }

    /// Whether looks have found something soon enough of late.
    fn pays(&self) -> bool {
        self.balance >= 0
    }
}

/// When to look, and when to sleep.
pub(crate) struct Polling {
    poll: Poll,
    /// Behind single frames, and behind bulk.
    habits: [Habit; 2],
    /// Has the say over both, where trials had an outcome.
    pace: Pace,
    moved: u32,
    /// When the last work was found, and when it was done.
    found: Instant,
    done: Instant,
}

impl Polling {
    pub(super) fn new(poll: Poll, now: Instant) -> Polling {
        let most = if let Poll::For(most) = poll { most } else { 0 };
        let habits = [Habit::new(most, SAVED), Habit::new(LONGER * most, SAVED_OF_BULK)];
        Polling { poll, habits, pace: Pace::new(now), moved: 0, found: now, done: now }
    }

    /// So many bytes of a socket or a cable have gone to a guest.
    pub(crate) fn moved(&mut self, bytes: u32) {
        self.moved = MOST_MOVED.min(self.moved.saturating_add(bytes));
    }

    fn is_bulk(&self) -> bool {
        self.moved >= BULK
    }

    /// Microseconds since the last work: since bulk was done, which takes long itself, or since a frame was found.
    fn idle(&self, now: Instant) -> u64 {
        let since = if self.is_bulk() { self.found.max(self.done) } else { self.found };
        now.0.saturating_sub(since.0)
    }

    /// There is work; `done` is how much has been done up to now.
    pub(super) fn found(&mut self, now: Instant, done: impl FnOnce() -> u64) {
        let pause = self.idle(now) as i64;
        // Of what lies within one burst nothing is to be learnt.
        if pause > AT_ONCE {
            let habit = &mut self.habits[usize::from(self.is_bulk())];
            habit.learn(pause);
            if habit.most > 0 {
                self.pace.found(now, pause as u64, habit.pays(), done);
            }
            self.moved -= self.moved / 4;
        }
        self.found = now;
    }

    /// There will be work, it may be hoped.
    pub(super) fn expects(&mut self, now: Instant) {
        self.found = now;
    }

    /// What was found is done.
    pub(super) fn done(&mut self, now: Instant) {
        self.done = now;
    }

    /// Whether it is to look whatever the last pauses were.
    pub(super) fn prefers_looks(&self) -> bool {
        self.poll == Poll::Always || self.pace.looks() == Some(true)
    }

    /// Whether to look on.
    pub(super) fn looks(&self, now: Instant) -> bool {
        let [_, of_bulk] = &self.habits;
        let habit = &self.habits[usize::from(self.is_bulk())];
        let most = match self.pace.looks() {
            // A short look in vain ends in the sleep that it is to spare.
            Some(true) => of_bulk.most,
            None if habit.pays() => habit.most,
            Some(false) | None => 0,
        };
        self.poll == Poll::Always || (self.idle(now) as i64) < most
    }
}

/// Microseconds between two rounds that are none to look in.
const AT_ONCE: i64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// One that looks only where that pays by itself.
    fn habitual(most: u64, now: Instant) -> Polling {
        Polling { pace: Pace::habitual(now), ..Polling::new(Poll::For(most), now) }
    }

    /// Whether it looks behind work after each of these pauses, and how long.
    fn look_after(most: u64, pauses: &[u64]) -> u64 {
        let mut now = Instant(1000);
        let mut polling = habitual(most, now);
        for pause in pauses {
            now.0 += pause;
            polling.found(now, || 0);
            polling.done(now);
        }
        (0..=most + 1).take_while(|us| polling.looks(Instant(now.0 + us))).count() as u64
    }

    #[test]
    fn who_is_answered_soon_is_looked_out_for() {
        assert_eq!(look_after(50, &[]), 50);
        assert_eq!(look_after(50, &[1_000_000, 1_000_000]), 0);
        assert_eq!(look_after(50, &[&[1_000_000][..], &[10; 5]].concat()), 50);
        assert_eq!(
            look_after(50, &[&[1_000_000; 100][..], &[10; 40]].concat()),
            50,
            "nothing is held against it for long"
        );
        assert_eq!(look_after(0, &[10; 12]), 0);
    }

    #[test]
    fn who_is_answered_late_is_slept_for() {
        assert_eq!(
            look_after(50, &[[30, 110]; 20].concat()),
            0,
            "every other look is in vain, and the others gain less"
        );
        assert_eq!(look_after(200, &[[30, 110]; 20].concat()), 200);
        assert_eq!(look_after(50, &[[10; 5], [110; 5]].concat()), 0);
        assert_eq!(look_after(50, &[[110, 2, 2, 2, 2]; 20].concat()), 0, "a burst is one work");
    }

    /// How long it looks after pauses of so long, each behind so many bytes for a guest and something small.
    fn look_behind_bulk(most: u64, bytes: u32, pause: u64, times: u64) -> u64 {
        let mut now = Instant(1000);
        let mut polling = habitual(most, now);
        for time in 0..times {
            now.0 += pause;
            polling.found(now, || 0);
            polling.moved(if time % 2 == 0 { bytes } else { 0 });
            now.0 += 80;
            polling.done(now);
        }
        (0..=10 * most).take_while(|us| polling.looks(Instant(now.0 + us))).count() as u64
    }

    #[test]
    fn behind_bulk_it_looks_for_longer_if_that_pays() {
        assert_eq!(look_behind_bulk(50, 65_536, 110, 20), 300);
        assert_eq!(look_behind_bulk(50, 65_536, 400, 20), 0, "nothing comes so soon");
        assert_eq!(look_behind_bulk(50, 1448, 110, 20), 0, "that is no bulk");
        assert_eq!(look_behind_bulk(0, 65_536, 110, 20), 0, "it is not to look");
    }

    #[test]
    fn bulk_is_forgotten() {
        let mut now = Instant(1000);
        let mut polling = habitual(50, now);
        for _ in 0..100 {
            polling.moved(1 << 20);
        }
        let pauses = (0..).take_while(|_| {
            now.0 += 110;
            polling.found(now, || 0);
            polling.done(now);
            polling.is_bulk()
        });
        assert_eq!(pauses.count(), 7);
    }

    #[test]
    fn time_at_bulk_is_no_pause() {
        let mut now = Instant(1000);
        let mut polling = habitual(50, now);
        for _ in 0..20 {
            polling.found(now, || 0);
            polling.moved(BULK);
            now.0 += 400;
            polling.done(now);
            now.0 += 10;
        }
        assert!(polling.looks(now));
    }

    #[test]
    fn it_looks_where_that_does_not_pay_by_itself_until_it_is_known_to_do_no_more() {
        let mut now = Instant(1000);
        let mut polling = Polling::new(Poll::For(50), now);
        let mut done = 0;
        let mut looks = |polling: &mut Polling, ms: u64| {
            let end = now.0 + ms * 1000;
            let (mut looked, mut all) = (0, 0);
            while now.0 < end {
                (looked, all, done) = (looked + u64::from(polling.looks(now)), all + 1, done + 600);
                now.0 += 70;
                polling.found(now, || done);
            }
            100 * looked / all
        };
        assert!(looks(&mut polling, 100) > 70);
        looks(&mut polling, 1000);
        assert!(looks(&mut polling, 60_000) < 20);
    }

    #[test]
    fn always_is_always() {
        let mut polling = Polling::new(Poll::Always, Instant(0));
        polling.found(Instant(1_000_000), || 0);
        assert!(polling.looks(Instant(u64::MAX)));
    }
}
