//! All connections of one worker, by number and by address.
use crate::flow::mark::Marking;
use crate::flow::names::Tries;
use crate::flow::peer::Waiting;
use crate::flow::ready::ReadyLists;
use crate::keyed::KeyedMap;
use crate::spec::PortId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::Range;
use vonic_record::RecordId;
use vonic_tcp::{Instant, Leg};
use vonic_uplink::HostSocket;

/// A connection's number: its place in the table.
pub type FlowId = u32;

/// A connection as its guest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The guest's port of the switch.
    pub port: PortId,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
}

/// One connection.
pub struct Flow {
    /// Its ends.
    pub key: FlowKey,
    /// The leg towards the guest.
    pub leg: Leg,
    /// The host's socket; gone in TIME-WAIT.
    pub socket: Option<HostSocket>,
    /// Where the host's socket leads.
    pub host: SocketAddr,
    /// Whether the guest opened it.
    pub guest_opens: bool,
    /// Of a connection to a resolver: which others there are.
    pub tries: Option<Tries>,
    /// Of a connection to vonic's own service: where each request begins.
    pub marking: Option<Marking>,
    /// The host's connect is in progress.
    pub connecting: bool,
    /// When it was opened.
    pub opened: Instant,
    /// Both sides have had it, and its end has not been told.
    pub established: bool,
    /// The guest's FIN was passed on.
    pub shut: bool,
    /// It counts towards the guest's limit: until TIME-WAIT.
    pub counted: bool,
    /// The host's side has failed: a reset follows what its queue still has for the guest.
    pub doomed: bool,
    /// It has, and the reset is due. The socket stays until the guest has it, and with it the record, which the next engine needs to
    /// send the reset.
    pub failed: bool,
    /// Its socket has refused payload since: the guest shall not wait for its own application to read.
    pub pressed: bool,
    /// The service has let go of its end: nobody will take payload of the guest.
    pub deserted: bool,
    /// The window is to be asked of the host socket before the next segment.
    pub window_stale: bool,
    /// The socket is nearly full: the next EPOLLOUT is news.
    pub watching_room: bool,
    /// The socket has refused part of a segment that was in the window.
    pub refused_ever: bool,
    /// It has since the last EPOLLOUT.
    pub refused: bool,
    /// In the port's list of connections without buffers.
    pub starved: bool,
    /// The window is closed, or nearly, though the kernel calls the socket writable: its EPOLLOUT has been.
    pub cramped: bool,
    /// The guest waits for what the peer has yet to acknowledge.
    pub waiting: Option<Waiting>,
    /// The worker's questions have an entry for it.
    pub asked_later: bool,
    /// Bytes that the guest has acknowledged, and that its socket still has.
    pub acknowledged: u32,
    /// It is in one of the lists of those whose acknowledgment waits.
    pub waits_briefly: bool,
    /// Since when the last one has waited for payload to carry it, which has not come yet.
    pub waits_since: Option<Instant>,
    /// The last one was carried, or none has waited yet.
    pub answers: bool,
    /// Behind the bytes that a peek finds there may be an end, an error or an urgent byte, of which no news will come again.
    pub peeks_on: bool,
    /// It ends with its engine, though it has a record: the next one resets both of its sides.
    pub mortal: bool,
    /// Its record, by which it outlives this engine; `None` for those that do not.
    pub record: Option<RecordId>,
    /// Bytes that the host's socket took.
    pub bytes_guest_to_host: u64,
    /// Bytes that the guest acknowledged.
    pub bytes_host_to_guest: u64,
    queued: bool,
    timer: Option<Instant>,
    /// A later entry that is in the heap, too: keepalive stands there for hours while other timers come and go.
    later_timer: Option<Instant>,
}

