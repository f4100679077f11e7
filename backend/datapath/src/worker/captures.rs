//! Ports that somebody watches.
use crate::capture::Capturer;
use crate::spec::PortId;
use crate::worker::Worker;

impl Worker {
    /// Somebody watches a port from now on. Without the port it is over at once.
    pub(crate) fn begin_capture(&mut self, id: PortId, capturer: Capturer) {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        port.begin_capture(capturer, self.now);
        if !self.captured.contains(&id) {
            self.captured.push(id);
        }
    }

    /// And no more; what it was. Nothing that was captured before is lost.
    pub(crate) fn end_capture(&mut self, id: PortId, number: u64) -> Option<Capturer> {
        let port = Worker::port_mut(&mut self.ports, id)?;
        let capturer = port.end_capture(number);
        if !port.is_captured() {
            self.captured.retain(|other| *other != id);
        }
        capturer
    }

    /// Frames bear the time of their round.
    pub(crate) fn stamp_captures(&mut self) {
        for &id in &self.captured {
            if let Some(port) = Worker::port_mut(&mut self.ports, id) {
                port.captures.stamp(self.now);
            }
        }
    }

    /// Hands over what was captured; `all`: there may be nothing more for a while.
    pub(crate) fn publish_captures(&mut self, all: bool) {
        for &id in &self.captured {
            if let Some(port) = Worker::port_mut(&mut self.ports, id) {
                port.captures.publish(all);
            }
        }
    }
}
