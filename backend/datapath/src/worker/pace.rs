//! Whether more work gets done if the worker looks for it than if it is woken. Who waits for an answer asks again when it is there; so if looking
//! makes answers come sooner, more is asked, and if it takes the processor from those who ask, less. Neither can be seen from pauses alone, which
//! are long because the worker sleeps: now and then the other way is tried (ADR 0033).
use crate::port::Port;
use crate::stats::Way;
use vonic_tcp::Instant;

/// What is measured together: so many pauses, and so many microseconds.
const PAUSES: u32 = 256;
const STRETCH_US: u64 = 50_000;
/// Stretches of a trial, of which the last is measured: to sleep may have the scheduler put on one processor who ran on several, and it takes a while
/// to undo that.
const TRIAL: u32 = 4;
/// Stretches between two trials: fewest, and most, once trials have had the same outcome again and again.
const OFTEN: u32 = 16;
const SELDOM: u32 = 256;
/// Microseconds that count of a pause at most.
const PAUSE_MAX: u64 = 1000;
/// Looking has to do an eighth more than sleeping, and a sixteenth to be kept up: it costs a processor.
const TO_BEGIN: u64 = 8;
const TO_GO_ON: u64 = 16;

/// What a frame is worth besides its bytes: a question is one, and some segments more or less in one frame are to make no difference.
const FRAME: u64 = 512;

/// What has been done for guests up to now: bytes, and what their frames are worth besides.
pub(super) fn work_done(ports: &[Option<Box<Port>>]) -> u64 {
    let traffic = ports.iter().flatten().flat_map(|port| Way::ALL.map(|way| port.spec.stats.traffic(way)));
    traffic.fold(0, |sum, (frames, bytes)| sum.wrapping_add(bytes).wrapping_add(FRAME * frames))
}

/// What was done in a stretch, as told, and in how many microseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    work: u64,
    time: u64,
}

impl Rate {
    /// Whether it is higher than the other by one part of `parts`.
    fn exceeds(self, other: Rate, parts: u64) -> bool {
        let product = |a: u64, b: u64, c: u64| u128::from(a) * u128::from(b) * u128::from(c);
        product(self.work, other.time, parts) > product(other.work, self.time, parts + 1)
    }
}