impl Flow {
    /// Where the guest's connect leads; `None` for what the world opened.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.guest_opens.then_some(self.host)
    }

    /// A connection that starts now.
    pub fn new(key: FlowKey, leg: Leg, socket: HostSocket, host: SocketAddr, opened: Instant) -> Flow {
        Flow { socket: Some(socket), ..Flow::without_socket(key, leg, host, opened) }
    }

    /// One whose host's side is lost, so that its guest is still to be told.
    pub fn without_socket(key: FlowKey, leg: Leg, host: SocketAddr, opened: Instant) -> Flow {
        Flow {
            key,
            leg,
            socket: None,
            host,
            guest_opens: false,
            tries: None,
            marking: None,
            connecting: false,
            opened,
            established: false,
            shut: false,
            counted: true,
            doomed: false,
            failed: false,
            pressed: false,
            deserted: false,
            window_stale: true,
            watching_room: false,
            refused_ever: false,
            refused: false,
            starved: false,
            cramped: false,
            waiting: None,
            asked_later: false,
            acknowledged: 0,
            waits_briefly: false,
            waits_since: None,
            answers: true,
            peeks_on: false,
            mortal: false,
            record: None,
            bytes_guest_to_host: 0,
            bytes_host_to_guest: 0,
            queued: false,
            timer: None,
            later_timer: None,
        }
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    flow: Option<Flow>,
}

/// The table. Slots, index and queues grow with the number of connections and never shrink: no allocation per frame.
#[derive(Default)]
pub struct FlowTable {
    slots: Vec<Slot>,
    free: Vec<FlowId>,
    index: KeyedMap<FlowKey, FlowId>,
    ready: ReadyLists,
    timers: BinaryHeap<Reverse<(Instant, FlowId, u32)>>,
}

