//! How long the worker has guests' bursts: by the clock that is read once a round anyway, and per burst, not per frame.
use crate::port::Port;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_tcp::Instant;

/// A burst that is in the used ring, or will be at the end of this round.
struct Burst {
    port: PortId,
    /// When the first driver of those that this round is for was seen to signal, or the round began.
    begun: Instant,
    chains: u32,
}

/// Bursts that were completed since the clock was last read.
#[derive(Default)]
pub(crate) struct Served(Vec<Burst>);

impl Served {
    /// A port's burst is completed.
    #[inline(always)]
    pub fn note(&mut self, id: PortId, port: &mut Port) {
        let chains = std::mem::take(&mut port.under_way);
        // Between two looks at the clock a port has one burst that comes back from other workers, and one of its own, at most.
        if self.0.len() < self.0.capacity() {
            self.0.push(Burst { port: id, begun: port.begun, chains });
        }
    }

    /// There may be so many ports.
    pub fn make_room(&mut self, ports: usize) {
        self.0.reserve((2 * ports).saturating_sub(self.0.len()));
    }

    /// The round is over in which these were published. A worker that has worked does not sleep before it reads the clock.
    #[inline(always)]
    pub fn count(&mut self, ports: &[Option<Box<Port>>], now: Instant) {
        for Burst { port, begun, chains } in self.0.drain(..) {
            if let Some(port) = ports.get(port as usize).and_then(Option::as_deref) {
                port.spec.stats.latency.count(now.0.saturating_sub(begun.0), chains.into());
            }
        }
    }
}

impl Worker {
    /// Reads the clock.
    pub(super) fn tell_time(&mut self) {
        self.now = self.clock.now();
        self.served.count(&self.ports, self.now);
        self.stamp_captures();
    }
}
