//! What datagram sockets received: straight into the guest's buffers, one frame each.
use super::Datagram;
use super::fragmenter::{Fragmenter, Named};
use super::table::DatagramId;
use crate::port::Port;
use crate::queues::Waiter;
use crate::steering::hash_of_flow;
use crate::worker::Worker;
use std::io::{self, ErrorKind};
use std::time::Duration;
use vmm_sys_util::epoll::EventSet;
use vonic_frame::{
    DropReason, ECHO_HEADER_LEN, ETHERNET_LEN, MacAddr, PROTOCOL_ICMP, PROTOCOL_ICMP6, VnetHeader, echo_reply,
    echo_reply_header, echo_reply_sequence,
};
use vonic_uplink::Received;

/// Datagrams that one flow may bring in one round; then it is the next one's turn.
const DATAGRAMS_A_TURN: usize = 16;

/// How long a datagram that is longer than the guest's MTU waits for buffers for all its fragments.
const PATIENCE: Duration = Duration::from_secs(1);

/// What became of one call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Go on.
    More,
    /// Nothing more has come.
    Empty,
    /// The call took an error that an earlier datagram met.
    Failed,
    /// No buffers: wait for the guest. What has come stays in the kernel's queue.
    Starved,
    /// Not as many buffers as the next datagram takes: wait for more than there are.
    Short,
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
        let mut next = Next::More;
        for _ in 0..DATAGRAMS_A_TURN {
            let Some(flow) = self.datagrams.get_mut(id) else { return };
            let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
            let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
            next = receive(flow, port, network.spec.gateway_mac, &mut self.fragmenter);
            match next {
                Next::More => {}
                Next::Empty => return,
                Next::Failed => drop(self.tell_errors(id)),
                Next::Starved => {
                    if !std::mem::replace(&mut flow.starved, true) {
                        port.queues.starved().push(Waiter::Datagrams(id));
                    }
                    return;
                }
                Next::Short => {
                    let until = *flow.short.get_or_insert(self.now + PATIENCE);
                    if until > self.now {
                        return port.queues.wait_for_more(id, until);
                    }
                    // A guest that never posts as many will not get it.
                    flow.short = None;
                    if flow.socket.skip() {
                        port.dropped_to_guest(DropReason::NoRoom);
                    }
                    next = Next::More;
                }
            }
        }
        if next == Next::More {
            self.datagrams.make_ready(id);
        }
    }
}

/// Receives one datagram behind the place of the headers, then writes the headers.
fn receive(flow: &mut Datagram, port: &mut Port, gateway: MacAddr, fragmenter: &mut Fragmenter) -> Next {
    let network_len = if flow.key.guest.is_ipv4() { 20 } else { 40 };
    let before = port.negotiated.header_len + ETHERNET_LEN as u32 + network_len + ECHO_HEADER_LEN as u32;
    let largest = port.negotiated.header_len + ETHERNET_LEN as u32 + u32::from(port.spec.mtu);
    port.queues.aim(|| hash_of_flow(flow.key.remote, flow.key.guest));
    let room = port.reserve(before, largest.max(before)).min(largest);
    if room < before {
        port.release();
        if port.rx().available() == 0 || !port.rx().is_live() {
            return Next::Starved;
        }
        // What is posted holds no frame at all.
        if !flow.socket.skip() {
            return Next::Empty;
        }
        port.dropped_to_guest(DropReason::NoRoom);
        return Next::More;
    }
    let mut header = [0u8; ECHO_HEADER_LEN];
    let chains = 0..port.rx_burst.len();
    let vecs = port.rx_burst.iovecs_behind(&mut header, ECHO_HEADER_LEN, chains, before, room - before);
    // A reply is as long as its request. Whether the next one is long can only be seen by looking (a ping socket does not tell).
    let may_be_long = flow.largest > largest - before + ECHO_HEADER_LEN as u32 && room == largest;
    let received = match if may_be_long { flow.socket.peek(&vecs) } else { flow.socket.receive(&vecs) } {
        Ok(received) => received,
        Err(error) => {
            port.release();
            return failed(&error);
        }
    };
    if may_be_long && received.truncated {
        port.release();
        return receive_long(flow, port, gateway, fragmenter);
    }
    if may_be_long && !flow.socket.skip() {
        port.release();
        return Next::Empty;
    }
    match judge(flow, &header, &received) {
        Err(DropReason::Oversized) if room < largest => refuse(port, DropReason::NoRoom),
        Err(reason) => refuse(port, reason),
        Ok(sequence) => {
            complete(flow, port, gateway, sequence, (before, received.len - ECHO_HEADER_LEN as u32));
            Next::More
        }
    }
}

/// Receives one datagram, which is longer than the guest's MTU, into the places of its fragments, then writes their headers.
fn receive_long(flow: &mut Datagram, port: &mut Port, gateway: MacAddr, fragmenter: &mut Fragmenter) -> Next {
    if !fragmenter.reserve(port, flow.key.guest.ip(), flow.largest) {
        return Next::Short;
    }
    flow.short = None;
    let mut header = [0u8; ECHO_HEADER_LEN];
    let vecs = fragmenter.iovecs(port, &mut header);
    let received = match flow.socket.receive(&vecs) {
        Ok(received) => received,
        Err(error) => {
            port.release();
            return failed(&error);
        }
    };
    match judge(flow, &header, &received) {
        Err(reason) => refuse(port, reason),
        Ok(sequence) => {
            let envelope = flow.key.envelope(gateway, port.spec.mac);
            let data = (received.len - ECHO_HEADER_LEN as u32, fragmenter.sum(port, received.len));
            let transport = echo_reply_header(&envelope, flow.key.guest.port(), sequence, data);
            let protocol = if envelope.src.is_ipv4() { PROTOCOL_ICMP } else { PROTOCOL_ICMP6 };
            fragmenter.complete(port, flow, &Named { envelope: &envelope, protocol, transport }, received.len);
            port.spec.stats.icmp.replies.add(1);
            Next::More
        }
    }
}

/// The sequence number of a reply whose ICMP header is `header`.
fn judge(flow: &Datagram, header: &[u8; ECHO_HEADER_LEN], received: &Received) -> Result<u16, DropReason> {
    let sequence = echo_reply_sequence(flow.host.ip(), header).filter(|_| received.len >= ECHO_HEADER_LEN as u32);
    match sequence {
        None => Err(DropReason::BadHeader),
        // A ping socket takes replies from anybody.
        Some(_) if received.from != flow.host.ip() => Err(DropReason::NoConnection),
        Some(_) if received.truncated => Err(DropReason::Oversized),
        Some(sequence) => Ok(sequence),
    }
}

/// Gives the reserved buffers back in place of a datagram that the guest does not get.
fn refuse(port: &mut Port, reason: DropReason) -> Next {
    port.release();
    port.dropped_to_guest(reason);
    Next::More
}

fn failed(error: &io::Error) -> Next {
    let empty = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
    if empty { Next::Empty } else { Next::Failed }
}

/// Headers for `len` bytes of echoed data that lie `before` bytes behind the start of the reserved chains.
fn complete(flow: &Datagram, port: &mut Port, gateway: MacAddr, sequence: u16, (before, len): (u32, u32)) {
    let sum = port.rx_burst.sum(0..port.rx_burst.len(), before, len);
    let envelope = flow.key.envelope(gateway, port.spec.mac);
    let headers = echo_reply(&envelope, flow.key.guest.port(), sequence, (len, sum));
    port.complete(&VnetHeader::default(), headers.as_slice(), len);
    port.spec.stats.icmp.replies.add(1);
}
