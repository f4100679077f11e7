//! From the host's sockets to the guest: what has come is received straight into the guest's buffers, one frame each.
use super::fragmenter::{Fragmenter, Headers};
use super::landing::{Landing, longest_whole, reserve};
use super::table::DatagramId;
use super::{Datagram, Far, HEADER_LEN, Kind, udp};
use crate::port::Port;
use crate::queues::Waiter;
use crate::steering::hash_of_flow;
use crate::worker::Worker;
use std::io::{self, ErrorKind};
use vmm_sys_util::epoll::EventSet;
use vonic_frame::{DropReason, MacAddr, PROTOCOL_ICMP, PROTOCOL_ICMP6, echo_reply, echo_reply_sequence};
use vonic_uplink::{DatagramSocket, Received};

/// Datagrams that one flow may bring in one round; then it is the next one's turn.
const DATAGRAMS_A_TURN: usize = 16;

/// What became of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The guest got a datagram with so many bytes of payload.
    Got(u32),
    /// One was dropped, and counted.
    Lost,
    /// Nothing more has come.
    Empty,
    /// The call took an error that an earlier datagram met.
    Failed,
    /// No buffers: wait for the guest. What has come stays in the kernel's queue.
    Starved,
    /// Not as many buffers as the next datagram takes: wait for more than there are.
    Short,
}

impl Next {
    /// What a failed call stands for.
    pub fn after(error: &io::Error) -> Next {
        let empty = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        if empty { Next::Empty } else { Next::Failed }
    }
}

impl Worker {
    /// A socket of a flow has news. Edge-triggered: each event stands for something new.
    pub(crate) fn datagram_event(&mut self, id: DatagramId, events: EventSet) {
        if let Some(flow) = self.datagrams.get_mut(id) {
            flow.failed |= events.contains(EventSet::ERROR);
            self.datagrams.make_ready(id);
        }
    }

    /// Brings the guest what a flow's socket has received, and what became of what it sent.
    pub(crate) fn pump_datagrams(&mut self, id: DatagramId) {
        if self.datagrams.get_mut(id).is_some_and(|flow| std::mem::take(&mut flow.failed)) {
            self.tell_errors(id);
        }
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(flow) = self.datagrams.get_mut(id) else { return };
            let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
            self.signs.at(port.spec.vm);
            let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
            match receive(flow, port, network.spec.gateway_mac, &mut self.fragmenter) {
                Next::Got(bytes) => self.datagram_received(id, bytes),
                Next::Lost => {}
                Next::Empty => return,
                Next::Failed => drop(self.tell_errors(id)),
                Next::Starved => {
                    if !std::mem::replace(&mut flow.starved, true) {
                        port.queues.starved().push(Waiter::Datagrams(id));
                    }
                    return;
                }
                Next::Short => {
                    flow.starved = true;
                    return port.queues.wait_for_more(Waiter::Datagrams(id), self.now);
                }
            }
        }
        self.datagrams.make_ready(id);
    }
}

/// How many bytes behind the IP header the next datagram has, as far as that matters; 0: not known.
fn length_of_next(flow: &Datagram, socket: &DatagramSocket) -> io::Result<u32> {
    match flow.key.kind {
        // Whether it fits into one frame is seen by looking; then it is as long as its request, if it is no lie.
        Kind::Echo => Ok(0),
        Kind::Udp => Ok(socket.next_len()? + HEADER_LEN as u32),
    }
}

/// Receives one datagram behind the place of the headers, then writes the headers.
fn receive(flow: &Datagram, port: &mut Port, gateway: MacAddr, fragmenter: &mut Fragmenter) -> Next {
    // What comes by a forward's socket is nobody's before it was received.
    let Far::Own(socket) = &flow.far else { return Next::Empty };
    port.queues.aim(|| hash_of_flow(flow.key.remote, flow.key.guest));
    let received = length_of_next(flow, socket).and_then(|len| {
        let guest = flow.key.guest.ip();
        let landing = match reserve(port, fragmenter, (guest, len), || socket.skip()) {
            Ok(landing) => landing,
            Err(next) => return Ok(Err(next)),
        };
        let received = match flow.key.kind {
            Kind::Echo => receive_echo(flow, port, gateway, socket, (landing, fragmenter)),
            Kind::Udp => receive_udp(flow, port, gateway, socket, (landing, fragmenter)),
        };
        received.inspect_err(|_| port.release())
    });
    match received {
        Ok(Ok(bytes)) => Next::Got(bytes),
        Ok(Err(next)) => next,
        Err(error) => Next::after(&error),
    }
}

/// Gives the reserved buffers back in place of a datagram that the guest does not get.
fn lose(port: &mut Port, reason: DropReason) -> Outcome {
    port.release();
    port.dropped_to_guest(reason);
    Ok(Err(Next::Lost))
}

/// Bytes of payload that the guest got, or what became of the datagram; or the error of the call.
type Outcome = io::Result<Result<u32, Next>>;

fn receive_udp(
    flow: &Datagram,
    port: &mut Port,
    gateway: MacAddr,
    socket: &DatagramSocket,
    (landing, fragmenter): (Landing, &mut Fragmenter),
) -> Outcome {
    let Received { len, truncated, .. } = socket.receive(&landing.iovecs(port, fragmenter, &mut []))?;
    if truncated {
        return lose(port, landing.too_long());
    }
    udp::complete(&flow.key, port, gateway, (landing, fragmenter), len);
    Ok(Ok(len))
}

fn receive_echo(
    flow: &Datagram,
    port: &mut Port,
    gateway: MacAddr,
    socket: &DatagramSocket,
    (mut landing, fragmenter): (Landing, &mut Fragmenter),
) -> Outcome {
    let guest = flow.key.guest.ip();
    let mut header = [0u8; HEADER_LEN];
    // A ping socket does not tell how long a datagram is, only that it was longer than its room.
    if flow.longest > longest_whole(port, guest)
        && landing.is_whole_frame()
        && socket.peek(&landing.iovecs(port, fragmenter, &mut header))?.truncated
    {
        port.release();
        landing = match reserve(port, fragmenter, (guest, flow.longest), || socket.skip()) {
            Ok(landing) => landing,
            Err(next) => return Ok(Err(next)),
        };
    }
    let received = socket.receive(&landing.iovecs(port, fragmenter, &mut header))?;
    let Some(len) = received.len.checked_sub(HEADER_LEN as u32) else { return lose(port, DropReason::BadHeader) };
    let Some(sequence) = echo_reply_sequence(flow.host.ip(), &header) else {
        return lose(port, DropReason::BadHeader);
    };
    if received.from != flow.host.ip() {
        // A ping socket takes replies from anybody.
        return lose(port, DropReason::NoConnection);
    }
    if received.truncated {
        return lose(port, landing.too_long());
    }
    let envelope = flow.key.envelope(gateway, port.spec.mac);
    let sum = landing.sum(port, fragmenter, len);
    let headers = echo_reply(&envelope, flow.key.guest.port(), sequence, (len, sum));
    let protocol = if guest.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
    let at = headers.as_slice().len() - HEADER_LEN;
    landing.complete(port, fragmenter, &Headers { envelope, protocol, headers, at }, len);
    port.spec.stats.icmp.replies.add(1);
    Ok(Ok(len))
}
