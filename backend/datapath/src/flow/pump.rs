//! What a connection owes its guest: acknowledgements, and payload peeked straight into the guest's buffers.
use crate::crash::crash_point;
use crate::flow::guest_side::{envelope, fields, send_control, send_question};
use crate::flow::host_side::conclude;
use crate::flow::patience::answered;
use crate::flow::peer::{pass_on, set_question};
use crate::flow::table::{Flow, FlowId};
use crate::port::Port;
use crate::queues::Waiter;
use crate::steering::hash_of_flow;
use crate::worker::Worker;
use crate::worker::events::Token;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use vonic_frame::{
    Checksum, DropReason, ETHERNET_LEN, Envelope, Gso, GsoKind, PartialChecksum, TCP_CHECKSUM, VnetHeader,
    ip_header_len, tcp_headers,
};
use vonic_tcp::{DataPlan, Header, Instant, Transmit};
use vonic_uplink::{Ahead, HostSocket, Peeked, Room, Scratch};

/// Frames that one connection may send in one round; then it is the next one's turn.
const FRAMES_A_TURN: usize = 16;
/// The largest packet: IPv4's total length has 16 bits, and IPv6's payload length no fewer.
const LARGEST_PACKET: u32 = 65535;
/// Bytes of a TCP header without options.
const TCP_HEADER: u32 = 20;

/// Entries of ended connections that a list of waiting ones may hold before it is cleaned.
const STARVED_SLACK: usize = 64;

/// What became of one planned frame.
enum Sent {
    /// Go on.
    More,
    /// No buffers: wait for the guest.
    Starved,
}

impl Worker {
    /// Sends what a connection has for its guest.
    pub(crate) fn pump(&mut self, id: FlowId) {
        let generation = self.flows.generation(id);
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
        self.signs.at(port.spec.vm);
        let envelope = envelope(flow.key, network.spec.gateway_mac, port);
        pass_on(flow, self.now);
        port.queues.aim(|| hash_of_flow(flow.key.remote, flow.key.guest));
        if std::mem::take(&mut flow.window_stale) && refresh_window(flow) {
            let token = Token::Flow { id, generation };
            if let Some(fd) = flow.socket.as_ref().map(AsRawFd::as_raw_fd) {
                self.poller.watch_room(fd, token);
            }
        }
        set_question(flow, self.now);
        let (mut left, before) = (FRAMES_A_TURN, flow.leg.snd_max());
        let starved = loop {
            if left == 0 {
                break false;
            }
            left -= 1;
            match send_next(flow, port, &envelope, self.now, &mut self.scratch) {
                Some(Sent::More) => {}
                Some(Sent::Starved) => break true,
                // What came before the failure has gone, or all of it that a guest has room for that speaks to nobody.
                None if flow.doomed && (flow.leg.fin_sent() || flow.pressed) => conclude(flow, port),
                None => break false,
            }
        };
        let sent = flow.leg.snd_max() - before;
        self.polling.moved(sent);
        if sent > 0 {
            answered(flow, self.now);
        }
        if flow.leg.ack_waits() {
            self.wait_briefly(id);
        }
        if starved {
            self.starve(id);
        } else if left == 0 {
            self.flows.make_ready(id);
        }
        self.ask_later(id);
        self.settle(id);
    }

    /// Puts a connection in its port's list of those that wait for buffers.
    fn starve(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let port_id = flow.key.port;
        let Some(port) = Worker::port_mut(&mut self.ports, port_id) else { return };
        if std::mem::replace(&mut flow.starved, true) {
            return;
        }
        if port.queues.starved().len() > STARVED_SLACK + 2 * self.flows.len() + self.datagrams.len() {
            // Most of them have ended since.
            let port = port.spec.port;
            let flows = &mut self.flows;
            let waits = |waiter: &Waiter| match waiter {
                Waiter::Flow(id) => flows.get_mut(*id).is_some_and(|f| f.starved && f.key.port == port),
                Waiter::Datagrams(_) | Waiter::Forward(_) => true,
            };
            if let Some(port) = Worker::port_mut(&mut self.ports, port) {
                port.queues.starved().retain(waits);
                port.queues.starved().dedup();
            }
        }
        if let Some(port) = Worker::port_mut(&mut self.ports, port_id) {
            port.queues.starved().push(Waiter::Flow(id));
            port.spec.stats.tcp.starved.add(1);
        }
    }
}

/// Has the leg know the socket's room; `None` if there is no telling.
pub fn open_window(flow: &mut Flow) -> Option<Room> {
    let socket = flow.socket.as_ref().filter(|_| !(flow.connecting && flow.guest_opens))?;
    // A socket that failed says so by its event.
    let room = socket.send_room().ok()?;
    // The kernel counts the overhead of each segment's buffer too: a quarter is kept for it, or half where the guest's
    // segments have turned out to be small.
    let kept = if flow.refused_ever { room.free / 2 } else { room.free / 4 };
    flow.leg.set_window(room.free - kept);
    Some(room)
}

/// Asks the socket for its room; true if its EPOLLOUT is to be watched for from now on.
fn refresh_window(flow: &mut Flow) -> bool {
    if flow.leg.window_is_roomy() && !(flow.refused || flow.cramped || flow.watching_room) {
        return false;
    }
    let Some(room) = open_window(flow) else { return false };
    flow.cramped = room.writable && flow.leg.window_is_silly();
    !room.writable && !std::mem::replace(&mut flow.watching_room, true)
}

