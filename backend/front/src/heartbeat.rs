//! When an engine that lives, and yet does nothing, is held for dead.
use std::time::{Duration, Instant};

/// The control side may be busy for so many times as long as a worker: with reading files, and opening sockets.
const CONTROL_FACTOR: u32 = 5;
/// How long an engine may take to begin to serve.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Signs of life of one engine: asked for at every half of the limit.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    limit: Duration,
    /// When it is to be looked at next.
    look: Instant,
    /// What was last asked for.
    number: u64,
    serves: bool,
    worker: Party,
    control: Party,
}

/// One who is asked.
#[derive(Debug, Default)]
struct Party {
    /// The oldest question that is not answered, and when it was asked.
    waits: Option<(u64, Instant)>,
    answered: u64,
}

/// What hangs, in words.
pub(crate) const WORKER: &str = "its worker does not answer";
pub(crate) const CONTROL: &str = "its control thread does not answer";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing yet.
    Wait,
    /// Ask for this number.
    Ask(u64),
    /// It hangs: what does, and for how long it has.
    Hung(&'static str, Duration),
}

impl Party {
    /// Whether it has not answered for so long.
    fn is_late(&mut self, now: Instant, limit: Duration) -> bool {
        self.waits = self.waits.filter(|&(number, _)| self.answered < number);
        self.waits.is_some_and(|(_, since)| now.saturating_duration_since(since) >= limit)
    }

    fn ask(&mut self, number: u64, now: Instant) {
        self.waits.get_or_insert((number, now));
    }

    /// The time until now does not count.
    fn excuse(&mut self, now: Instant) {
        self.waits = self.waits.map(|(number, _)| (number, now));
    }
}

impl Heartbeat {
    /// Of an engine that has just been told to begin. `last` is the highest number that an engine before it was asked for.
    pub(crate) fn new(limit: Duration, last: u64, now: Instant) -> Heartbeat {
        let (worker, control) = (Party::default(), Party::default());
        Heartbeat { limit, look: now + START_LIMIT, number: last, serves: false, worker, control }
    }

    /// It serves: it is asked from now on.
    pub(crate) fn serves(&mut self, now: Instant) {
        self.serves = true;
        self.look = now + self.limit / 2;
    }

    /// When it is to be looked at next.
    pub(crate) fn due(&self) -> Instant {
        self.look
    }

    /// The highest number asked for.
    pub(crate) fn last(&self) -> u64 {
        self.number
    }

    /// The control side has answered.
    pub(crate) fn control_answered(&mut self, number: u64) {
        self.control.answered = number;
    }

    /// What is to be done by now; `worker` is what the worker last answered with.
    pub(crate) fn tick(&mut self, now: Instant, worker: u64) -> Beat {
        let Some(late) = now.checked_duration_since(self.look) else { return Beat::Wait };
        self.worker.answered = worker;
        if late > self.limit / 2 {
            // Whoever comes so late was not running itself, and so perhaps was nobody.
            self.worker.excuse(now);
            self.control.excuse(now);
        } else if !self.serves {
            return Beat::Hung("it has not begun to serve", START_LIMIT);
        }
        let control_limit = self.limit * CONTROL_FACTOR;
        if self.worker.is_late(now, self.limit) {
            return Beat::Hung(WORKER, self.limit);
        }
        if self.control.is_late(now, control_limit) {
            return Beat::Hung(CONTROL, control_limit);
        }
        if !self.serves {
            self.look = now + START_LIMIT;
            return Beat::Wait;
        }
        self.number += 1;
        self.worker.ask(self.number, now);
        self.control.ask(self.number, now);
        self.look = now + self.limit / 2;
        Beat::Ask(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);
    const HALF: Duration = Duration::from_secs(1);

    /// A heartbeat that is looked at whenever it is due.
    struct Bench {
        beat: Heartbeat,
        now: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            let now = Instant::now();
            let mut beat = Heartbeat::new(LIMIT, 7, now);
            beat.serves(now);
            Bench { beat, now }
        }

        fn step(&mut self, worker: u64, control: u64) -> Beat {
            self.beat.control_answered(control);
            assert_eq!(self.beat.tick(self.beat.due() - Duration::from_millis(1), worker), Beat::Wait);
            self.now = self.beat.due();
            self.beat.tick(self.now, worker)
        }
    }

    #[test]
    fn whoever_answers_is_asked_again() {
        let mut bench = Bench::new();
        for number in 8..30 {
            assert_eq!(bench.step(number - 1, number - 1), Beat::Ask(number));
        }
        assert_eq!(bench.beat.last(), 29);
    }

    #[test]
    fn a_worker_is_given_the_limit_and_the_control_side_more() {
        let mut bench = Bench::new();
        assert_eq!([8, 9].map(|_| bench.step(0, 0)), [Beat::Ask(8), Beat::Ask(9)]);
        assert_eq!(bench.step(0, 9), Beat::Hung("its worker does not answer", LIMIT));
        let mut bench = Bench::new();
        let asked = bench.now + HALF;
        for number in 8..18 {
            assert_eq!(bench.step(number - 1, 7), Beat::Ask(number));
        }
        assert_eq!(bench.step(17, 7), Beat::Hung("its control thread does not answer", 5 * LIMIT));
        assert_eq!(bench.now - asked, 5 * LIMIT);
    }

    #[test]
    fn a_late_answer_is_one() {
        let mut bench = Bench::new();
        assert_eq!([8, 9].map(|_| bench.step(7, 7)), [Beat::Ask(8), Beat::Ask(9)]);
        // To the first question only: the second has been waiting for half of the limit.
        assert_eq!([10, 11].map(|number| bench.step(number - 2, number - 2)), [Beat::Ask(10), Beat::Ask(11)]);
    }

    #[test]
    fn who_was_not_running_itself_asks_again() {
        let mut bench = Bench::new();
        assert_eq!(bench.step(7, 7), Beat::Ask(8));
        let late = bench.beat.due() + 100 * LIMIT;
        assert_eq!(bench.beat.tick(late, 7), Beat::Ask(9));
        assert_eq!(bench.step(7, 7), Beat::Ask(10));
        assert_eq!(bench.step(7, 7), Beat::Hung("its worker does not answer", LIMIT));
    }

    #[test]
    fn an_engine_has_half_a_minute_to_begin() {
        let now = Instant::now();
        let mut beat = Heartbeat::new(LIMIT, 0, now);
        assert_eq!(beat.tick(now + START_LIMIT - HALF, 0), Beat::Wait);
        assert_eq!(beat.tick(now + START_LIMIT, 0), Beat::Hung("it has not begun to serve", START_LIMIT));
    }
}
