//! From one guest to another: what the receiver did not negotiate is done in software.
use crate::port::{FRAME_MAX, Port, Source};
use crate::stats::Counter;
use vonic_frame::{
    Content, DropReason, ETHERNET_LEN, Frame, Gso, HeaderBytes, PartialChecksum, Segmenter, Transport, VnetHeader,
};
use vonic_queue::Burst;

/// A frame as a guest sent it. Its leading bytes were copied once; decisions look only at those.
pub struct Inbound<'a, 'h> {
    /// The burst that holds its chain.
    pub burst: &'a Burst,
    /// Which chain.
    pub chain: usize,
    /// Where the Ethernet header starts in the chain.
    pub start: u32,
    /// What its virtio-net header says.
    pub vnet: VnetHeader,
    /// Its leading bytes.
    pub head: &'h [u8],
    /// What they say.
    pub frame: Frame,
}

impl Inbound<'_, '_> {
    /// The frame's bytes from `offset` on, as payload to be copied.
    fn payload<'a>(&'a self, offset: u32, len: u32, copied: &'a Counter) -> Source<'a> {
        Source { burst: self.burst, chain: self.chain, offset: self.start + offset, len, copied }
    }
}

/// Copies a frame into another guest's ring: one copy, in as few frames as the receiver can take.
///
/// # Errors
/// Why the frame, or its first segment that did not fit, was dropped.
pub fn forward(inbound: &Inbound<'_, '_>, to: &mut Port, copied: &Counter) -> Result<(), DropReason> {
    check_size(inbound, to)?;
    let can = to.negotiated.to_guest;
    match (inbound.vnet.gso, inbound.vnet.partial) {
        (Some(gso), _) if !can.takes(gso) => segment(inbound, gso, to, copied),
        (None, Some(partial)) if !can.csum => {
            let mut headers = leading(inbound, Some(partial));
            let cut = headers.as_slice().len() as u32;
            let rest = inbound.burst.sum(chain(inbound), inbound.start + cut, inbound.frame.len - cut);
            partial.complete(&mut headers, rest);
            copy(inbound, &VnetHeader::default(), headers.as_slice(), cut, inbound.frame.len - cut, to, copied)
        }
        (gso, partial) => {
            let vnet = VnetHeader { partial, gso, data_valid: false };
            let headers = leading(inbound, partial);
            let cut = headers.as_slice().len() as u32;
            // hdr_len is what a receiver may pull in one go: exact for segmented frames, harmless otherwise.
            copy(inbound, &vnet, headers.as_slice(), cut, inbound.frame.len - cut, to, copied)
        }
    }
}

fn chain(inbound: &Inbound<'_, '_>) -> std::ops::Range<usize> {
    inbound.chain..inbound.chain + 1
}

/// The checked leading bytes that are written as headers: of a TCP frame exactly its headers; the rest is payload. They end
/// an even number of bytes behind the start of the checksum.
pub fn leading(inbound: &Inbound<'_, '_>, partial: Option<PartialChecksum>) -> HeaderBytes {
    let mut cut = inbound.head.len();
    if let Content::Ip(ip) = inbound.frame.content
        && let Transport::Tcp(tcp) = ip.transport
    {
        cut = usize::from(ip.transport_offset) + usize::from(tcp.header_len);
    }
    if let Some(p) = partial
        && cut < inbound.frame.len as usize
    {
        cut -= (cut - usize::from(p.start).min(cut)) % 2;
    }
    HeaderBytes::new(&inbound.head[..cut.min(inbound.head.len())])
}

/// No packet beyond the receiver's MTU; of a large frame each segment counts.
fn check_size(inbound: &Inbound<'_, '_>, to: &Port) -> Result<(), DropReason> {
    let packet = match (inbound.vnet.gso, inbound.frame.content) {
        (Some(gso), Content::Ip(ip)) => {
            let Transport::Tcp(tcp) = ip.transport else { return Err(DropReason::BadVnetHeader) };
            let headers = u32::from(ip.transport_offset) - ETHERNET_LEN as u32 + u32::from(tcp.header_len);
            headers + u32::from(gso.size).min(tcp.payload_len)
        }
        (Some(_), _) => return Err(DropReason::BadVnetHeader),
        (None, _) => inbound.frame.len - ETHERNET_LEN as u32,
    };
    if packet > u32::from(to.spec.mtu) || inbound.frame.len > FRAME_MAX {
        return Err(DropReason::Oversized);
    }
    Ok(())
}

/// Software segmentation: each segment is a frame of its own.
fn segment(inbound: &Inbound<'_, '_>, gso: Gso, to: &mut Port, copied: &Counter) -> Result<(), DropReason> {
    let csum = to.negotiated.to_guest.csum;
    for mut s in Segmenter::new(inbound.head, &inbound.frame, gso)? {
        let vnet = if csum {
            VnetHeader { partial: Some(s.partial), ..Default::default() }
        } else {
            let rest = inbound.burst.sum(chain(inbound), inbound.start + s.payload_offset, s.payload_len);
            s.partial.complete(&mut s.headers, rest);
            VnetHeader::default()
        };
        copy(inbound, &vnet, s.headers.as_slice(), s.payload_offset, s.payload_len, to, copied)?;
    }
    Ok(())
}

fn copy(
    inbound: &Inbound<'_, '_>,
    vnet: &VnetHeader,
    headers: &[u8],
    offset: u32,
    len: u32,
    to: &mut Port,
    copied: &Counter,
) -> Result<(), DropReason> {
    to.deliver(vnet, headers, Some(&inbound.payload(offset, len, copied)))?;
    // Headers were copied too: the promise counts whole frames.
    copied.add(headers.len() as u64);
    Ok(())
}
