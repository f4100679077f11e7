//! ICMP echo: a guest's requests go out by ping sockets (icmp(7)), and what becomes of them is told by ICMP.
//!
//! The kernel gives each socket an identifier of its own and writes checksums; the guest sees its own identifier in every
//! reply and in every quoted request.
use super::open::Unopened;
use super::reassembly::Payload;
use super::table::DatagramId;
use super::{Datagram, Key, Kind};
use crate::flow::policy::{World, is_foreign};
use crate::offload::Inbound;
use crate::spec::PortId;
use crate::worker::Worker;
use std::io;
use std::net::{IpAddr, SocketAddr};
use vonic_frame::{
    Culprit, DropReason, ECHO_HEADER_LEN, EchoRequest, IcmpError, Ip, VnetHeader, echo_request, icmp_error, icmp_sum,
    restore_echo_id,
};
use vonic_uplink::Hops;
use vonic_uplink::classify::{SendError, send_error};

/// Errors of one flow that are told in one turn.
const ERRORS_A_TURN: usize = 16;

/// A guest's echo request, its checksum found right.
pub struct Echo {
    /// The flow that it belongs to.
    pub key: Key,
    request: EchoRequest,
    hops: Hops,
    /// Bytes of ICMP header and data.
    len: u32,
}

/// The echo request in a frame; `None`: it carries something else.
///
/// # Errors
/// `BadVnetHeader` for an unfinished checksum, which no driver leaves in ICMP; `BadChecksum`, `BadHeader`, `Truncated`.
pub fn read(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip) -> Result<Option<Echo>, DropReason> {
    let Some(request) = EchoRequest::read(inbound.head, ip)? else { return Ok(None) };
    if inbound.vnet.partial.is_some() {
        return Err(DropReason::BadVnetHeader);
    }
    let (chains, start) = (inbound.chain..inbound.chain + 1, inbound.start + u32::from(ip.transport_offset));
    let sum = inbound.burst.sum(chains, start, ip.transport_len);
    Echo::new(port, (ip.src, ip.dst), ip.ttl, request, (ip.transport_len, sum)).map(Some)
}

impl Echo {
    /// A request from the first of two addresses to the second; with its header it has `len` bytes, whose folded sum is `sum`.
    ///
    /// # Errors
    /// `BadHeader`, `BadChecksum`.
    pub fn new(
        port: PortId,
        (src, dst): (IpAddr, IpAddr),
        ttl: u8,
        request: EchoRequest,
        (len, sum): (u32, u16),
    ) -> Result<Echo, DropReason> {
        if ttl == 0 {
            return Err(DropReason::BadHeader);
        }
        // The kernel will write a new one, which would hide that this one is wrong.
        if !icmp_sum(src, dst, len).word(sum).is_valid() {
            return Err(DropReason::BadChecksum);
        }
        let guest = SocketAddr::new(src, request.id());
        let key = Key { kind: Kind::Echo, port, guest, remote: SocketAddr::new(dst, 0) };
        let hops = Hops { ttl, dont_fragment: request.dont_fragment };
        Ok(Echo { key, request, hops, len })
    }
}

/// Sends a request's data behind a new header.
fn send(flow: &mut Datagram, echo: &Echo, payload: &mut Payload<'_>) -> io::Result<()> {
    flow.last_len = echo.len;
    flow.largest = flow.largest.max(echo.len);
    let mut header = echo_request(flow.host.ip(), echo.request.sequence());
    let vecs = payload.behind(&mut header, echo.len - ECHO_HEADER_LEN as u32);
    if vecs.len_bytes() != echo.len as usize {
        // A chain of more pieces than one call takes.
        return Err(io::ErrorKind::WouldBlock.into());
    }
    flow.socket.send(echo.hops, &vecs)
}

