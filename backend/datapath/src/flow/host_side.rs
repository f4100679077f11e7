//! Events of host sockets, and timers.
use crate::crash::crash_point;
use crate::flow::table::{Flow, FlowId};
use crate::notification::What;
use crate::port::Port;
use crate::worker::Worker;
use vmm_sys_util::epoll::EventSet;
use vonic_record::Bits;
use vonic_tcp::{Event, State};
use vonic_uplink::HostSocket;

impl Worker {
    /// A socket of a connection has news. Edge-triggered: each event stands for something new.
    pub(crate) fn socket_event(&mut self, id: FlowId, events: EventSet) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.connecting && flow.guest_opens {
            if events.intersects(EventSet::OUT | EventSet::ERROR | EventSet::HANG_UP) {
                self.connect_ended(id);
            }
            return;
        }
        // A reset, or a timeout of the peer. The error stays with the socket: it shows where its queue ends. Both directions are over
        // without a FIN of ours only after a reset, whoever has taken the error. ICMP errors that may pass raise no event (ip(7)).
        let hung_up = events.contains(EventSet::HANG_UP);
        let resets = flow.socket.as_ref().is_some_and(HostSocket::hang_up_is_reset);
        if events.contains(EventSet::ERROR) || (hung_up && resets && !flow.shut) {
            return self.host_failed(id);
        }
        flow.deserted |= hung_up && !resets;
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP) {
            flow.leg.host_readable();
        }
        flow.peeks_on |= events.intersects(EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::PRIORITY);
        if events.contains(EventSet::OUT) {
            flow.window_stale = true;
            flow.watching_room = false;
            if std::mem::take(&mut flow.refused) {
                flow.leg.ask_again();
            }
        }
        self.flows.make_ready(id);
    }

    /// The host's side has failed: reset by the peer, or timed out. As on a wire, what came before that still gets to the guest; then
    /// it gets a reset, and the connection ends with it (RFC 9293 §3.10.7.4).
    pub(crate) fn host_failed(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id).filter(|flow| !flow.failed) else { return };
        crash_point!("host-failed");
        self.records.add(flow, Bits::ABORTED);
        crash_point!("abort-recorded");
        flow.doomed = true;
        flow.leg.host_readable();
        if flow.leg.state() == State::SynSent {
            // The guest has not even answered: there is nobody to read.
            self.reset_guest(id);
        }
        self.flows.make_ready(id);
    }

    /// The guest gets a reset, and the connection ends with it.
    pub(crate) fn reset_guest(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        conclude(flow, port);
    }

    /// Runs the timers that are due.
    pub(crate) fn run_timers(&mut self) {
        let now = self.now;
        while let Some(id) = self.flows.pop_due(now) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            let event = flow.leg.handle_timeout(now);
            if event == Some(Event::GaveUp) {
                self.records.doom(flow);
                if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) {
                    port.spec.stats.tcp.reset.add(1);
                }
            }
            self.flows.make_ready(id);
            self.flows.arm(id);
        }
    }

    /// Looks after a connection's state once it has been pumped: closed ones leave, TIME-WAIT needs no socket.
    pub(crate) fn settle(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let over = flow.leg.is_closed();
        if flow.deserted && flow.leg.state() == State::FinWait2 {
            // The guest has everything. Its own end may come, but not for ever (RFC 9293 §3.6.1, half-duplex close).
            flow.socket = None; // The service's: it has no record.
            flow.leg.host_gone(self.now);
        }
        let ended = over || flow.leg.state() == State::TimeWait;
        let socket = flow.socket.take_if(|_| ended);
        let gone = socket.is_some();
        if let Some(socket) = socket {
            self.records.retire(flow, socket);
        }
        // What was not reset has both FINs.
        let clean = gone && !flow.failed;
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port)
            && clean
        {
            port.spec.stats.tcp.closed.add(1);
            if std::mem::take(&mut flow.established) {
                port.tell(flow, What::Closed, &self.secret, self.now);
            }
        }
        if over {
            self.finish(id);
        } else if clean {
            self.uncount(id);
            self.flows.arm(id);
        } else {
            self.flows.arm(id);
        }
    }
}

/// Ends a connection whose host side has failed: the guest's reset is due.
pub fn conclude(flow: &mut Flow, port: &mut Port) {
    crash_point!("before-conclusion");
    flow.leg.abort();
    flow.failed = true;
    crash_point!("after-conclusion");
    flow.doomed = false;
    port.spec.stats.tcp.reset.add(1);
}