/// Which way more gets done.
#[derive(Debug)]
pub(super) struct Pace {
    looks: bool,
    /// Stretches for which the other way is still being tried.
    trial: u32,
    /// The last trial spoke for sleeping.
    doubts: bool,
    /// Of this stretch.
    pauses: u32,
    time: u64,
    /// Work done up to this stretch's beginning.
    begun: u64,
    /// The last stretch of the usual way.
    usual: Rate,
    /// Stretches until the next trial, and from then to the one after it.
    wait: u32,
    interval: u32,
    last: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            looks: true,
            trial: 0,
            doubts: false,
            pauses: 0,
            time: 0,
            begun: 0,
            usual: Rate::default(),
            wait: OFTEN,
            interval: OFTEN,
            last: now,
        }
    }

    /// One that sleeps, until a trial of another.
    #[cfg(test)]
    pub(super) fn asleep(now: Instant) -> Pace {
        Pace { looks: false, ..Pace::new(now) }
    }

    /// Whether to look.
    pub(super) fn looks(&self) -> bool {
        self.looks != (self.trial > 0)
    }

    /// The stretch is not to be measured: it does not hang on this whether the worker looks.
    pub(super) fn skip(&mut self, now: Instant) {
        (self.pauses, self.last) = (0, now);
    }

    /// Work was found after a pause of so many microseconds; `done` is what has been done up to now.
    pub(super) fn found(&mut self, now: Instant, pause: u64, done: impl FnOnce() -> u64) {
        let passed = now.0.saturating_sub(std::mem::replace(&mut self.last, now).0);
        if self.pauses == 0 {
            (self.pauses, self.time, self.begun) = (1, 0, done());
            return;
        }
        self.time += passed.saturating_sub(pause.saturating_sub(PAUSE_MAX));
        self.pauses += 1;
        if self.pauses > PAUSES && self.time >= STRETCH_US {
            let done = done();
            let rate = Rate { work: done.wrapping_sub(self.begun), time: self.time };
            (self.pauses, self.time, self.begun) = (1, 0, done);
            self.learn(rate);
        }
    }

    fn learn(&mut self, rate: Rate) {
        match self.trial {
            0 => {
                self.usual = rate;
                self.wait = self.wait.saturating_sub(1);
                self.trial = if self.wait == 0 { TRIAL } else { 0 };
            }
            1 => {
                let (looking, sleeping) = if self.looks { (self.usual, rate) } else { (rate, self.usual) };
                self.decide(looking.exceeds(sleeping, if self.looks { TO_GO_ON } else { TO_BEGIN }));
                (self.trial, self.wait) = (0, self.interval);
            }
            _ => self.trial -= 1,
        }
    }

    fn decide(&mut self, looks: bool) {
        if looks == self.looks {
            (self.doubts, self.interval) = (false, (2 * self.interval).min(SELDOM));
        } else if self.looks && !self.doubts {
            (self.doubts, self.interval) = (true, OFTEN);
        } else {
            (self.looks, self.doubts) = (looks, false);
            self.interval = OFTEN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// Of a hundred pauses it looks in so many, while work comes as soon as said for looking and for sleeping, a frame each time.
    fn looks(pace: &mut Pace, seconds: u64, mut pause: impl FnMut(bool) -> u64) -> u64 {
        let (mut looked, mut all) = (0, 0);
        let (end, begun) = (pace.last.0 + seconds * SECOND, pace.begun);
        while pace.last.0 < end {
            looked += u64::from(pace.looks());
            all += 1;
            let pause = pause(pace.looks());
            pace.found(Instant(pace.last.0 + pause), pause, || begun + all * FRAME);
        }
        100 * looked / all
    }

    fn sooner(looks: bool) -> u64 {
        if looks { 45 } else { 90 }
    }

    #[test]
    fn who_asks_sooner_when_answered_sooner_is_looked_out_for() {
        let mut pace = Pace::new(Instant(0));
        let often = looks(&mut pace, 10, sooner);
        assert!(often > 85, "{often}");
        let later = looks(&mut pace, 100, sooner);
        assert!(later > 95, "{later}");
        let worse = looks(&mut pace, 100, |looks| sooner(!looks));
        assert!(worse < 20, "{worse}");
        let again = looks(&mut pace, 100, sooner);
        assert!(again > 75, "{again}");
    }

    #[test]
    fn who_asks_when_it_likes_is_slept_for() {
        for pause in [20, 70, 500, 5000] {
            let mut pace = Pace::new(Instant(0));
            looks(&mut pace, 100, |_| pause);
            let seldom = looks(&mut pace, 200, |_| pause);
            assert!(seldom < 20, "{seldom} of pauses of {pause} us");
        }
    }

    #[test]
    fn a_single_trial_in_which_others_were_slower_does_not_end_it() {
        let (mut pace, mut trials) = (Pace::new(Instant(0)), 0);
        let mut slept = false;
        let often = looks(&mut pace, 100, |looks| {
            trials += u32::from(!looks && !slept);
            slept = !looks;
            if trials == 3 && !looks { 40 } else { sooner(looks) }
        });
        assert!(trials > 5 && often > 90, "{often}, {trials} trials");
    }

    #[test]
    fn what_lies_still_counts_little() {
        let (mut pace, mut n) = (Pace::new(Instant(0)), 0);
        let often = looks(&mut pace, 1000, |looks| {
            n += 1;
            if n % 1000 == 0 { SECOND } else { sooner(looks) }
        });
        assert!(often > 80, "{often}");
    }

    #[test]
    fn what_was_not_measured_is_not_learnt_from() {
        let mut pace = Pace::new(Instant(0));
        for n in 0..1_000_000 {
            pace.found(Instant(10 * n), 10, || 0);
            pace.skip(Instant(10 * n));
        }
        assert_eq!((pace.wait, pace.looks()), (OFTEN, true));
    }
}