/// Sends one frame; `None` if the leg has nothing more.
fn send_next(
    flow: &mut Flow,
    port: &mut Port,
    envelope: &Envelope,
    now: Instant,
    scratch: &mut Scratch,
) -> Option<Sent> {
    if port.rx().available() == 0 {
        return Some(Sent::Starved);
    }
    let tso = port.negotiated.to_guest.tso(gso_kind(flow));
    let whole = LARGEST_PACKET - packet_headers_len(flow);
    let largest = if tso { whole } else { u32::from(flow.leg.mss()) };
    match flow.leg.poll(now, largest)? {
        Transmit::Control(header) => {
            let result = send_control(port, envelope, flow.key, &header);
            Some(control_sent(port, result))
        }
        Transmit::Question(header) => {
            let result = send_question(port, envelope, flow.key, &header);
            Some(control_sent(port, result))
        }
        Transmit::Data(plan) => {
            if plan.offset > 0 && flow.socket.as_ref().is_some_and(HostSocket::peeks_over_scratch) {
                port.spec.stats.tcp.scratch_peeks.add(1);
            }
            Some(send_data(flow, port, envelope, now, &plan, scratch))
        }
    }
}

/// What became of a segment that carries nothing of the stream's.
fn control_sent(port: &mut Port, result: Result<(), DropReason>) -> Sent {
    match result {
        Ok(()) => Sent::More,
        Err(reason) => {
            port.dropped_to_guest(reason);
            // In buffers that are too small it is lost; the leg's timers know what to do.
            if port.rx().available() == 0 { Sent::Starved } else { Sent::More }
        }
    }
}

/// What stands in front of the payload of each of a connection's frames.
fn headers_len(flow: &Flow, port: &Port) -> u32 {
    port.negotiated.header_len + ETHERNET_LEN as u32 + packet_headers_len(flow)
}

/// Bytes of the IP and TCP headers of a data frame.
fn packet_headers_len(flow: &Flow) -> u32 {
    u32::from(ip_header_len(flow.key.guest.ip())) + TCP_HEADER + u32::from(flow.leg.options_len())
}

fn gso_kind(flow: &Flow) -> GsoKind {
    if flow.key.guest.is_ipv4() { GsoKind::Tcp4 } else { GsoKind::Tcp6 }
}

/// Peeks payload behind the place of the headers, then writes the headers.
fn send_data(
    flow: &mut Flow,
    port: &mut Port,
    envelope: &Envelope,
    now: Instant,
    plan: &DataPlan,
    scratch: &mut Scratch,
) -> Sent {
    let before = headers_len(flow, port);
    let room = port.reserve(before + 1, before + plan.max);
    let Some(socket) = flow.socket.as_mut().filter(|_| room > before) else {
        port.release();
        return Sent::Starved;
    };
    let len = plan.max.min(room - before);
    let before_sent = flow.leg.snd_max();
    let chains = 0..port.rx_burst.len();
    // Behind both ends, no state of the socket's would tell a reset from an orderly end once a peek has taken its error: that has to be on
    // record before, and it is when the error's own event has come.
    let doubtful = flow.shut && flow.record.is_some() && !flow.doomed;
    let ahead = if doubtful { socket.ahead(plan.offset).unwrap_or(Ahead::Failure) } else { Ahead::Bytes };
    let peeked = match ahead {
        Ahead::Bytes => socket.peek(plan.offset, (&mut port.rx_burst, chains, before, len), scratch),
        Ahead::End => Ok(Peeked { bytes: 0, drained: false }),
        Ahead::Nothing | Ahead::Failure => Err(ErrorKind::WouldBlock.into()),
    };
    match peeked {
        Ok(Peeked { bytes: 0, .. }) => {
            port.release();
            // After a failure, an end that is a FIN's leaves the error where it is (tcp_recvmsg_locked, net/ipv4/tcp.c).
            if flow.doomed && socket.take_error().is_ok() {
                conclude(flow, port);
            } else {
                flow.leg.host_finished(plan.offset);
            }
        }
        Ok(Peeked { bytes: n, drained }) => match flow.leg.sent(now, plan, n) {
            Some(header) => {
                crash_point!("after-peek");
                if plan.seq.lt(before_sent) {
                    port.spec.stats.tcp.retransmitted.add(1);
                }
                complete(flow, port, envelope, &header, n);
                crash_point!("frame-completed");
                if drained && plan.seq == before_sent && !flow.peeks_on && !flow.doomed {
                    flow.leg.host_drained();
                }
            }
            None => port.release(),
        },
        Err(error) => {
            port.release();
            match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => drop(flow.leg.sent(now, plan, 0)),
                _ => conclude(flow, port),
            }
        }
    }
    Sent::More
}

/// Headers for `n` bytes of payload that lie in the reserved chains: with segmentation and checksum left to the guest where
/// it negotiated them.
fn complete(flow: &Flow, port: &mut Port, envelope: &Envelope, header: &Header, n: u32) {
    let can = port.negotiated.to_guest;
    let mss = flow.leg.mss();
    let checksum = if can.csum {
        Checksum::Partial
    } else {
        let before = headers_len(flow, port);
        Checksum::Full(port.rx_burst.sum(0..port.rx_burst.len(), before, n))
    };
    let (headers, offset) = tcp_headers(envelope, &fields(flow.key, header, n), checksum);
    let vnet = VnetHeader {
        partial: can.csum.then_some(PartialChecksum { start: offset, offset: TCP_CHECKSUM as u16 }),
        data_valid: false,
        gso: (n > u32::from(mss)).then_some(Gso { kind: gso_kind(flow), size: mss, ecn: false }),
    };
    port.complete(&vnet, headers.as_slice(), n);
}
