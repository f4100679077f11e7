//! The list of connections and datagram flows, a part at a time: frames go on in between.
use crate::command::{ConnectionView, ListPart, ListPlace};
use crate::datagram::{Datagram, Kind};
use crate::flow::table::Flow;
use crate::notification::id;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_tcp::Instant;

/// Places of a table that one part looks at: some tens of microseconds.
const PLACES: u32 = 512;

impl Worker {
    /// The part of the list that begins at `from`.
    pub(crate) fn list(&self, port: Option<PortId>, from: ListPlace) -> ListPart {
        let wanted = |of: PortId| port.is_none_or(|port| port == of);
        let past = from.slot.saturating_add(PLACES);
        let slots = from.slot..past;
        let (views, places) = if from.datagrams {
            let flows = self.datagrams.some(slots).filter(|flow| wanted(flow.key.port));
            (flows.map(|flow| self.view_datagrams(flow)).collect(), self.datagrams.places())
        } else {
            let flows = self.flows.some(slots).filter(|flow| wanted(flow.key.port));
            (flows.map(|flow| self.view_connection(flow)).collect(), self.flows.places())
        };
        let next = match (past < places, from.datagrams) {
            (true, datagrams) => Some(ListPlace { datagrams, slot: past }),
            (false, false) => Some(ListPlace { datagrams: true, slot: 0 }),
            (false, true) => None,
        };
        ListPart { views, next }
    }

    fn view_connection(&self, flow: &Flow) -> ConnectionView {
        ConnectionView {
            id: id(&self.secret, (flow.key.guest, flow.key.remote), flow.opened),
            port: flow.key.port,
            protocol: "tcp",
            guest_opens: flow.guest_opens,
            guest: flow.key.guest,
            remote: flow.key.remote,
            state: flow.leg.state().name(),
            bytes_guest_to_host: flow.bytes_guest_to_host,
            bytes_host_to_guest: flow.bytes_host_to_guest,
            age_seconds: self.age(flow.opened),
        }
    }

    fn view_datagrams(&self, flow: &Datagram) -> ConnectionView {
        ConnectionView {
            id: id(&self.secret, (flow.key.guest, flow.key.remote), flow.opened),
            port: flow.key.port,
            protocol: match flow.key.kind {
                Kind::Echo => "icmp",
                Kind::Udp => "udp",
            },
            guest_opens: !flow.is_forwarded(),
            guest: flow.key.guest,
            remote: flow.key.remote,
            state: flow.class().name(),
            bytes_guest_to_host: flow.sent.bytes,
            bytes_host_to_guest: flow.received.bytes,
            age_seconds: self.age(flow.opened),
        }
    }

    fn age(&self, opened: Instant) -> u64 {
        self.now.0.saturating_sub(opened.0) / 1_000_000
    }
}
