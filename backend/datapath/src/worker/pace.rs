//! Whether more work gets done if the worker looks for it than if it is woken. Who waits for an answer asks again when it is there; so if looking
//! makes answers come sooner, more is asked, and if it takes the processor from those who ask, less. Neither can be seen from pauses alone, which
//! are long because the worker sleeps and short because it looks: now and then the other way is tried (ADR 0033).
use crate::port::Port;
use crate::stats::Way;
use vonic_tcp::Instant;

/// What is measured together: so many pauses, and so many microseconds.
const PAUSES: u32 = 256;
const STRETCH_US: u64 = 50_000;
/// Stretches of the other way in a trial, and then of the usual one again, of which the last is measured: to sleep may have the scheduler put on one
/// processor who ran on several, and it takes a while to undo that.
const TRIAL: u32 = 4;
/// The same of looking: a worker that shares its processor may have to find another one first ([`super::place`]).
const TRIAL_OF_LOOKS: u32 = 10;
/// Stretches before the first trial, and between two: fewest, how many times as many once a trial has had the same outcome, and most.
const SOON: u32 = 2;
const OFTEN: u32 = 16;
const RARER: u32 = 4;
const SELDOM: u32 = 256;
/// Microseconds that count of a pause at most.
const PAUSE_MAX: u64 = 1000;
/// A way that is not the usual one has to do an eighth more to be taken up, and to be kept up a sixteenth more than its opposite.
const TO_BEGIN: u64 = 8;
const TO_GO_ON: u64 = 16;
/// Sleep has lost its trial at once where the usual way does a third more.
const LOST: u64 = 3;
/// So many times as much work, or as little, is another load, of which past trials say nothing.
const ANOTHER: u128 = 4;

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

    fn is_another_load(self, other: Rate) -> bool {
        let much = |a: Rate, b: Rate| {
            u128::from(a.work) * u128::from(b.time) > ANOTHER * u128::from(b.work) * u128::from(a.time)
        };
        much(self, other) || much(other, self)
    }
}

/// What the worker does while there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Look,
    Sleep,
    /// As pauses have it, where neither of these does more.
    ByHabit,
}

impl Idle {
    /// Stretches until it shows what it does.
    fn turn(self) -> u32 {
        if self == Idle::Look { TRIAL_OF_LOOKS } else { TRIAL }
    }
}

/// The other way is measured between two stretches of the usual one, which tells a way that does more from a load that has changed meanwhile.
#[derive(Clone, Copy, Debug)]
struct Trial {
    other: Idle,
    /// What the other way did, once its turn is over.
    did: Option<Rate>,
    /// Stretches of this turn still to come.
    left: u32,
}

