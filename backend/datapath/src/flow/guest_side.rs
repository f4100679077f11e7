//! Segments from the guest: to their connection, and their payload to its socket.
use crate::crash::crash_point;
use crate::flow::challenge;
use crate::flow::table::{Flow, FlowId, FlowKey};
use crate::notification::What;
use crate::offload::Inbound;
use crate::port::Port;
use crate::worker::Worker;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use vonic_frame::{
    DropReason, Envelope, HEADER_MAX, Ip, PROTOCOL_TCP, Sum, TCP_CHECKSUM, Tcp, TcpFields, VnetHeader, tcp_headers,
};
use vonic_queue::Burst;
use vonic_record::Bits;
use vonic_tcp::{Effect, Event, Flags, Header, Segment, Seq, reset_for};
use vonic_uplink::HostSocket;

/// Where a segment lies.
#[derive(Clone, Copy)]
pub struct Place {
    /// Which chain of the burst.
    pub chain: usize,
    /// Offset of its payload in the chain.
    pub payload: u32,
}

impl Worker {
    /// Takes one TCP segment that a guest sent to the gateway's MAC.
    pub(crate) fn guest_segment(
        &mut self,
        key: FlowKey,
        segment: &Segment<'_>,
        burst: &mut Burst,
        place: Place,
    ) -> Result<(), DropReason> {
        let opens = segment.flags.contains(Flags::SYN) && !segment.flags.contains(Flags::ACK);
        self.resume_now(&key);
        if opens {
            self.asks_again(&key);
        }
        match self.flows.find(&key) {
            Some(id) if opens && self.flows.get_mut(id).is_some_and(|f| f.leg.reusable(segment)) => {
                let iss = self.initial_sequence(&key);
                self.finish(id);
                self.open_from_guest(key, segment, iss)
            }
            Some(id) if self.late.is_open() && self.is_early(id, segment) => {
                self.late.put_off(place.chain);
                Ok(())
            }
            Some(id) => {
                self.segment_of_flow(id, segment, burst, place);
                Ok(())
            }
            None if opens && !segment.flags.contains(Flags::RST) => {
                let iss = self.initial_sequence(&key);
                self.open_from_guest(key, segment, iss)
            }
            None => {
                self.refuse(key, segment);
                Err(DropReason::NoConnection)
            }
        }
    }

    /// Answers a segment that belongs to no connection (RFC 9293 §3.10.7.1).
    pub(crate) fn refuse(&mut self, key: FlowKey, segment: &Segment<'_>) {
        let Some(header) = reset_for(segment) else { return };
        let (Some(port), networks) = (Worker::port_mut(&mut self.ports, key.port), &self.networks) else { return };
        let Some(network) = networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
        let envelope = envelope(key, network.spec.gateway_mac, port);
        // A full ring means that the guest will have to ask again.
        if let Err(reason) = send_control(port, &envelope, key, &header) {
            port.dropped_to_guest(reason);
        }
    }

    /// Whether segments are missing before this one.
    fn is_early(&mut self, id: FlowId, segment: &Segment<'_>) -> bool {
        self.flows.get_mut(id).is_some_and(|flow| flow.leg.rcv_nxt().lt(segment.seq))
    }

