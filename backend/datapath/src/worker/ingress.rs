//! Frames from a guest: fetched in bursts, their headers copied once, checked, and sent on their way.
use crate::bridged::{Outbound, guest_to_uplink};
use crate::datagram::reassembly::Payload;
use crate::datagram::{echo, udp};
use crate::exchange::{self, Recipient};
use crate::flow::guest_side::{self, Place};
use crate::flow::refusal;
use crate::offload::{Inbound, forward};
use crate::port::{FRAME_MAX, Port};
use crate::queues::PAIRS;
use crate::service::SERVICES;
use crate::spec::{PortId, Uplink};
use crate::stats::{CopyPath, Counter, Way};
use crate::switch::{Destination, Network, filter, neighbor};
use crate::worker::Worker;
use vonic_frame::{Content, DropReason, ETHERNET_LEN, Frame, HEADER_MAX, Ip, Transport, VNET_HEADER_LEN, VnetHeader};
use vonic_queue::Burst;

/// Frames taken of one queue in one round, at most; then it is the next port's turn.
pub(crate) const BURST: usize = 64;

/// Segments that came before their predecessors, since a guest has moved their connection from one queue to another: what
/// they wait for may be in the other queue's burst, so they are looked at again at the round's end.
pub(crate) struct Late {
    /// Whether there is an end of this round to wait for.
    open: bool,
    /// This is the end: the frames have been counted.
    ending: bool,
    /// The queue whose turn it is.
    pair: usize,
    chains: Vec<(usize, usize)>,
}

impl Late {
    pub(crate) fn new() -> Late {
        Late { open: false, ending: false, pair: 0, chains: Vec::with_capacity(PAIRS * BURST) }
    }

    /// Whether a segment can be put off; else it has to be dealt with now.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Puts a segment off.
    pub(crate) fn put_off(&mut self, chain: usize) {
        self.chains.push((self.pair, chain));
    }
}

