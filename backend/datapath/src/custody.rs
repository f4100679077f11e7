//! What of a port's outlives an engine beside its connections and flows: listening sockets, a cable, claimed addresses. Each has a record for
//! as long as it is the port's, by which its descriptor stays open when the engine has died.
use crate::bridged;
use crate::flow::records::Records;
use crate::spec::{ForwardSocket, PortId};
use crate::switch::claims::{CLAIMS, Claims};
use crate::worker::Worker;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use vonic_record::{Bits, Kind, Record, RecordId, name};
use vonic_uplink::{Cable, DatagramSocket};

/// The records of one port.
#[derive(Debug, Default)]
pub struct Custody {
    /// By descriptor and cookie: a number alone may be another socket's by now.
    listeners: HashMap<(i32, u64), RecordId>,
    /// With descriptor, cookie, and whether a guest runs.
    tap: Option<((i32, u64, bool), RecordId)>,
    claims: [Option<(Ipv6Addr, RecordId)>; CLAIMS],
    /// Frames waited in the cable for the guest that runs, when the engine before died.
    pub tap_waits: bool,
}

impl Custody {
    /// Every record is freed: the port is no more.
    pub fn end(&mut self, records: &mut Records) {
        let Custody { listeners, tap, claims, tap_waits: _ } = std::mem::take(self);
        let others = tap.into_iter().map(|(_, id)| id).chain(claims.into_iter().flatten().map(|(_, id)| id));
        listeners.into_values().chain(others).for_each(|id| records.free(id));
    }

    /// Records what the port listens on now, and no more what it does not.
    pub fn set_listeners<'a>(&mut self, sockets: impl Iterator<Item = &'a ForwardSocket>, records: &mut Records) {
        let mut before = std::mem::take(&mut self.listeners);
        for socket in sockets {
            let Ok(cookie) = socket.cookie() else { continue };
            let key = (socket.as_raw_fd(), cookie);
            let record = Record::endless(Kind::Listener, 0, key, Bits::default());
            if let Some(id) = before.remove(&key).or_else(|| records.keep(&record, None)) {
                self.listeners.insert(key, id);
            }
        }
        before.into_values().for_each(|id| records.free(id));
    }

    /// Records the cable that the port has now.
    fn set_tap(&mut self, tap: Option<&Cable>, live: bool, records: &mut Records) {
        let place = tap.map(|tap| (tap.as_raw_fd(), tap.cookie(), live));
        if self.tap.map(|(place, _)| place) == place {
            return;
        }
        // The new one first: at no time is there a cable without a record.
        let new = tap.zip(place).and_then(|(tap, (fd, cookie, live))| {
            let kind = match tap {
                Cable::Tap(_) => Kind::Tap,
                Cable::Packet(_) => Kind::Packet,
            };
            let record = Record::endless(kind, name(tap.vm()), (fd, cookie), Bits::LIVE.only_if(live));
            Some(((fd, cookie, live), records.keep(&record, None)?))
        });
        if let Some((_, id)) = std::mem::replace(&mut self.tap, new) {
            records.free(id);
        }
    }

    /// Records the addresses that the guest has claimed now.
    fn set_claims(&mut self, session: u64, now: &Claims, records: &mut Records) {
        for place in &mut self.claims {
            if let Some((_, id)) = place.take_if(|(address, _)| !now.all().any(|claim| claim == *address)) {
                records.free(id);
            }
        }
        for address in now.all() {
            let known = self.claims.iter().flatten().any(|(known, _)| *known == address);
            if let Some(place) = self.claims.iter_mut().find(|place| place.is_none()).filter(|_| !known) {
                let guest = SocketAddr::new(IpAddr::V6(address), 0);
                let record = Record { guest, ..Record::endless(Kind::Claim, session, (-1, 0), Bits::default()) };
                *place = records.keep(&record, None).map(|id| (address, id));
            }
        }
    }
}

