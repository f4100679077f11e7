//! Events of host sockets, and timers.
use crate::flow::table::FlowId;
use crate::worker::Worker;
use vmm_sys_util::epoll::EventSet;
use vonic_tcp::{Event, State};

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
        // A reset, or a timeout of the peer: the guest gets a reset (RFC 9293 §3.10.7.4). Both directions are over without a
        // FIN of ours only after a reset, whoever has taken the error.
        let failed =
            events.contains(EventSet::ERROR) && flow.socket.as_ref().is_some_and(|s| s.connect_result().is_err());
        let hung_up = events.contains(EventSet::HANG_UP) && !flow.shut;
        if failed || (hung_up && flow.socket.as_ref().is_some_and(vonic_uplink::HostSocket::hang_up_is_reset)) {
            return self.reset_guest(id);
        }
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP) {
            flow.leg.host_readable();
        }
        if events.contains(EventSet::OUT) {
            flow.window_stale = true;
            flow.watching_room = false;
            if std::mem::take(&mut flow.refused) {
                flow.leg.ask_again();
            }
        }
        self.flows.make_ready(id);
    }

    /// The host's side has failed: the guest gets a reset, and the connection ends with it.
    pub(crate) fn reset_guest(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.leg.abort();
        flow.socket = None;
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) {
            port.spec.stats.tcp.reset.add(1);
        }
        self.flows.make_ready(id);
    }

    /// Runs the timers that are due.
    pub(crate) fn run_timers(&mut self) {
        let now = self.now;
        while let Some(id) = self.flows.pop_due(now) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            let event = flow.leg.handle_timeout(now);
            if event == Some(Event::GaveUp) {
                if let Some(socket) = flow.socket.take() {
                    socket.abort();
                }
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
        // A socket that was reset is gone already; this one has both FINs.
        let clean = (over || flow.leg.state() == State::TimeWait) && flow.socket.take().is_some();
        if let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port)
            && clean
        {
            port.spec.stats.tcp.closed.add(1);
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