impl Worker {
    /// Takes one burst of each of a port's queues; how many chains there were.
    pub(crate) fn guest_burst(&mut self, id: PortId) -> usize {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return 0 };
        self.signs.at(port.spec.vm);
        let Some(mut bursts) = self.bursts.take() else { return 0 };
        let (passed, busy) = self.fetch_bursts(id, &mut bursts);
        let chains = passed + bursts.iter().map(Burst::len).sum::<usize>();
        if let Some(port) = Worker::port_mut(&mut self.ports, id) {
            port.begun = self.heard.unwrap_or(self.now);
            port.under_way = chains as u32;
            if port.is_captured() {
                bursts.iter().enumerate().for_each(|(pair, burst)| port.capture_burst(pair, burst));
            }
        }
        self.late.open = busy > 1;
        for (pair, burst) in bursts.iter_mut().enumerate() {
            self.late.pair = pair;
            let live = Worker::port_mut(&mut self.ports, id).is_some_and(|port| port.queues.tx(pair).is_live());
            let mut i = 0;
            while i < burst.len() {
                let run = if live { self.take_run(id, burst, i) } else { 0 };
                if run == 0 {
                    self.take_frame(id, live, burst, i);
                }
                i += run.max(1);
            }
        }
        (self.late.open, self.late.ending) = (false, true);
        for n in 0..self.late.chains.len() {
            let (pair, i) = self.late.chains[n];
            self.late.pair = pair;
            self.take_frame(id, true, &mut bursts[pair], i);
        }
        self.late.chains.clear();
        self.late.ending = false;
        self.discard_acknowledged();
        self.reassemble(id, &bursts);
        if self.exchange.has_letters() {
            self.send_parcel(id, bursts);
        } else {
            self.complete_bursts(id, &mut bursts);
            self.bursts = Some(bursts);
        }
        chains
    }

    /// Fetches a burst of each of a port's queues, behind what goes the short way at once. How many frames did, and how many bursts there are.
    fn fetch_bursts(&mut self, id: PortId, bursts: &mut [Burst; PAIRS]) -> (usize, usize) {
        let (mut passed, mut busy) = (0, 0);
        for (pair, burst) in bursts.iter_mut().enumerate() {
            let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|port| pair < port.queues.pairs()) else {
                break;
            };
            port.queues.tx(pair).disarm();
            // Whoever watches sees a burst before anything is done with it, and another queue's burst comes first.
            let short = busy == 0 && !port.is_captured();
            let most = if port.share.rests(self.now).is_some() { 0 } else { port.share.turn() };
            let (taken, all) = if short { self.take_posted(id, pair, most) } else { (0, false) };
            passed += taken;
            if let Some(port) = Worker::port_mut(&mut self.ports, id).filter(|_| !all) {
                busy += usize::from(port.queues.tx(pair).fetch(burst, most - taken) > 0);
            }
        }
        (passed, busy)
    }

    /// Returns every chain, in the order in which its queue gave them. The used index moves only behind the last effect of
    /// the descriptors: at the flush.
    fn complete_bursts(&mut self, id: PortId, bursts: &mut [Burst; PAIRS]) {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return };
        exchange::complete(port, &bursts[..]);
        bursts.iter_mut().for_each(Burst::clear);
        self.served.note(id, port);
    }

    /// Takes one frame of a queue, or drops it if the queue is not `live`.
    fn take_frame(&mut self, id: PortId, live: bool, burst: &mut Burst, i: usize) {
        let result = if live { self.guest_frame(id, burst, i) } else { Err(DropReason::QueueDisabled) };
        if result.is_err() {
            self.turns.forwarded_nothing();
        }
        if let Err(reason) = result
            && let Some(port) = Worker::port_mut(&mut self.ports, id)
        {
            port.spec.stats.dropped(Way::GuestToHost, reason);
            if port.is_captured() {
                port.captures.refuse((self.late.pair, i), reason);
            }
        }
    }

    fn guest_frame(&mut self, id: PortId, burst: &mut Burst, i: usize) -> Result<(), DropReason> {
        let Some(port) = Worker::port_mut(&mut self.ports, id) else { return Err(DropReason::PortDown) };
        let Some(network) = self.networks.get_mut(port.spec.network as usize).and_then(|n| n.as_mut()) else {
            return Err(DropReason::PortDown);
        };
        let mut head = [0u8; VNET_HEADER_LEN + HEADER_MAX];
        let inbound = read(port, burst, i, &mut head)?;
        if !self.late.ending {
            port.spec.stats.frame(Way::GuestToHost, inbound.frame.len);
        }
        filter::check_source(network, &port.spec, inbound.head, &inbound.frame)?;
        match network.destination(id, inbound.frame.dst)? {
            Destination::Port(to) => {
                let mtu = port.spec.mtu;
                let runs = || runs_here(&self.ports, to) || self.exchange.is_live(to);
                if network.spec.uplink == Uplink::Tap && !runs() {
                    let outbound = Outbound::new(&inbound, mtu)?;
                    return self.to_uplink(id, burst, &outbound);
                }
                if !deliver_to(&mut self.ports, [id, to], &inbound) {
                    let workers = self.exchange.worker_of(to);
                    self.exchange.post((Recipient::Port(to), workers), self.late.pair, &inbound);
                }
                Ok(())
            }
            Destination::Group => {
                let bridged = network.spec.uplink == Uplink::Tap;
                if !bridged && serve(network, port, &inbound)? && is_for_gateway(&inbound.frame) {
                    self.turns.forwarded_nothing();
                    return Ok(());
                }
                // Each costs as many copies as there are members, and each of them a look.
                let admitted = port.usage.admit_group(&port.spec.limits, self.now);
                admitted.map_err(|limit| port.spec.stats.limited(limit))?;
                let mtu = port.spec.mtu;
                let members = if network.spec.isolated { &[] } else { network.members() };
                let mut workers = 0;
                for &to in members.iter().filter(|&&to| to != id) {
                    if !deliver_to(&mut self.ports, [id, to], &inbound) {
                        workers |= self.exchange.worker_of(to);
                    }
                }
                self.exchange.post((Recipient::Members, workers), self.late.pair, &inbound);
                if !bridged {
                    return Ok(());
                }
                let outbound = Outbound::new(&inbound, mtu)?;
                self.to_uplink(id, burst, &outbound)
            }
            Destination::Uplink => {
                let outbound = Outbound::new(&inbound, port.spec.mtu)?;
                self.to_uplink(id, burst, &outbound)
            }
            Destination::Gateway => {
                if serve(network, port, &inbound)? {
                    self.turns.forwarded_nothing();
                    return Ok(());
                }
                let Some(ip) = terminated(&inbound.frame)? else { return Ok(()) };
                match ip.transport {
                    Transport::Tcp(tcp) => {
                        let (key, segment) = guest_side::read(port, &inbound, &ip, &tcp)?;
                        let payload = inbound.start + u32::from(ip.transport_offset) + u32::from(tcp.header_len);
                        self.guest_segment(key, &segment, burst, Place { chain: i, payload })
                    }
                    Transport::Icmp(_) => {
                        if let Some(key) = udp::refused(id, &inbound, &ip) {
                            self.close_refused(&key);
                            return Ok(());
                        }
                        if let Some(refused) = refusal::read(id, &inbound, &ip)? {
                            return self.guest_refuses(&refused);
                        }
                        let echo = echo::read(id, &inbound, &ip)?.ok_or(DropReason::Unsupported)?;
                        self.guest_datagram(&echo, &mut Payload::Frame(burst))
                    }
                    Transport::Udp(header) => {
                        let datagram = udp::read(id, &inbound, &ip, &header)?;
                        self.guest_datagram(&datagram, &mut Payload::Frame(burst))
                    }
                    Transport::Fragment(fragment) => {
                        let reassembly = self.reassembly.as_mut().ok_or(DropReason::Fragment)?;
                        reassembly.take(self.late.pair, &inbound, (&ip, &fragment))
                    }
                    Transport::Other => Err(DropReason::Unsupported),
                }
            }
        }
    }

    fn to_uplink(&self, id: PortId, burst: &mut Burst, frame: &Outbound) -> Result<(), DropReason> {
        let port = self.ports.get(id as usize).and_then(Option::as_deref).ok_or(DropReason::PortDown)?;
        guest_to_uplink(port, burst, frame)
    }
}

