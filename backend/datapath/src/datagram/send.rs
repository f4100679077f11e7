//! From the guest to the host: its datagrams, straight from its buffers.
use super::reassembly::Payload;
use super::table::DatagramId;
use super::{Datagram, HEADER_LEN, Key, Kind, Quote, echo};
use crate::flow::guest_side::Place;
use crate::worker::Worker;
use std::io;
use vonic_frame::DropReason;
use vonic_uplink::Hops;

/// A guest's datagram for an address beyond the gateway, its checksum found right.
pub struct Outgoing {
    /// The flow that it belongs to.
    pub key: Key,
    /// How far it may go, and in how many pieces.
    pub hops: Hops,
    /// As an ICMP error would quote it.
    pub quote: Quote,
    /// Where its payload lies in its frame; without meaning where it came in fragments.
    pub place: Place,
    /// Bytes of payload.
    pub len: u32,
}

impl Worker {
    /// Takes one datagram that a guest sent to the gateway's MAC.
    pub(crate) fn guest_datagram(&mut self, datagram: &Outgoing, payload: &mut Payload<'_>) -> Result<(), DropReason> {
        let id = match self.datagram_flow(datagram.key) {
            Ok(id) => id,
            Err(unopened) => return self.tell_unopened(datagram, unopened),
        };
        let mut result = self.try_send(id, datagram, payload);
        if result.is_err() && self.tell_errors(id) {
            // It was an earlier datagram's, and is told now.
            result = self.try_send(id, datagram, payload);
        }
        match result {
            Ok(()) => {
                self.datagram_sent(id, datagram);
                Ok(())
            }
            Err(error) => self.tell_unsent(datagram, &error, Some(id)),
        }
    }

    fn try_send(&mut self, id: DatagramId, datagram: &Outgoing, payload: &mut Payload<'_>) -> io::Result<()> {
        self.datagrams.get_mut(id).map_or(Ok(()), |flow| send(flow, datagram, payload))
    }

    fn datagram_sent(&mut self, id: DatagramId, datagram: &Outgoing) {
        let now = self.now;
        let Some(flow) = self.datagrams.get_mut(id) else { return };
        flow.sent.count(datagram.len);
        let class = flow.class();
        self.records.speaks(flow);
        self.datagrams.touch(id, class, now);
        let Some(port) = Worker::port_mut(&mut self.ports, datagram.key.port) else { return };
        match datagram.key.kind {
            Kind::Echo => port.spec.stats.icmp.requests.add(1),
            Kind::Udp => {
                port.spec.stats.udp.datagrams_guest_to_host.add(1);
                port.spec.stats.udp.bytes_guest_to_host.add(u64::from(datagram.len));
            }
        }
    }
}

/// Gives a datagram's payload to the flow's socket, an echo's behind a new header.
fn send(flow: &mut Datagram, datagram: &Outgoing, payload: &mut Payload<'_>) -> io::Result<()> {
    flow.last = datagram.quote;
    flow.longest = flow.longest.max(datagram.quote.len);
    let mut header = echo::header(flow.host.ip(), &datagram.quote.header);
    // UDP's is the kernel's affair.
    let header_len = if datagram.key.kind == Kind::Echo { HEADER_LEN } else { 0 };
    let wanted = header_len + datagram.len as usize;
    let vecs = payload.iovecs(&mut header[..header_len], datagram.place, datagram.len);
    if vecs.len_bytes() != wanted {
        // A chain of more pieces than one call takes.
        return Err(io::ErrorKind::WouldBlock.into());
    }
    flow.far.send(datagram.hops, &vecs, flow.host)
}