    fn segment_of_flow(&mut self, id: FlowId, segment: &Segment<'_>, burst: &mut Burst, place: Place) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        let unsynchronized = flow.leg.agreed().is_none();
        let effect = flow.leg.handle_segment(now, segment);
        if unsynchronized {
            crash_point!("before-synchronized");
            self.records.synchronized(flow);
            crash_point!("after-synchronized");
        }
        if let Some(note) = effect.note {
            challenge::count(port, &mut flow.leg, note, now);
        }
        let tcp = &port.spec.stats.tcp;
        let mut lost = false;
        flow.bytes_host_to_guest += u64::from(effect.acked);
        if effect.acked > 0 {
            if flow.acknowledged == 0 {
                self.acknowledged.push(id);
            }
            flow.acknowledged += effect.acked;
        }
        tcp.bytes_host_to_guest.add(u64::from(effect.acked));
        if effect.acked > 0 && flow.socket.as_ref().is_some_and(HostSocket::peeks_over_scratch) {
            // Over scratch memory the end of the stream shows only once nothing is queued in front of it.
            flow.leg.host_readable();
        }
        // Also a probe of a closed window (RFC 9293 §3.8.6.1), with a byte or without, is answered by what there is now.
        flow.window_stale |= segment.len > 0 || flow.cramped;
        let offered = effect.payload.as_ref().map_or(0, |p| p.end - p.start);
        if offered > 0
            && let Some(marking) = &mut flow.marking
        {
            let len = place.payload - port.negotiated.header_len + segment.len;
            marking.hears(flow.bytes_host_to_guest, &port.spec.stats, len);
        }
        if offered > 0 || effect.fin {
            let (taken, failed) = match offer(flow, &effect, burst, place) {
                Ok(taken) => (taken, false),
                Err(error) => (0, !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)),
            };
            lost |= failed;
            flow.pressed |= failed;
            flow.bytes_guest_to_host += u64::from(taken);
            tcp.bytes_guest_to_host.add(u64::from(taken));
            if taken < offered {
                crash_point!("segment-half-taken");
                tcp.short_writes.add(1);
                flow.refused_ever = true;
                flow.refused = true;
            }
            if flow.leg.taken(now, taken)
                && let Some(socket) = &flow.socket
            {
                self.records.add(flow, Bits::GUEST_FIN);
                crash_point!("guest-fin-recorded");
                // ENOTCONN: the peer has reset meanwhile; its event says so.
                let _ = socket.shutdown_write();
                crash_point!("after-shutdown");
                flow.shut = true;
            }
        }
        self.flows.make_ready(id);
        if lost {
            // A call that reports a reset consumes it: no event will tell again.
            return self.host_failed(id);
        }
        match effect.event {
            Some(Event::Established) => self.established(id),
            Some(Event::Reset) => self.abort(id),
            _ => {}
        }
    }

    /// Drops what guests acknowledged in this burst from the sockets' queues, by one call for each connection.
    pub(crate) fn discard_acknowledged(&mut self) {
        while let Some(id) = self.acknowledged.pop() {
            if self.flows.get_mut(id).is_some_and(discard) {
                // A call that reports a reset consumes it: no event will tell again.
                self.host_failed(id);
            }
        }
    }

    fn established(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Some(port) = Worker::port_mut(&mut self.ports, flow.key.port) else { return };
        crash_point!("before-established");
        self.records.add(flow, Bits::ESTABLISHED);
        let tcp = &port.spec.stats.tcp;
        if flow.guest_opens { &tcp.guest_opened } else { &tcp.world_opened }.add(1);
        if std::mem::take(&mut flow.connecting) {
            port.usage.end(flow.destination());
        }
        flow.established = true;
        port.tell(flow, What::Established, &self.secret, self.now);
    }
}

/// Drops what the guest acknowledged from the socket's queue; true if the socket failed.
fn discard(flow: &mut Flow) -> bool {
    let acked = std::mem::take(&mut flow.acknowledged);
    match &mut flow.socket {
        Some(socket) if acked > 0 => {
            crash_point!("before-discard");
            let failed = socket.discard(acked).is_err();
            crash_point!("after-discard");
            failed
        }
        _ => false,
    }
}

/// Offers a segment's new payload to the host's socket, straight from guest memory; returns what it took.
fn offer(flow: &Flow, effect: &Effect, burst: &mut Burst, place: Place) -> io::Result<u32> {
    let (Some(range), Some(socket)) = (&effect.payload, &flow.socket) else { return Ok(0) };
    let vecs = burst.iovecs(place.chain..place.chain + 1, place.payload + range.start, range.end - range.start);
    crash_point!("before-sendmsg");
    let taken = socket.send(&vecs);
    crash_point!("after-sendmsg");
    taken
}

