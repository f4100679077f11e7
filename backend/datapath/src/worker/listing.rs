//! The list of connections and datagram flows, a part at a time: frames go on in between.
use crate::command::{ConnectionView, ListPart, ListPlace, Reply};
use crate::datagram::{Datagram, Kind};
use crate::flow::table::Flow;
use crate::notification::id;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_tcp::Instant;

/// Places of a table that one part looks at: some tens of microseconds.
const PLACES: u32 = 512;

/// A question for a part of the list, until it is answered.
pub struct Asked {
    /// Of one port, or of all.
    pub port: Option<PortId>,
    /// Where the part begins.
    pub from: ListPlace,
    /// Where it goes.
    pub reply: Reply<ListPart>,
}

impl Worker {
    /// Answers what was asked, unless connections of the engine before are still to be taken over: a list without them would be taken for
    /// all that there are. They come within milliseconds.
    pub(crate) fn answer_lists(&mut self) {
        if self.asked.is_empty() || self.taking_over || !self.resuming.is_empty() {
            return;
        }
        for Asked { port, from, reply } in std::mem::take(&mut self.asked) {
            reply.send(self.list(port, from));
        }
    }

    /// The part of the list that begins at `from`.
    fn list(&self, port: Option<PortId>, from: ListPlace) -> ListPart {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::worker::{Poll, WorkerConfig};
    use std::sync::{Arc, mpsc};
    use vonic_record::Checkpoint;

    #[test]
    fn a_list_is_given_when_everything_is_taken_over_and_not_before() {
        let checkpoint = Arc::new(Checkpoint::create(16).unwrap());
        let config =
            WorkerConfig { checkpoint, takes_over: true, poll: Poll::For(0), peek_mode: None, turn_us: crate::TURN_US };
        let (mut worker, mut handle) = Worker::new(config, Box::new(|_| {})).unwrap();
        let (sender, answers) = mpsc::channel();
        let reply = Reply::new(move |part: ListPart| sender.send(part.views.len()).unwrap());
        handle.send(Command::Connections { port: None, from: ListPlace::default(), reply }).unwrap();
        assert!(worker.apply_commands());
        worker.round();
        assert!(answers.try_recv().is_err());
        // As it is after the last connection, behind every command.
        worker.taking_over = false;
        worker.round();
        assert_eq!(answers.try_recv(), Ok(0));
    }
}
