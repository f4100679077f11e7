//! Waking those who wait for a guest's buffers.
use super::Worker;
use crate::datagram::table::DatagramTable;
use crate::datagram::{Datagram, Far};
use crate::flow::admission::{AcceptLater, accept_later};
use crate::flow::table::FlowTable;
use crate::port::Port;
use crate::queues::{PAIRS, Waiter};
use crate::spec::{ForwardSocket, PortId};
use vonic_frame::DropReason;

impl Worker {
    /// Wakes those who wait for buffers of a port: one for each buffer that there is, since more would find none; and those whose
    /// next datagram takes several, when there are more than they found, or when they have waited long enough in vain.
    pub(crate) fn feed(&mut self, id: PortId) {
        let (flows, datagrams) = (&mut self.flows, &mut self.datagrams);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        if !port.queues.has_waiters() {
            return;
        }
        for pair in 0..PAIRS {
            let mut forward = |index| {
                accept_later(&mut self.accept_later, AcceptLater::soon(id, index, self.now));
                self.woken = true;
            };
            while let Some((waiter, in_vain)) = port.queues.got_more(pair, self.now) {
                if in_vain && skip(waiter, port, datagrams) {
                    port.dropped_to_guest(DropReason::NoRoom);
                }
                wake(waiter, flows, datagrams, &mut forward);
            }
            for waiter in port.queues.fed(pair) {
                wake(waiter, flows, datagrams, &mut forward);
            }
        }
    }
}

fn wake(
    waiter: Waiter,
    flows: &mut FlowTable,
    datagrams: &mut DatagramTable<Datagram>,
    forward: &mut impl FnMut(usize),
) {
    match waiter {
        Waiter::Flow(id) => {
            if let Some(flow) = flows.get_mut(id) {
                flow.starved = false;
                flows.make_ready(id);
            }
        }
        Waiter::Datagrams(id) => {
            if let Some(flow) = datagrams.get_mut(id) {
                flow.starved = false;
                datagrams.make_ready(id);
            }
        }
        Waiter::Forward(index) => forward(index),
    }
}

/// Throws away the datagram for which there will be no buffers; false if there is none.
fn skip(waiter: Waiter, port: &Port, datagrams: &mut DatagramTable<Datagram>) -> bool {
    match waiter {
        Waiter::Flow(_) => false,
        Waiter::Datagrams(id) => datagrams.get_mut(id).is_some_and(|flow| match &flow.far {
            Far::Own(socket) => socket.skip(),
            Far::Forward { .. } => false,
        }),
        Waiter::Forward(index) => match port.spec.forwards.get(index).map(|forward| &forward.socket) {
            Some(ForwardSocket::Udp(listener)) => listener.skip(),
            _ => false,
        },
    }
}