/// Whether a member's guest takes frames. One that does not may run on another host of a bridged network: the file of a VM
/// that moves lies on every host that it may come to.
fn runs_here(ports: &[Option<Box<Port>>], id: PortId) -> bool {
    ports.get(id as usize).and_then(Option::as_deref).is_some_and(|port| port.queues.is_live())
}

/// What of a frame to the gateway, that no service took, is terminated; `None`: nothing, and rightly so.
fn terminated(frame: &Frame) -> Result<Option<Ip>, DropReason> {
    match frame.content {
        // An answer, or a question about somebody else.
        Content::Arp(_) => Ok(None),
        Content::Ip(ip) if neighbor::is_link_talk(&ip) => Ok(None),
        Content::Ip(ip) => Ok(Some(ip)),
        _ => Err(DropReason::Unsupported),
    }
}

/// Copies a frame's leading bytes, once, and reads them.
fn read<'a, 'h>(port: &Port, burst: &'a Burst, i: usize, head: &'h mut [u8]) -> Result<Inbound<'a, 'h>, DropReason> {
    let chain = burst.chain(i);
    if let Some(reason) = chain.fault {
        return Err(reason);
    }
    let start = port.negotiated.header_len;
    let frame_len = chain.len.checked_sub(start).filter(|len| *len >= ETHERNET_LEN as u32);
    let frame_len = frame_len.ok_or(DropReason::Truncated)?;
    if frame_len > FRAME_MAX {
        return Err(DropReason::Oversized);
    }
    let wanted = (start as usize + HEADER_MAX).min(head.len());
    let got = burst.read(i, 0, &mut head[..wanted]);
    let (vnet, bytes) = head[..got].split_at_checked(start as usize).ok_or(DropReason::Truncated)?;
    let mut fields = [0u8; VNET_HEADER_LEN];
    fields[..vnet.len()].copy_from_slice(vnet);
    let vnet = VnetHeader::parse(&fields, frame_len, port.negotiated.from_guest)?;
    let frame = Frame::parse(bytes, frame_len)?;
    Ok(Inbound { burst, chain: i, start, vnet, head: bytes, frame })
}

/// Lets the services answer; true if one did.
fn serve(network: &Network, port: &mut Port, inbound: &Inbound<'_, '_>) -> Result<bool, DropReason> {
    for service in SERVICES {
        match (service.handle)(network, port, inbound) {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            // The answer found no room: the guest's own fault, and its frame was good.
            Err(reason @ (DropReason::NoRoom | DropReason::PortDown)) => {
                port.dropped_to_guest(reason);
                return Ok(true);
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(false)
}

/// Whether a frame to everybody that a service took is no other guest's business. Others may learn from a question by ARP.
fn is_for_gateway(frame: &Frame) -> bool {
    matches!(frame.content, Content::Ip(_))
}

/// Copies a frame from the first guest into the other's ring. False: the other port is not this worker's.
fn deliver_to(ports: &mut [Option<Box<Port>>], pair: [PortId; 2], inbound: &Inbound<'_, '_>) -> bool {
    let Ok([Some(from), Some(to)]) = ports.get_disjoint_mut(pair.map(|id| id as usize)) else { return false };
    hand_over(to, inbound, from.spec.stats.copied(CopyPath::GuestToGuest));
    true
}

/// Copies a frame into a guest's ring. What does not fit is dropped there, and counted there.
pub(crate) fn hand_over(to: &mut Port, inbound: &Inbound<'_, '_>, copied: &Counter) {
    // Nobody misses a broadcast in a machine that is off, or in one that does not listen to it.
    if inbound.frame.dst.is_group() && !(to.queues.is_live() && to.receive_filter.accepts(inbound.frame.dst)) {
        return;
    }
    if let Err(reason) = forward(inbound, to, copied) {
        to.dropped_to_guest(reason);
        if to.is_captured() {
            to.capture_missed(inbound, reason);
        }
    }
}