impl Worker {
    /// Takes one echo request that a guest sent to the gateway's MAC, for an address beyond.
    pub(crate) fn guest_echo(&mut self, echo: &Echo, mut payload: Payload<'_>) -> Result<(), DropReason> {
        let id = match self.datagram_flow(echo.key) {
            Ok(id) => id,
            Err(Unopened::Dropped(reason)) => return Err(reason),
            Err(Unopened::NotPermitted) => {
                self.answer(echo, &IcmpError::unreachable(echo.key.remote.ip(), 13));
                return Err(DropReason::NotPermitted);
            }
            Err(Unopened::Failed(error)) => return self.refuse_echo(echo, &error, None),
        };
        let mut result = self.datagrams.get_mut(id).map_or(Ok(()), |flow| send(flow, echo, &mut payload));
        if result.is_err() && self.tell_errors(id) {
            // It was an earlier request's, and is told now.
            result = self.datagrams.get_mut(id).map_or(Ok(()), |flow| send(flow, echo, &mut payload));
        }
        match result {
            Ok(()) => {
                if let Some(port) = Worker::port_mut(&mut self.ports, echo.key.port) {
                    port.spec.stats.icmp.requests.add(1);
                }
                Ok(())
            }
            Err(error) => self.refuse_echo(echo, &error, Some(id)),
        }
    }

    /// Tells the guest why its request could not be sent.
    fn refuse_echo(&mut self, echo: &Echo, error: &io::Error, id: Option<DatagramId>) -> Result<(), DropReason> {
        let to = echo.key.remote.ip();
        let told = match send_error(error) {
            SendError::Busy => return Err(DropReason::HostBusy),
            SendError::Unreachable(code) => IcmpError::unreachable(to, code),
            SendError::TooBig => {
                let socket = id.and_then(|id| self.datagrams.get_mut(id)).map(|flow| &flow.socket);
                IcmpError::too_big(to, socket.and_then(|s| s.mtu().ok()).unwrap_or_default())
            }
        };
        self.answer(echo, &told);
        Ok(())
    }

    /// Answers a request by an error of vonic's own.
    fn answer(&mut self, echo: &Echo, error: &IcmpError) {
        self.tell(&echo.key, None, error, (echo.request.header, echo.len));
    }

    /// Tells the guest what became of requests that it sent before; false if there was nothing to tell.
    pub(crate) fn tell_errors(&mut self, id: DatagramId) -> bool {
        let mut told = false;
        for _ in 0..ERRORS_A_TURN {
            let Some(flow) = self.datagrams.get_mut(id) else { return told };
            let Some(error) = flow.socket.next_error() else { return told };
            let (key, len) = (flow.key, flow.last_len);
            // What this host's own kernel found, the call that failed has said already.
            let Some((kind, code)) = error.icmp else { continue };
            told = true;
            if let Some(message) = IcmpError::about_echo(flow.host.ip(), kind, code, error.mtu) {
                let request = restore_echo_id(error.quoted, key.guest.port());
                self.tell(&key, error.offender, &message, (request, len));
            }
        }
        if let Some(flow) = self.datagrams.get_mut(id) {
            flow.failed = true;
            self.datagrams.make_ready(id);
        }
        told
    }

    /// Sends the guest an ICMP error about its request, from the router or host that found it; from the gateway where that is
    /// vonic itself, or an address that the guest must not see.
    fn tell(&mut self, key: &Key, from: Option<IpAddr>, error: &IcmpError, request: ([u8; ECHO_HEADER_LEN], u32)) {
        let Some(port) = Worker::port_mut(&mut self.ports, key.port) else { return };
        let Some(network) = self.networks.get(port.spec.network as usize).and_then(|n| n.as_ref()) else { return };
        let world = World { host: &self.host, networks: &self.networks, listeners: &self.listen_addresses };
        let mut envelope = key.envelope(network.spec.gateway_mac, port.spec.mac);
        let gateway = network.spec.family(key.guest.ip()).gateway;
        let foreign = from.filter(|from| is_foreign(&world, *from));
        envelope.src = foreign.or(gateway).unwrap_or(envelope.src);
        let (header, len) = request;
        let about = Culprit::echo((key.guest.ip(), key.remote.ip()), header, len);
        let frame = icmp_error(&envelope, error, &about);
        match port.deliver(&VnetHeader::default(), frame.as_slice(), None) {
            Ok(()) => port.spec.stats.icmp.errors.add(1),
            Err(reason) => port.dropped_to_guest(reason),
        }
    }
}
