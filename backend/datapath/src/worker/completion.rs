//! Telling drivers that what they have sent is done. They see it in the used index at once (of the last, those that poll a moment later), and look there whenever they send or are called
//! for a frame; a call for this alone does little but interrupt. So it waits a moment, in which most drivers find out by themselves and say
//! that they need none (VIRTIO_F_EVENT_IDX; virtio 1.3 §2.7.7), and never while the worker sleeps.
use crate::worker::Worker;
use std::time::Duration;

/// How long such a call waits.
const DELAY: Duration = Duration::from_micros(50);

impl Worker {
    /// Publishes what every transmit queue has completed, and calls drivers that have waited long enough.
    pub(crate) fn flush_from_guests(&mut self) {
        let mut owes = false;
        for port in self.ports.iter_mut().flatten() {
            self.signs.at(port.spec.vm);
            owes |= port.queues.flush_from_guest();
        }
        self.signs.at_none();
        if !owes {
            self.calls_owed = None;
        } else if *self.calls_owed.get_or_insert(self.now) + DELAY <= self.now {
            self.call_senders(false);
        }
    }

    /// Calls every driver that still wants a call for what it has sent; `all`: nothing is kept back for later.
    pub(crate) fn call_senders(&mut self, all: bool) {
        if self.calls_owed.take().is_some() {
            for port in self.ports.iter_mut().flatten() {
                self.signs.at(port.spec.vm);
                port.queues.call_from_guest(all);
            }
            self.signs.at_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::port::feature;
    use crate::switch::tests::{member, network};
    use crate::worker::Command;
    use crate::worker::tests::{Guest, setup, start, worker};
    use vonic_queue::handover;

    const QUEUE: u16 = 1;

    fn used(guest: &Guest) -> u16 {
        let at = setup(QUEUE).used as usize + 2;
        u16::from_le_bytes([guest.bytes()[at], guest.bytes()[at + 1]])
    }

    fn send(guest: &mut Guest, count: usize) {
        for _ in 0..count {
            let at = guest.room(74);
            guest.post(QUEUE, &[(at, 74)], 0, false);
        }
    }

    #[test]
    fn a_driver_that_looks_by_itself_is_shown_the_last_when_little_more_comes() {
        let ((mut worker, mut handle), mut guest) = (worker(), Guest::new());
        assert!(handle.send(Command::Network(Box::new(network(false).spec))).is_ok());
        start(&mut handle, member(2, true), feature::VERSION_1, &guest);
        assert!(worker.apply_commands());
        send(&mut guest, 4);
        assert!(worker.round());
        assert_eq!(used(&guest), 4, "who wants interrupts sees everything at once");

        guest.write(setup(QUEUE).available, &[1, 0]);
        send(&mut guest, 40);
        while worker.round() {}
        assert_eq!(used(&guest), 44 - 16, "a quarter of a small ring");
        worker.call_senders(false);
        assert_eq!(used(&guest), 44 - 16, "more than 32 came since");
        worker.round();
        worker.call_senders(false);
        assert_eq!(used(&guest), 44);

        send(&mut guest, 8);
        assert!(worker.round());
        assert_eq!(used(&guest), 44);
        worker.call_senders(true);
        assert_eq!(used(&guest), 52, "nothing waits while the worker sleeps");

        send(&mut guest, 8);
        assert!(worker.round());
        guest.write(setup(QUEUE).available, &[0, 0]);
        worker.round();
        assert_eq!(used(&guest), 60, "it wants interrupts again");

        guest.write(setup(QUEUE).available, &[1, 0]);
        send(&mut guest, 4);
        assert!(worker.round());
        assert_eq!(used(&guest), 60);
        assert!(handle.send(Command::Rest { done: handover().0 }).is_ok());
        assert!(!worker.apply_commands());
        assert_eq!(used(&guest), 64, "the next engine takes none of them again");
    }
}
