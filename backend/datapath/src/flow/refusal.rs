//! What a guest's ICMP errors say about connections.
//!
//! While the guest has yet to answer the SYN of a forward, its firewall may answer by ICMP instead: the peer is told at once, as if it
//! had been a reset (RFC 5461 §3.1). A connection that is open is ended by no ICMP message: RFC 1122 §4.2.3.9 calls for it with some
//! codes, but whoever has answered segments before is reachable (RFC 5461 §2.2, RFC 5927 §5.2).
use crate::flow::table::FlowKey;
use crate::offload::Inbound;
use crate::spec::PortId;
use crate::worker::Worker;
use vonic_frame::{DropReason, Ip, icmp_sum, refused_segment};
use vonic_tcp::{Seq, State};

/// A segment of ours that the guest did not want.
pub struct Refused {
    key: FlowKey,
    seq: Seq,
}

/// The segment that a frame of the guest's is about; `None`: the frame is about something else.
///
/// # Errors
/// `BadChecksum`.
pub fn read(port: PortId, inbound: &Inbound<'_, '_>, ip: &Ip) -> Result<Option<Refused>, DropReason> {
    let Some((guest, remote, seq)) = refused_segment(inbound.head, ip) else { return Ok(None) };
    let (chains, start) = (inbound.chain..inbound.chain + 1, inbound.start + u32::from(ip.transport_offset));
    let sum = inbound.burst.sum(chains, start, ip.transport_len);
    if !icmp_sum(ip.src, ip.dst, ip.transport_len).word(sum).is_valid() {
        return Err(DropReason::BadChecksum);
    }
    Ok(Some(Refused { key: FlowKey { port, guest, remote }, seq: Seq(seq) }))
}

impl Worker {
    /// Ends a connection that is being opened to the guest, if that is what it refuses.
    ///
    /// # Errors
    /// `NoConnection` where there is none.
    pub(crate) fn guest_refuses(&mut self, refused: &Refused) -> Result<(), DropReason> {
        let id = self.flows.find(&refused.key).ok_or(DropReason::NoConnection)?;
        // A SYN has the oldest number that is unacknowledged.
        let opening = |leg: &vonic_tcp::Leg| leg.state() == State::SynSent && leg.snd_una() == refused.seq;
        if self.flows.get_mut(id).is_some_and(|flow| opening(&flow.leg)) {
            self.abort(id);
        }
        Ok(())
    }
}
