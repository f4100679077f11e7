//! Rings that broke.
use crate::command::Notice;
use crate::queues::Queues;
use crate::ring::Ring;
use crate::spec::PortId;
use crate::worker::Worker;

impl Worker {
    /// Tells the control side of rings that broke.
    pub(crate) fn report_broken(&mut self, id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|port| port.queues.has_broken()) else { return };
        let mut broken = false;
        for index in Queues::indices() {
            if let Some(error) = port.queues.ring(index).and_then(Ring::take_error) {
                (self.notify)(Notice::RingBroken { port: id, index, error });
                broken = true;
            }
        }
        if broken {
            self.watch_tap(id);
        }
    }
}