impl FlowTable {
    /// Adds a connection.
    pub fn insert(&mut self, flow: Flow) -> FlowId {
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as FlowId - 1
        });
        self.index.insert(flow.key, id);
        self.slots[id as usize].flow = Some(flow);
        id
    }

    /// Takes a connection out. Its number will be used again, with another generation.
    pub fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let slot = self.slots.get_mut(id as usize)?;
        let flow = slot.flow.take()?;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        self.index.remove(&flow.key);
        self.free.push(id);
        self.forget_timers();
        Some(flow)
    }

    /// The connection with this number.
    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slots.get_mut(id as usize)?.flow.as_mut()
    }

    /// The number of a connection.
    pub fn find(&self, key: &FlowKey) -> Option<FlowId> {
        self.index.get(key).copied()
    }

    /// Distinguishes the users of a number over time, in 24 bits.
    pub fn generation(&self, id: FlowId) -> u32 {
        self.slots.get(id as usize).map_or(0, |s| s.generation)
    }

    /// Every connection with its number.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i as FlowId, s.flow.as_ref()?)))
    }

    /// The connections in these places of the table.
    pub fn some(&self, places: Range<u32>) -> impl Iterator<Item = &Flow> {
        let places = (places.start as usize).min(self.slots.len())..(places.end as usize).min(self.slots.len());
        self.slots[places].iter().filter_map(|slot| slot.flow.as_ref())
    }

    /// How many places the table has.
    pub fn places(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Has the connection pumped this round.
    pub fn make_ready(&mut self, id: FlowId) {
        if let Some(flow) = self.get_mut(id)
            && !std::mem::replace(&mut flow.queued, true)
        {
            let port = flow.key.port;
            self.ready.push(port, id);
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// How many connections are ready.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The next ready connection; ports take turns.
    pub fn pop_ready(&mut self) -> Option<FlowId> {
        while let Some(id) = self.ready.pop() {
            // A number may stand here that was freed, or freed and given to a newer connection, since.
            if let Some(flow) = self.get_mut(id)
                && std::mem::take(&mut flow.queued)
            {
                return Some(id);
            }
        }
        None
    }

    /// Makes sure that the connection is looked at when its leg's next timer runs out.
    pub fn arm(&mut self, id: FlowId) {
        let generation = self.generation(id);
        let Some(flow) = self.get_mut(id) else { return };
        let Some(deadline) = flow.leg.deadline() else { return };
        // An earlier entry will find out by itself that its time has moved.
        if flow.timer.is_none_or(|armed| deadline < armed) {
            flow.later_timer = flow.later_timer.max(flow.timer);
            flow.timer = Some(deadline);
            self.timers.push(Reverse((deadline, id, generation)));
        }
    }

    /// Entries of ended connections stay until their time has come; keepalive's would do so for hours. Live ones have two
    /// or three, so that this happens once in as many removals as there are entries to look at.
    fn forget_timers(&mut self) {
        if self.timers.len() > TIMER_SLACK + 4 * self.index.len() {
            let slots = &self.slots;
            self.timers.retain(|Reverse((_, id, generation))| {
                slots.get(*id as usize).is_some_and(|slot| slot.flow.is_some() && slot.generation == *generation)
            });
        }
    }

    /// A connection whose leg has a timer that ran out.
    pub fn pop_due(&mut self, now: Instant) -> Option<FlowId> {
        while let Some(Reverse((at, id, generation))) = self.timers.peek().copied() {
            if at > now {
                return None;
            }
            self.timers.pop();
            if self.generation(id) != generation {
                continue;
            }
            let Some(flow) = self.get_mut(id) else { continue };
            if flow.timer == Some(at) {
                flow.timer = flow.later_timer.take();
            }
            if flow.leg.deadline().is_some_and(|d| d <= now) {
                return Some(id);
            }
            self.arm(id);
        }
        None
    }

    /// When [`FlowTable::pop_due`] may have something next.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, ..))| *at)
    }
}

/// Entries in the timers' heap that are not worth a look.
const TIMER_SLACK: usize = 256;
/// Generations travel in the event token, see `worker::events`.
pub const GENERATION_MASK: u32 = 0xff_ffff;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "test code")]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;
    use vonic_tcp::{Config, Flags, Keepalive, Options, Segment, Seq, Transmit};
    use vonic_uplink::PeekMode;

    /// An established leg, whose only timer is keepalive's.
    fn leg(now: Instant) -> Leg {
        let config = Config { keepalive: Some(Keepalive::DEFAULT), ..Config::new(1460, 7) };
        let options = Options { mss: Some(1460), ..Options::default() }.emit();
        let options = options.as_slice();
        let syn = Segment { seq: Seq(1), ack: Seq(0), flags: Flags::SYN, window: 65_535, options, len: 0 };
        let mut leg = Leg::accept(&config, &syn, Seq(100), now);
        leg.host_connected(now);
        assert!(leg.poll(now, 1460).is_some());
        leg.handle_segment(now, &Segment { seq: Seq(2), ack: Seq(101), flags: Flags::ACK, options: &[], ..syn });
        assert_eq!(leg.deadline(), Some(now + Keepalive::DEFAULT.idle));
        leg
    }

    fn flow(listener: &TcpListener, now: Instant) -> Flow {
        let address = listener.local_addr().unwrap();
        let (socket, _) = HostSocket::connect(address, PeekMode::Scratch).unwrap();
        drop(listener.accept().unwrap());
        let key = FlowKey { port: 0, guest: address, remote: address };
        Flow::new(key, leg(now), socket, address, now)
    }

    #[test]
    fn keepalive_of_ended_connections_is_forgotten() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut table = FlowTable::default();
        for n in 0..5000 {
            let id = table.insert(flow(&listener, Instant(n)));
            table.arm(id);
            table.remove(id);
        }
        assert!(table.timers.len() <= TIMER_SLACK, "{}", table.timers.len());
    }

    #[test]
    fn keepalive_stands_once_in_the_heap_while_other_timers_come_and_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut table = FlowTable::default();
        let mut now = Instant(1_000_000);
        let id = table.insert(flow(&listener, now));
        table.arm(id);
        for n in 0..1000 {
            let leg = &mut table.get_mut(id).unwrap().leg;
            leg.host_readable();
            let Some(Transmit::Data(plan)) = leg.poll(now, 10) else { unreachable!("no plan") };
            let sent = leg.sent(now, &plan, 10).unwrap();
            table.arm(id);
            let ack =
                Segment { seq: Seq(2), ack: sent.seq + 10, flags: Flags::ACK, window: 65_535, options: &[], len: 0 };
            table.get_mut(id).unwrap().leg.handle_segment(now, &ack);
            table.arm(id);
            now = now + Duration::from_secs(1);
            assert_eq!(table.pop_due(now), None, "{n}");
            assert!(table.timers.len() <= 2, "{n}: {}", table.timers.len());
        }
        assert!(table.next_due().is_some_and(|at| at > now));
    }
}
