//! The worker's side: a burst leaves, others' bursts come, and each finds its end.
use super::parcel::{Parcel, Recipient};
use super::peer::Message;
use super::{Bursts, News, PATIENCE, Sent};
use crate::crash::crash_point;
use crate::offload::Inbound;
use crate::port::Port;
use crate::spec::{Member, PortId};
use crate::stats::{CopyPath, Counter, Way};
use crate::worker::Worker;
use crate::worker::ingress::hand_over;
use std::sync::Arc;
use std::time::Duration;
use vonic_frame::DropReason;
use vonic_queue::Burst;

/// How long a ring that is to be stopped waits for others to take what is in their rings; then they are not to take it.
const GRACE: Duration = Duration::from_millis(1);
/// How long it waits for what they have taken: a round, even if the scheduler had others to run in the middle of it.
const LIMIT: Duration = Duration::from_millis(200);

impl Worker {
    /// Takes what others have sent, and what comes back to this worker; true if there was something.
    pub(crate) fn receive(&mut self) -> bool {
        if !self.exchange.has_peers() {
            return false;
        }
        let mut worked = false;
        for worker in 0..self.exchange.workers() {
            let waiting = self.exchange.peers[worker].as_ref().map_or(0, |peer| peer.waiting());
            // What comes meanwhile is for the next round: others have their turns.
            for _ in 0..waiting {
                match self.exchange.peers[worker].as_mut().and_then(|peer| peer.pop()) {
                    Some(Message::Parcel(parcel)) => self.take_parcel(worker, parcel),
                    Some(Message::News(news)) => self.hear(worker, &news),
                    None => break,
                }
                worked = true;
            }
        }
        worked | self.settle_sent()
    }

    /// Copies another worker's frames to the guests here. The parcel goes back when they are published.
    fn take_parcel(&mut self, worker: usize, parcel: Arc<Parcel>) {
        let own = self.exchange.own();
        if !parcel.take(own) {
            return;
        }
        crash_point!("parcel-taken");
        self.signs.at(parcel.vm());
        let network = self.networks.get(parcel.network() as usize).and_then(Option::as_deref);
        if let Some(copied) = parcel.copied(own) {
            for (letter, inbound) in parcel.letters(own) {
                match letter.to() {
                    Recipient::Port(to) => hand_to(&mut self.ports, to, &inbound, copied),
                    Recipient::Members => {
                        for &to in network.map_or(&[][..], |network| network.members()) {
                            hand_to(&mut self.ports, to, &inbound, copied);
                        }
                    }
                }
            }
        }
        self.exchange.taken.push((worker, parcel));
    }

