//! Keeps a VMM from filling the log.
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// So many lines per window and VM; the rest is counted.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

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
        if let Some(hidden) = self.window.borrow_mut().admit(Instant::now()) {
            match hidden {
                0 => log::warn!("{}: {text}", self.name),
                _ => log::warn!("{}: {text} ({hidden} warnings before were left out)", self.name),
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
    fn a_flood_is_counted_not_written() {
        let start = Instant::now();
        let mut window = Window { start, lines: 0, hidden: 0 };
        let written = (0..1000).filter(|_| window.admit(start).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(window.admit(start + WINDOW), Some(990), "the next line says how many are missing");
        assert_eq!(window.admit(start + WINDOW), Some(0));
    }
}
