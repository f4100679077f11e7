//! Drivers that were called and have not looked: they are called again. An interrupt can come to nothing; a guest of user-mode Linux that goes to
//! sleep just then sleeps on until its next timer tick (ADR 0032). Whether a driver has looked is in its ring; whether it is about to, or needs
//! another call, is found out by letting it wait for once.

/// How often the driver is called again for one call.
const TRIES: u8 = 3;
/// Looks that a driver has for hearing another call.
const GRACE: u8 = 4;
/// Of so many times that a driver is late it is let wait once, for so many looks. One that is busy for longer costs little if it is called again.
const ONE_OF: u8 = 16;
const WAIT: u8 = 16;
/// Looks that a driver may be late, at most.
const PATIENCE_MAX: u8 = 128;

/// What a look at the ring comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The driver has looked, or it is given up: this call is over.
    Over,
    /// It may be on its way.
    Later,
    /// It has not heard.
    CallAgain,
}

/// One ring's last call, and how soon its driver looks.
#[derive(Debug)]
pub struct Recall {
    /// There is a call to ask about.
    open: bool,
    /// Looks since the driver was called, and how often it was called again.
    looks: u8,
    tries: u8,
    /// It is let wait.
    waits: bool,
    /// How often it was late.
    late: u8,
    /// So many looks it is given.
    patience: u8,
}

impl Default for Recall {
    fn default() -> Recall {
        Recall { open: false, looks: 0, tries: 0, waits: false, late: 0, patience: 1 }
    }
}

impl Recall {
    /// The driver was called; true if nobody is about to look after it.
    pub fn called(&mut self) -> bool {
        (self.looks, self.tries, self.waits) = (0, 0, false);
        !std::mem::replace(&mut self.open, true)
    }

    /// Nobody will look after the last call.
    pub fn forget(&mut self) {
        self.open = false;
    }

    /// Somebody looks at the ring.
    pub fn look(&mut self, unheard: bool) -> Look {
        if unheard {
            return self.miss();
        }
        if self.waits {
            self.patience = (2 * self.patience).min(PATIENCE_MAX);
        }
        self.open = false;
        Look::Over
    }

    fn miss(&mut self) -> Look {
        self.looks += 1;
        let given = match (self.tries, self.waits) {
            (0, false) => self.patience,
            (0, true) => self.patience + WAIT,
            _ => GRACE,
        };
        if self.looks < given {
            return Look::Later;
        }
        if std::mem::take(&mut self.waits) {
            self.patience = (self.patience / 2).max(1);
        } else if self.tries == 0 {
            self.waits = self.late.is_multiple_of(ONE_OF);
            self.late = self.late.wrapping_add(1);
            if self.waits {
                return Look::Later;
            }
        }
        if self.tries == TRIES {
            self.open = false;
            return Look::Over;
        }
        (self.looks, self.tries) = (0, self.tries + 1);
        Look::CallAgain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many looks a driver is called again, that comes by itself after `late`, or `soon` after such a call.
    fn again(recall: &mut Recall, late: u32, soon: u32) -> Vec<u32> {
        assert!(recall.called());
        let mut times: Vec<u32> = Vec::new();
        for n in 0.. {
            let heard = n >= late || times.last().is_some_and(|at| n >= at.saturating_add(soon));
            match recall.look(!heard) {
                Look::Over => break,
                Look::Later => {}
                Look::CallAgain => times.push(n),
            }
        }
        times
    }

    #[test]
    fn who_sleeps_is_called_again_and_once_in_a_while_later() {
        let mut recall = Recall::default();
        for n in 0..1000 {
            assert!(again(&mut recall, 0, 1).is_empty(), "who looks is left alone");
            let at = if n % u32::from(ONE_OF) == 0 { u32::from(WAIT) } else { 0 };
            assert_eq!(again(&mut recall, 250, 2), [at], "time {n}");
        }
    }

    #[test]
    fn who_never_looks_is_given_up() {
        let mut recall = Recall::default();
        for _ in 0..1000 {
            assert_eq!(again(&mut recall, u32::MAX, u32::MAX).len(), usize::from(TRIES));
        }
    }

    #[test]
    fn who_is_busy_is_given_time() {
        for late in 1..=u32::from(WAIT) {
            let mut recall = Recall::default();
            let calls: usize = (0..1000).map(|_| again(&mut recall, late, u32::MAX).len()).sum();
            assert!(calls < 200, "{calls} of 1000 that take {late} looks");
        }
    }

    #[test]
    fn who_was_busy_and_sleeps_is_called_again_soon() {
        let mut recall = Recall::default();
        (0..1000).for_each(|_| assert!(again(&mut recall, 12, u32::MAX).len() < 4));
        (0..100).for_each(|_| assert_eq!(again(&mut recall, 250, 1).len(), 1));
        assert_eq!(again(&mut recall, 250, 1), [0]);
    }

    #[test]
    fn a_call_while_one_is_looked_after_begins_anew() {
        let mut recall = Recall { late: 1, ..Recall::default() };
        assert!(recall.called() && !recall.called());
        assert_eq!(recall.look(true), Look::CallAgain);
        assert!(!recall.called());
        assert_eq!([recall.look(true), recall.look(false)], [Look::CallAgain, Look::Over]);
        assert!(recall.called());
    }
}