/// Which way more gets done.
#[derive(Debug)]
pub(super) struct Pace {
    idle: Idle,
    trial: Option<Trial>,
    /// One trial that speaks against the usual way is enough: the last one did, or none has spoken for it.
    doubts: bool,
    /// Of this stretch: pauses, those in which looks paid by themselves, and microseconds.
    pauses: u32,
    paid: u32,
    time: u64,
    /// Work done up to this stretch's beginning.
    begun: u64,
    /// The last stretch of the usual way, and what the last trial found to be the better one did.
    usual: Rate,
    tried: Rate,
    /// Stretches until the next trial, and from then to the one after it.
    wait: u32,
    interval: u32,
    last: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace {
            idle: Idle::Look,
            trial: None,
            doubts: true,
            pauses: 0,
            paid: 0,
            time: 0,
            begun: 0,
            usual: Rate::default(),
            tried: Rate::default(),
            wait: SOON,
            interval: OFTEN,
            last: now,
        }
    }

    /// One that does as pauses have it, until a trial of another.
    #[cfg(test)]
    pub(super) fn habitual(now: Instant) -> Pace {
        Pace { idle: Idle::ByHabit, ..Pace::new(now) }
    }

    /// Whether to look, whatever pauses say; `None`: as they do.
    pub(super) fn looks(&self) -> Option<bool> {
        match self.trial.filter(|trial| trial.did.is_none()).map_or(self.idle, |trial| trial.other) {
            Idle::Look => Some(true),
            Idle::Sleep => Some(false),
            Idle::ByHabit => None,
        }
    }

    /// Work was found after a pause of so many microseconds; `pays`: looks have paid by themselves of late. `done` is what has been done up to
    /// now.
    pub(super) fn found(&mut self, now: Instant, pause: u64, pays: bool, done: impl FnOnce() -> u64) {
        let passed = now.0.saturating_sub(std::mem::replace(&mut self.last, now).0);
        if self.pauses == 0 {
            self.begin(done());
            return;
        }
        self.time += passed.saturating_sub(pause.saturating_sub(PAUSE_MAX));
        (self.pauses, self.paid) = (self.pauses + 1, self.paid + u32::from(pays));
        if self.pauses > PAUSES && self.time >= STRETCH_US {
            let done = done();
            self.learn(Rate { work: done.wrapping_sub(self.begun), time: self.time });
            self.begin(done);
        }
    }

    fn begin(&mut self, done: u64) {
        (self.pauses, self.paid, self.time, self.begun) = (1, 0, 0, done);
    }

    fn learn(&mut self, rate: Rate) {
        let Some(trial) = &mut self.trial else { return self.go_on(rate) };
        let lost = trial.did.is_none() && trial.other == Idle::Sleep && self.usual.exceeds(rate, LOST);
        trial.left -= 1;
        if trial.left > 0 && !lost {
            return;
        }
        let other = trial.other;
        match trial.did {
            None => (trial.did, trial.left) = (Some(rate), self.idle.turn()),
            Some(did) => {
                self.decide(other, did, rate);
                (self.trial, self.usual, self.wait) = (None, rate, self.interval);
            }
        }
    }

    /// A stretch of the usual way.
    fn go_on(&mut self, rate: Rate) {
        if self.tried.time > 0 && rate.is_another_load(self.tried) {
            let wait = if self.interval - self.wait < OFTEN { OFTEN } else { SOON };
            (self.doubts, self.interval, self.wait) = (true, OFTEN, self.wait.min(wait));
        }
        self.usual = rate;
        self.wait = self.wait.saturating_sub(1);
        let other = match self.idle {
            Idle::Look => Idle::Sleep,
            Idle::ByHabit if 2 * self.paid >= self.pauses => Idle::Sleep,
            Idle::Sleep | Idle::ByHabit => Idle::Look,
        };
        self.trial = (self.wait == 0).then_some(Trial { other, did: None, left: other.turn() });
    }

    /// By what the other way did, and the usual one before that and `again` behind it: if these two disagree, the next trial decides, soon.
    fn decide(&mut self, other: Idle, did: Rate, again: Rate) {
        let verdict = |usual: Rate| match self.idle {
            _ if did.exceeds(usual, TO_BEGIN) => other,
            Idle::ByHabit => Idle::ByHabit,
            idle if usual.exceeds(did, TO_GO_ON) => idle,
            _ => Idle::ByHabit,
        };
        let next = verdict(again);
        self.tried = if next == other { did } else { again };
        if next != verdict(self.usual) {
            self.interval = OFTEN;
            return;
        }
        if next == self.idle {
            (self.doubts, self.interval) = (false, (RARER * self.interval).min(SELDOM));
        } else if self.doubts {
            (self.idle, self.interval) = (next, OFTEN);
        } else {
            (self.doubts, self.interval) = (true, OFTEN);
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
            let look = pace.looks() == Some(true);
            looked += u64::from(look);
            all += 1;
            let pause = pause(look);
            pace.found(Instant(pace.last.0 + pause), pause, false, || begun + all * FRAME);
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
    fn what_one_trial_has_begun_the_next_one_alone_may_end() {
        let mut pace = Pace::new(Instant(0));
        while pace.idle == Idle::Look && pace.last.0 < 4 * SECOND {
            looks(&mut pace, 1, |looks| sooner(!looks));
        }
        assert_eq!(pace.idle, Idle::Sleep);
        looks(&mut pace, 2, sooner);
        assert_eq!(pace.idle, Idle::Look);
    }

    #[test]
    fn looks_have_half_a_second_to_become_what_they_can_be() {
        let (mut pace, mut since) = (Pace::new(Instant(0)), 0);
        let often = looks(&mut pace, 100, |looks| {
            let pause = match looks {
                false => 70,
                true if since < 7 * STRETCH_US => 100,
                true => 45,
            };
            since = if looks { since + pause } else { 0 };
            pause
        });
        assert!(often > 90, "{often}");
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
    fn another_load_is_tried_soon() {
        let mut pace = Pace::new(Instant(0));
        looks(&mut pace, 100, sooner);
        assert_eq!(pace.idle, Idle::Look);
        // More gets done by sleeping, and it comes in larger frames; pauses say that it is to look.
        let (mut all, begun, end) = (0, pace.begun, pace.last.0 + SECOND);
        while pace.last.0 < end {
            let pause = sooner(pace.looks() == Some(false));
            all += 10 * FRAME;
            pace.found(Instant(pace.last.0 + pause), pause, true, || begun + all);
        }
        assert_eq!(pace.idle, Idle::Sleep);
    }

    #[test]
    fn a_load_that_changes_within_a_trial_does_not_decide_it() {
        // Who sleeps does twice as much, but with the first sleep work comes in frames of a third.
        let (mut pace, mut all, mut frame) = (Pace::new(Instant(0)), 0, 3 * FRAME);
        while pace.last.0 < 4 * SECOND {
            let sleeps = pace.looks() == Some(false);
            frame = if sleeps { FRAME } else { frame };
            all += frame;
            let pause = sooner(sleeps);
            pace.found(Instant(pace.last.0 + pause), pause, true, || all);
        }
        assert_eq!(pace.idle, Idle::Sleep);
    }

    #[test]
    fn where_neither_does_more_pauses_decide_and_what_they_decide_is_tried_against_the_other() {
        let run = |pace: &mut Pace, pays: bool, pause: fn(Option<bool>) -> u64| {
            let (mut all, begun, end) = (0, pace.begun, pace.last.0 + 20 * SECOND);
            while pace.last.0 < end {
                let pause = pause(pace.looks());
                all += FRAME;
                pace.found(Instant(pace.last.0 + pause), pause, pays, || begun + all);
            }
            pace.idle
        };
        for pays in [true, false] {
            let mut pace = Pace::new(Instant(0));
            assert_eq!(run(&mut pace, pays, |_| 30), Idle::ByHabit);
        }
        let mut pace = Pace::habitual(Instant(0));
        assert_eq!(run(&mut pace, true, |looks| sooner(looks == Some(false))), Idle::Sleep);
        let mut pace = Pace::habitual(Instant(0));
        assert_eq!(run(&mut pace, false, |looks| sooner(looks == Some(true))), Idle::Look);
    }

    #[test]
    fn sleep_that_does_far_less_is_tried_shortly() {
        let (mut pace, mut slept, mut done) = (Pace::new(Instant(0)), 0, 0);
        while pace.last.0 < SECOND {
            let pause = if pace.looks() == Some(true) { 45 } else { 90 };
            slept += if pause == 90 { pause } else { 0 };
            done += FRAME;
            pace.found(Instant(pace.last.0 + pause), pause, true, || done);
        }
        assert!(slept < 2 * STRETCH_US, "{slept}");
    }
}
