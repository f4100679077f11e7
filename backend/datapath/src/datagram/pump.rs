//! From the host's sockets to the guest: what has come is received straight into the guest's buffers, one frame each.
use super::table::DatagramId;
use super::{Datagram, Far, HEADER_LEN, Kind, udp};
use crate::port::Port;
use crate::queues::Waiter;
use crate::steering::hash_of_flow;
use crate::worker::Worker;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use vmm_sys_util::epoll::EventSet;
use vonic_frame::{DropReason, ETHERNET_LEN, MacAddr, VnetHeader, echo_reply, echo_reply_sequence, ip_header_len};
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
}

impl Next {
    /// What a failed call stands for.
    pub fn after(error: &io::Error) -> Next {
        let empty = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
        if empty { Next::Empty } else { Next::Failed }
    }
}

/// Buffers of the guest's, reserved for one datagram.
#[derive(Clone, Copy)]
pub struct Landing {
    /// Where its payload begins: bytes of the headers in front of it.
    pub before: u32,
    /// Bytes up to the end of the buffers, or of the largest frame.
    room: u32,
    largest: u32,
}

impl Landing {
    /// Bytes of payload that there is room for.
    pub fn len(self) -> u32 {
        self.room - self.before
    }

    /// Why a datagram that was longer is dropped.
    pub fn too_long(self) -> DropReason {
        if self.room < self.largest { DropReason::NoRoom } else { DropReason::Oversized }
    }
}

/// Reserves buffers in the receive queue aimed at, as many as a datagram to `guest` can fill; `skip` throws away the one that
/// they are for, where what is posted holds no frame at all.
pub fn reserve(port: &mut Port, guest: IpAddr, skip: impl FnOnce() -> bool) -> Result<Landing, Next> {
    let headers = ETHERNET_LEN + usize::from(ip_header_len(guest)) + HEADER_LEN;
    let before = port.negotiated.header_len + headers as u32;
    let largest = port.negotiated.header_len + ETHERNET_LEN as u32 + u32::from(port.spec.mtu);
    let room = port.reserve(before, largest.max(before)).min(largest);
    if room >= before {
        return Ok(Landing { before, room, largest });
    }
    port.release();
    if port.rx().available() == 0 || !port.rx().is_live() {
        return Err(Next::Starved);
    }
    if !skip() {
        return Err(Next::Empty);
    }
    port.dropped_to_guest(DropReason::NoRoom);
    Err(Next::Lost)
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
            let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
            match receive(flow, port, network.spec.gateway_mac) {
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
            }
        }
        self.datagrams.make_ready(id);
    }
}

/// Receives one datagram behind the place of the headers, then writes the headers.
fn receive(flow: &Datagram, port: &mut Port, gateway: MacAddr) -> Next {
    // What comes by a forward's socket is nobody's before it was received.
    let Far::Own(socket) = &flow.far else { return Next::Empty };
    port.queues.aim(|| hash_of_flow(flow.key.remote, flow.key.guest));
    let landing = match reserve(port, flow.key.guest.ip(), || socket.skip()) {
        Ok(landing) => landing,
        Err(next) => return next,
    };
    let received = match flow.key.kind {
        Kind::Echo => receive_echo(flow, port, gateway, socket, landing),
        Kind::Udp => receive_udp(flow, port, gateway, socket, landing),
    };
    match received {
        Ok(Ok(bytes)) => Next::Got(bytes),
        Ok(Err(reason)) => {
            port.release();
            port.dropped_to_guest(reason);
            Next::Lost
        }
        Err(error) => {
            port.release();
            Next::after(&error)
        }
    }
}

/// Bytes of payload that the guest got, or why the datagram was dropped; or the error of the call.
type Outcome = io::Result<Result<u32, DropReason>>;

fn receive_udp(
    flow: &Datagram,
    port: &mut Port,
    gateway: MacAddr,
    socket: &DatagramSocket,
    landing: Landing,
) -> Outcome {
    let chains = 0..port.rx_burst.len();
    let Received { len, truncated, .. } =
        socket.receive(&port.rx_burst.iovecs(chains, landing.before, landing.len()))?;
    if truncated {
        return Ok(Err(landing.too_long()));
    }
    udp::complete(&flow.key, port, gateway, (landing.before, len));
    Ok(Ok(len))
}

fn receive_echo(
    flow: &Datagram,
    port: &mut Port,
    gateway: MacAddr,
    socket: &DatagramSocket,
    landing: Landing,
) -> Outcome {
    let mut header = [0u8; HEADER_LEN];
    let chains = 0..port.rx_burst.len();
    let vecs = port.rx_burst.iovecs_behind(&mut header, HEADER_LEN, chains.clone(), landing.before, landing.len());
    let received = socket.receive(&vecs)?;
    let Some(len) = received.len.checked_sub(HEADER_LEN as u32) else { return Ok(Err(DropReason::BadHeader)) };
    let Some(sequence) = echo_reply_sequence(flow.host.ip(), &header) else { return Ok(Err(DropReason::BadHeader)) };
    if received.from != flow.host.ip() {
        // A ping socket takes replies from anybody.
        return Ok(Err(DropReason::NoConnection));
    }
    if received.truncated {
        return Ok(Err(landing.too_long()));
    }
    let sum = port.rx_burst.sum(chains, landing.before, len);
    let envelope = flow.key.envelope(gateway, port.spec.mac);
    let headers = echo_reply(&envelope, flow.key.guest.port(), sequence, (len, sum));
    port.complete(&VnetHeader::default(), headers.as_slice(), len);
    port.spec.stats.icmp.replies.add(1);
    Ok(Ok(len))
}
