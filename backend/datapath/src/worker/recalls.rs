//! Looks after drivers that were called, while the worker is awake: to wake up for this would cost each sleep a timer.
use super::Worker;
use crate::recall::Look;
use crate::spec::PortId;
use std::collections::VecDeque;
use vonic_tcp::Instant;

/// Microseconds from one look at a driver to the next. It looks at its ring within some twenty, if it does.
const LOOK_US: u64 = 40;

/// Rings whose drivers were called, in the order of the next look at them.
#[derive(Default)]
pub(super) struct Recalls(VecDeque<(Instant, PortId, u16)>);

impl Recalls {
    /// The driver of a port's ring was called.
    pub fn called(&mut self, port: PortId, index: u16, now: Instant) {
        self.0.push_back((Instant(now.0 + LOOK_US), port, index));
    }
}

impl Worker {
    /// Calls drivers again that have not heard.
    pub(super) fn call_again(&mut self) {
        while let Some((_, id, index)) = self.recalls.0.pop_front_if(|(at, ..)| *at <= self.now) {
            let ring = Worker::port_mut(&mut self.ports, id).and_then(|port| port.queues.ring(index));
            let look = ring.map_or(Look::Over, |ring| ring.look_after_call());
            if look == Look::CallAgain {
                self.polling.expects(self.now);
            }
            if look != Look::Over {
                self.recalls.called(id, index, self.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, RingCommand};
    use crate::port::feature;
    use crate::switch::tests::{member, network};
    use crate::worker::tests::{Guest, setup, start, worker};
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use vonic_queue::RingSetup;

    #[test]
    fn a_driver_that_has_not_heard_is_called_again() {
        let ((mut worker, mut handle), mut guest) = (worker(), Guest::new());
        let spec = member(2, true);
        let port = spec.port;
        (0..4).for_each(|_| {
            let at = guest.room(1700);
            guest.post(0, &[(at, 1700)], 2, false);
        });
        assert!(handle.send(Command::Network(Box::new(network(false).spec))).is_ok());
        start(&mut handle, spec, feature::VERSION_1, &guest);
        let (call, mut calls) = UnixStream::pair().unwrap();
        [&call, &calls].iter().for_each(|end| end.set_nonblocking(true).unwrap());
        let setup = RingSetup { event_idx: true, ..setup(0) };
        let ring =
            RingCommand { port, index: 0, setup, kick: None, call: Some(call.into()), enabled: true, done: None };
        assert!(handle.send(Command::Ring(Box::new(ring))).is_ok());
        assert!(worker.apply_commands());
        let mut heard = || calls.read(&mut [0; 64]).unwrap_or(0) / 8;
        heard();

        // What the router says of itself.
        worker.round();
        assert_eq!(heard(), 1);
        let mut later = |worker: &mut Worker, us| {
            worker.now.0 += us;
            worker.call_again();
            heard()
        };
        assert_eq!(later(&mut worker, LOOK_US - 1), 0);
        // The first is let wait for sixteen looks more.
        assert_eq!([&[1][..], &[LOOK_US; 15]].concat().into_iter().map(|us| later(&mut worker, us)).sum::<usize>(), 0);
        assert_eq!([LOOK_US; 2].map(|us| later(&mut worker, us)), [1, 0]);
        let wish = setup.available + 4 + 2 * u64::from(setup.size);
        guest.write(wish, &[1, 0]);
        assert_eq!([LOOK_US; 1000].map(|us| later(&mut worker, us)), [0; 1000], "it has looked");
    }
}