impl Worker {
    /// Takes over what an engine before has left of a port that has just been attached.
    pub(crate) fn resume_places(&mut self, id: PortId) {
        let places = std::mem::take(&mut self.records.places);
        for (number, record) in places {
            let goes_on = match record.kind {
                Kind::Tap | Kind::Packet => self.resume_tap(id, number, &record),
                _ => self.resume_listener(id, number, &record),
            };
            if !goes_on {
                self.records.places.push((number, record));
            }
        }
    }

    /// Takes over what an engine before has left of a VMM connection beside its connections.
    pub(crate) fn resume_flows(&mut self, id: PortId, session: u64) {
        self.renew_claims(id);
        let flows = std::mem::take(&mut self.records.flows);
        let (own, others): (Vec<_>, Vec<_>) = flows.into_iter().partition(|(_, record)| record.session == session);
        self.records.flows = others;
        for (number, record) in own {
            let goes_on = match record.kind {
                Kind::Claim => self.resume_claim(id, number, &record),
                _ => self.resume_datagrams(id, number, &record),
            };
            if !goes_on {
                abandon(&mut self.records, number, &record);
            }
        }
    }

    /// A driver that was there before this VMM connection keeps its claims.
    fn renew_claims(&mut self, id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let network = self.networks.get(port.spec.network as usize).and_then(Option::as_deref);
        if let Some(network) = network {
            port.custody.set_claims(port.session, &Claims::default(), &mut self.records);
            port.custody.set_claims(port.session, &network.claims_of(id), &mut self.records);
        }
    }

    /// Every VMM that was connected has had its own: what nobody has taken over ends.
    pub(crate) fn abandon_custody(&mut self) {
        self.records.leave_rest_to_first();
        let flows = std::mem::take(&mut self.records.flows);
        for (number, record) in flows.into_iter().chain(std::mem::take(&mut self.records.places)) {
            abandon(&mut self.records, number, &record);
        }
        for port in self.ports.iter_mut().flatten().filter(|port| port.session == 0) {
            port.awaited = None;
            bridged::give_up(port);
        }
        // Of what was taken over, some may not be any more: the host's addresses may be others.
        self.check_datagrams();
    }

    fn resume_listener(&mut self, id: PortId, number: RecordId, record: &Record) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        let key = (record.descriptor, record.cookie);
        let is_own =
            |socket: &ForwardSocket| socket.as_raw_fd() == key.0 && socket.cookie().is_ok_and(|own| own == key.1);
        let known = port.spec.forwards.iter().any(|forward| is_own(&forward.socket));
        if known && let Some(twice) = port.custody.listeners.insert(key, number) {
            // The engine before died while the socket changed hands: one record will do.
            self.records.free(twice);
        }
        known
    }

    fn resume_tap(&mut self, id: PortId, number: RecordId, record: &Record) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        let live = record.bits.has(Bits::LIVE);
        let place = (record.descriptor, record.cookie);
        if port.spec.tap.as_ref().is_none_or(|tap| (tap.as_raw_fd(), tap.cookie()) != place) {
            return false;
        }
        port.custody.tap = Some(((place.0, place.1, live), number));
        port.custody.tap_waits = live;
        true
    }

    fn resume_claim(&mut self, id: PortId, number: RecordId, record: &Record) -> bool {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return false };
        let network = self.networks.get_mut(port.spec.network as usize).and_then(Option::as_deref_mut);
        let (Some(network), IpAddr::V6(address)) = (network, record.guest.ip()) else { return false };
        let Some(place) = port.custody.claims.iter_mut().find(|place| place.is_none()) else { return false };
        if network.owner(address.into()).is_some() {
            return false;
        }
        *place = Some((address, number));
        network.claim(id, address);
        true
    }

    /// Records claims that guests have made, or lost, since this was called last: before what they were made by is taken for done.
    pub(crate) fn record_claims(&mut self) {
        for network in self.networks.iter_mut().flatten() {
            while let Some(id) = network.next_changed() {
                if let Some(port) = Worker::port_mut(&mut self.ports, id) {
                    self.exchange.note(id);
                    port.custody.set_claims(port.session, &network.claims_of(id), &mut self.records);
                }
            }
        }
    }

    /// Records which cable a port has, and whether a guest runs.
    pub(crate) fn record_tap(&mut self, id: PortId) {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        let live = port.queues.is_live() || port.custody.tap_waits;
        self.exchange.note(id);
        port.custody.set_tap(port.spec.tap.as_deref(), live, &mut self.records);
    }
}

