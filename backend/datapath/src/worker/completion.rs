//! Telling drivers that what they have sent is done. They see it in the used index at once, and look there whenever they send or are called
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
            self.call_senders();
        }
    }

    /// Calls every driver that still wants a call for what it has sent.
    pub(crate) fn call_senders(&mut self) {
        if self.calls_owed.take().is_some() {
            for port in self.ports.iter_mut().flatten() {
                self.signs.at(port.spec.vm);
                port.queues.call_from_guest();
            }
            self.signs.at_none();
        }
    }
}
