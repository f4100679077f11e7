//! Keeps a VMM from filling the log, and from taking up everybody with its coming and going.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// So many lines per window and VM; the rest is counted.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// So many connections of one VM may come at once, and so many more in each second.
const AT_ONCE: u32 = 100;
const A_SECOND: u32 = 10;

/// How many connections of one VM may come now. Each costs the master, the control side, the worker and the log something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    left: u32,
    /// Since when there were so many left.
    since: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { left: AT_ONCE, since: now }
    }

    /// Takes one in.
    ///
    /// # Errors
    /// When there will be room for it.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let each = Duration::from_secs(1) / A_SECOND;
        let more = now.saturating_duration_since(self.since).as_millis() / each.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.since = if more >= AT_ONCE - self.left { now } else { self.since + each * more };
        self.left = AT_ONCE.min(self.left.saturating_add(more));
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(self.since + each),
        }
        Ok(())
    }

    /// Whether many have come of late.
    pub(crate) fn is_short(&self) -> bool {
        self.left < AT_ONCE / 2
    }

    /// Nobody was there.
    pub(crate) fn give_back(&mut self) {
        self.left = AT_ONCE.min(self.left + 1);
    }
}

/// The log lines about one VM, limited over all its connections. Clones share the limit.
#[derive(Clone, Debug)]
pub(crate) struct VmLog {
    name: Rc<str>,
    window: Rc<RefCell<Window>>,
}

#[derive(Debug)]
struct Window {
    start: Instant,
    lines: u32,
    hidden: u64,
}

impl VmLog {
    pub(crate) fn new(name: &str) -> VmLog {
        let window = Window { start: Instant::now(), lines: 0, hidden: 0 };
        VmLog { name: Rc::from(name), window: Rc::new(RefCell::new(window)) }
    }

    /// The VM's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes a warning that begins with the VM's name, unless there have been too many.
    pub(crate) fn warn(&self, text: &str) {
        self.write(log::Level::Warn, text);
    }

    /// The same with what is not abnormal, unless there is too much of it.
    pub(crate) fn info(&self, text: &str) {
        self.write(log::Level::Info, text);
    }

    fn write(&self, level: log::Level, text: &str) {
        if let Some(hidden) = self.window.borrow_mut().admit(Instant::now()) {
            match hidden {
                0 => log::log!(level, "{}: {text}", self.name),
                _ => log::log!(level, "{}: {text} ({hidden} lines before were left out)", self.name),
            }
        }
    }
}

impl Window {
    /// Some: the line may be written, and so many before it were not.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.start) >= WINDOW {
            (self.start, self.lines) = (now, 0);
        }
        if self.lines == LINES {
            self.hidden += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.hidden))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_often_waits() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!((0..100).all(|_| pace.take(start).is_ok()));
        let later = start + Duration::from_millis(100);
        assert_eq!(pace.take(start), Err(later));
        assert_eq!(pace.take(start + Duration::from_millis(99)), Err(later));
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Err(later + Duration::from_millis(100)));
        // No more than so many, however long nobody came.
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| pace.take(much_later).is_ok()).count(), 100);
    }

    #[test]
    fn a_flood_is_counted_not_written() {
        let start = Instant::now();
        let mut window = Window { start, lines: 0, hidden: 0 };
        let written = (0..1000).filter(|_| window.admit(start).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(window.admit(start + WINDOW), Some(990), "the next line says how many are missing");
        assert_eq!(window.admit(start + WINDOW), Some(0));
    }
}