    /// Sends a port's burst to the workers for whose ports there are frames in it. Its descriptors wait.
    pub(crate) fn send_parcel(&mut self, id: PortId, bursts: Bursts) {
        self.bursts = Some(self.exchange.spare_bursts());
        // What its guest has claimed by these very frames is known before they are.
        self.record_claims();
        self.tell_news();
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return self.exchange.discard() };
        let sent = self.exchange.send((port.spec.vm, port.spec.network), bursts, self.now + PATIENCE);
        crash_point!("parcel-sent");
        port.sent = Some(sent);
        self.exchange.sent.push(id);
    }

    /// Completes what has come back, and what has been waited for for too long; true if there was something.
    fn settle_sent(&mut self) -> bool {
        self.exchange.tidy();
        let workers = self.exchange.workers();
        let mut worked = false;
        for place in (0..self.exchange.sent.len()).rev() {
            let id = self.exchange.sent[place];
            let Some(port) = Worker::port_mut(&mut self.ports, id) else { continue };
            if let Some(sent) = port.sent.as_ref().filter(|sent| sent.until <= self.now) {
                sent.revoke(workers);
            }
            if port.sent.as_ref().is_some_and(Sent::is_settled) {
                self.complete_sent(id);
                worked = true;
            }
        }
        worked
    }

    /// Completes a port's burst, of which nobody reads any more.
    fn complete_sent(&mut self, id: PortId) {
        self.exchange.sent.retain(|port| *port != id);
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let Some(Sent { parcel, .. }) = port.sent.take() else { return };
        port.spec.stats.copied(CopyPath::GuestToGuest).add(parcel.copied_by_all());
        (0..parcel.lost()).for_each(|_| port.spec.stats.dropped(Way::GuestToHost, DropReason::WorkerBusy));
        complete(port, parcel.bursts());
        self.served.note(id, port);
        self.exchange.put_away(parcel);
        self.woken = true;
    }

    /// Has a port's burst settled before something is done to the ring, or to the memory, that it came from: within a bound, and if need
    /// be at the cost of its frames.
    pub(crate) fn recall(&mut self, id: PortId) {
        let workers = self.exchange.workers();
        let port = self.ports.get(id as usize).and_then(Option::as_deref);
        let Some(sent) = port.and_then(|port| port.sent.as_ref()) else { return self.complete_sent(id) };
        let begun = self.now_exactly();
        while !sent.is_settled() {
            let waited = self.now_exactly().0.saturating_sub(begun.0);
            if waited > LIMIT.as_micros() as u64 {
                // Whoever has it holds the memory, too, and only reads there.
                break;
            }
            if waited > GRACE.as_micros() as u64 {
                sent.revoke(workers);
            }
            std::thread::yield_now();
        }
        self.complete_sent(id);
    }

    /// Has every port's burst settled.
    pub(crate) fn recall_all(&mut self) {
        while let Some(&id) = self.exchange.sent.first() {
            self.recall(id);
        }
    }

    /// Tells the other workers what is new of this one's ports.
    pub(crate) fn tell_news(&mut self) {
        if !self.exchange.has_news() {
            return;
        }
        let (ports, networks) = (&self.ports, &self.networks);
        self.exchange.tell(|id| {
            let port = ports.get(id as usize).and_then(Option::as_deref);
            let network = port.and_then(|port| networks.get(port.spec.network as usize)?.as_deref());
            let claims = network.map(|network| network.claims_of(id)).unwrap_or_default();
            News { port: id, live: port.is_some_and(|port| port.queues.is_live()), claims }
        });
    }

    /// What another worker says of a port of its own.
    fn hear(&mut self, worker: usize, news: &News) {
        let place = self.exchange.elsewhere.get_mut(news.port as usize).and_then(Option::as_mut);
        // Of a number that has changed hands its last owner's word is no more worth anything.
        let Some(port) = place.filter(|port| port.worker == worker) else { return };
        port.live = news.live;
        if let Some(network) = self.networks.get_mut(port.network as usize).and_then(Option::as_deref_mut) {
            network.hear(news.port, &news.claims);
        }
    }

    /// Another worker has a port.
    pub(crate) fn learn(&mut self, member: Member) {
        let (port, network, mac, addresses) = (member.port, member.network, member.mac, member.addresses);
        self.records.leave_to_others(&member.places);
        if self.exchange.learn(member)
            && let Some(network) = self.networks.get_mut(network as usize).and_then(Option::as_deref_mut)
        {
            network.join_as(port, mac, addresses);
        }
        self.list_listeners();
    }

    /// It has it no more.
    pub(crate) fn unlearn(&mut self, port: PortId) {
        let network = self.exchange.forget(port);
        let network = network.and_then(|network| self.networks.get_mut(network as usize)?.as_deref_mut());
        if let Some(network) = network {
            network.leave(port);
        }
        self.list_listeners();
    }

    /// When a parcel has been waited for for too long, or something is to be looked at again.
    pub(crate) fn exchange_due(&self) -> Option<vonic_tcp::Instant> {
        let sent = self.exchange.sent.iter().filter_map(|id| self.ports.get(*id as usize)?.as_ref()?.sent.as_ref());
        let again = self.exchange.is_to_look_again().then(|| self.now + GRACE);
        sent.map(|sent| sent.until).chain(again).min()
    }

    /// Whether it may sleep: nobody has sent anything, and nothing has come back.
    pub(crate) fn may_sleep(&mut self) -> bool {
        let ports = &self.ports;
        let sent = |id: PortId| ports.get(id as usize).and_then(Option::as_ref)?.sent.as_ref();
        self.exchange.may_sleep(|id| sent(id).is_some_and(Sent::is_settled))
    }
}

/// Copies a frame to a guest, if its port is here.
fn hand_to(ports: &mut [Option<Box<Port>>], to: PortId, inbound: &Inbound<'_, '_>, copied: &Counter) {
    if let Some(to) = Worker::port_mut(ports, to) {
        hand_over(to, inbound, copied);
    }
}

/// Returns every chain, in the order in which its queue gave them.
pub fn complete(port: &mut Port, bursts: &[Burst]) {
    bursts.iter().enumerate().for_each(|(pair, burst)| port.queues.tx(pair).push_read(burst));
}