/// The addresses of a frame from `key`'s remote end to its guest.
pub fn envelope(key: FlowKey, gateway_mac: vonic_frame::MacAddr, port: &Port) -> Envelope {
    Envelope { src_mac: gateway_mac, dst_mac: port.spec.mac, src: key.remote.ip(), dst: key.guest.ip() }
}

/// Fields of a header from `key`'s remote end to its guest.
pub fn fields<'a>(key: FlowKey, header: &'a Header, payload_len: u32) -> TcpFields<'a> {
    TcpFields {
        src_port: key.remote.port(),
        dst_port: key.guest.port(),
        seq: header.seq.0,
        ack: header.ack.0,
        flags: header.flags.0,
        window: header.window,
        options: header.options.as_slice(),
        payload_len,
    }
}

/// Sends a segment without payload; its checksum is always complete.
pub fn send_control(port: &mut Port, envelope: &Envelope, key: FlowKey, header: &Header) -> Result<(), DropReason> {
    let (headers, _) = tcp_headers(envelope, &fields(key, header, 0), vonic_frame::Checksum::Full(0));
    port.deliver(&VnetHeader::default(), headers.as_slice(), None)
}

/// Sends a segment with one byte of payload that says nothing: 0.
pub fn send_question(port: &mut Port, envelope: &Envelope, key: FlowKey, header: &Header) -> Result<(), DropReason> {
    // A byte of 0 adds nothing to the sum.
    let (headers, _) = tcp_headers(envelope, &fields(key, header, 1), vonic_frame::Checksum::Full(0));
    let headers = headers.as_slice();
    let mut frame = [0; HEADER_MAX + 1];
    let frame = frame.get_mut(..=headers.len()).ok_or(DropReason::Oversized)?;
    frame[..headers.len()].copy_from_slice(headers);
    port.deliver(&VnetHeader::default(), frame, None)
}

/// The connection's name and the segment, from checked headers.
///
/// # Errors
/// `BadVnetHeader` where the partial checksum is not TCP's, `BadChecksum`.
pub fn read<'h>(
    port: &Port,
    inbound: &Inbound<'_, 'h>,
    ip: &Ip,
    tcp: &Tcp,
) -> Result<(FlowKey, Segment<'h>), DropReason> {
    check_sum(inbound, ip, (PROTOCOL_TCP, TCP_CHECKSUM), ip.transport_len)?;
    let start = usize::from(ip.transport_offset);
    let options = inbound.head.get(start + 20..start + usize::from(tcp.header_len)).ok_or(DropReason::Truncated)?;
    let key = FlowKey {
        port: port.spec.port,
        guest: SocketAddr::new(ip.src, tcp.src_port),
        remote: SocketAddr::new(ip.dst, tcp.dst_port),
    };
    let segment = Segment {
        seq: Seq(tcp.seq),
        ack: Seq(tcp.ack),
        flags: Flags(tcp.flags),
        window: tcp.window,
        options,
        len: tcp.payload_len,
    };
    Ok((key, segment))
}

/// Checks the checksum of a transport of `len` bytes, whose field stands `offset` bytes behind its start. A partial one needs no
/// check: the packet never left this machine's memory. A complete one is summed up.
///
/// # Errors
/// `BadVnetHeader` where the partial checksum is another protocol's, `BadChecksum`.
pub fn check_sum(
    inbound: &Inbound<'_, '_>,
    ip: &Ip,
    (protocol, offset): (u8, usize),
    len: u32,
) -> Result<(), DropReason> {
    if let Some(partial) = inbound.vnet.partial {
        let right = partial.start == ip.transport_offset && usize::from(partial.offset) == offset;
        return if right { Ok(()) } else { Err(DropReason::BadVnetHeader) };
    }
    let chains = inbound.chain..inbound.chain + 1;
    let sum = inbound.burst.sum(chains, inbound.start + u32::from(ip.transport_offset), len);
    let whole = Sum::default().pseudo(ip.src, ip.dst, protocol, len).word(sum);
    if whole.is_valid() { Ok(()) } else { Err(DropReason::BadChecksum) }
}