/// Ends what nobody goes on with. Listeners and cables are the control side's, which has taken over theirs and closes the rest.
fn abandon(records: &mut Records, number: RecordId, record: &Record) {
    if record.kind == Kind::Datagrams && !record.bits.has(Bits::FORWARDED) {
        drop(DatagramSocket::resume(record.descriptor, record.cookie, record.host.ip()));
    }
    records.free(number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vonic_record::Checkpoint;
    use vonic_uplink::{Listener, UdpListener};

    fn records() -> (Arc<Checkpoint>, Records) {
        let checkpoint = Arc::new(Checkpoint::create(8).unwrap());
        let free = checkpoint.free_numbers();
        (Arc::clone(&checkpoint), Records::new(checkpoint, free, 0))
    }

    fn address(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n)
    }

    fn claimed(checkpoint: &Checkpoint) -> Vec<(u64, IpAddr)> {
        checkpoint.records().map(|(_, record)| (record.session, record.guest.ip())).collect()
    }

    #[test]
    fn what_a_port_listens_on_has_a_record_and_nothing_else_has() {
        let (checkpoint, mut records) = records();
        let any = || "127.0.0.1:0".parse().unwrap();
        let tcp = ForwardSocket::Tcp(Arc::new(Listener::bind(any(), None).unwrap()));
        let udp = ForwardSocket::Udp(Arc::new(UdpListener::bind(any(), None).unwrap()));
        let mut custody = Custody::default();
        let descriptors = |checkpoint: &Checkpoint| checkpoint.records().map(|(_, r)| r.descriptor).collect::<Vec<_>>();
        custody.set_listeners([&tcp, &udp].into_iter(), &mut records);
        assert_eq!(descriptors(&checkpoint), [tcp.as_raw_fd(), udp.as_raw_fd()]);
        // A reload that keeps one and drops the other.
        custody.set_listeners([&udp].into_iter(), &mut records);
        assert_eq!(checkpoint.records().map(|(id, _)| id).collect::<Vec<_>>(), [1]);
        let (_, record) = checkpoint.records().next().unwrap();
        assert_eq!(
            (record.kind, record.descriptor, record.cookie),
            (Kind::Listener, udp.as_raw_fd(), udp.cookie().unwrap())
        );
        custody.end(&mut records);
        assert_eq!((checkpoint.records().count(), checkpoint.free_numbers().count()), (0, 8));
    }

    #[test]
    fn records_follow_claims_and_take_room_once() {
        let (checkpoint, mut records) = records();
        let (mut custody, mut claims) = (Custody::default(), Claims::default());
        for n in 1..=9 {
            claims.add(address(n));
            custody.set_claims(7, &claims, &mut records);
            custody.set_claims(7, &claims, &mut records);
        }
        let mut now = claimed(&checkpoint);
        now.sort();
        assert_eq!(now, [6, 7, 8, 9].map(|n| (7, address(n).into())));
        claims.remove(address(7));
        custody.set_claims(7, &claims, &mut records);
        assert_eq!(checkpoint.free_numbers().count(), 5);
        custody.set_claims(7, &Claims::default(), &mut records);
        assert_eq!(claimed(&checkpoint), []);
    }

    #[test]
    fn without_room_nothing_is_promised() {
        let (checkpoint, mut records) = records();
        while records.keep(&Record::endless(Kind::Claim, 1, (-1, 0), Bits::default()), None).is_some() {}
        let mut claims = Claims::default();
        claims.add(address(1));
        let mut custody = Custody::default();
        custody.set_claims(7, &claims, &mut records);
        assert!(
            custody.claims.iter().all(Option::is_none) && claimed(&checkpoint).iter().all(|(session, _)| *session == 1)
        );
        // As soon as there is room, it has its record.
        records.free(0);
        custody.set_claims(7, &claims, &mut records);
        assert_eq!(claimed(&checkpoint)[0], (7, address(1).into()));
    }
}
