//! Frames that are looked at before they are taken: those of a packet socket.
//!
//! Its kernel finishes nothing for a guest: large frames and partial checksums come up as they are. For a guest that cannot take
//! them they are cut and summed where they land. Their headers are known before they are read, so that each segment's payload is
//! read to where it belongs, and none is copied.
use super::{TCP_LEN, check_address, check_packet, destination};
use crate::coalescing::{Coalesce, Landed};
use crate::port::Port;
use vonic_frame::{
    DatagramSegmenter, DropReason, ETHERNET_LEN, Frame, HEADER_MAX, HeaderBytes, Offloads, PartialChecksum, Segment,
    Segmenter, VNET_HEADER_LEN, VnetHeader,
};
use vonic_queue::{Gather, Part};
use vonic_tcp::Instant;
use vonic_uplink::Cable;

/// Segments taken of one large frame; the kernel puts no more datagrams into one (UDP_MAX_SEGMENTS).
const SEGMENTS: usize = 128;
/// A field of the virtio-net header that only kernels use among themselves here (include/uapi/linux/virtio_net.h): a run of UDP
/// datagrams.
const GSO_UDP: u8 = 5;
/// What a kernel may leave unfinished.
const ANYTHING: Offloads = Offloads { csum: true, tso4: true, tso6: true, ecn: true };

/// What is known of a frame before it is taken.
struct Ahead {
    /// Its virtio-net header and leading bytes.
    front: [u8; VNET_HEADER_LEN + HEADER_MAX],
    /// Bytes of it, without the virtio-net header.
    len: u32,
}

/// How it goes to the guest.
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack: the data path allocates nothing")]
enum Form {
    /// As it is; its headers end so many bytes behind its start.
    Whole(VnetHeader, u16),
    /// As it is, with this checksum completed.
    Summed(PartialChecksum),
    /// In segments.
    Cut(Cutter),
}

#[derive(Clone)]
enum Cutter {
    Tcp(Segmenter),
    Udp(DatagramSegmenter),
}

impl Iterator for Cutter {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        match self {
            Cutter::Tcp(segments) => segments.next(),
            Cutter::Udp(datagrams) => datagrams.next(),
        }
    }
}

/// What there is of the buffers that a frame needs.
enum Room {
    There,
    /// The guest may post more.
    Later,
    /// It never posts more.
    Never,
}

/// Takes one frame of the cable; false if none waits, or none can be taken now.
pub(super) fn uplink_to_guest(port: &mut Port, cable: &Cable, gather: &mut Gather, how: (Coalesce, Instant)) -> bool {
    if !port.landing.is_busy() && posted(port).is_none() {
        return false;
    }
    let ahead = match look(cable) {
        Ok(Some(ahead)) => ahead,
        Ok(None) => {
            port.tap.readable = false;
            return false;
        }
        Err(reason) => return skip(port, cable, reason),
    };
    if !port.receive_filter.accepts(destination(ahead.head())) {
        cable.skip();
        return true;
    }
    port.tap.took += ahead.len;
    let form = ahead.form(port);
    if !matches!(form, Ok(Form::Whole(..))) || !port.awaits(ahead.head(), ahead.len) {
        // Whatever becomes of this one, it comes behind what is being put together.
        port.interrupt(how.1);
    }
    if !matches!(form, Ok(Form::Whole(..))) {
        port.settle(how.1);
    }
    let taken = match form {
        Ok(Form::Whole(vnet, headers_len)) => whole(port, cable, &ahead, (vnet, headers_len), how),
        Ok(Form::Summed(partial)) => sum_up(port, cable, &ahead, partial),
        Ok(Form::Cut(cutter)) => cut(port, cable, &cutter, gather),
        Err(reason) => return skip(port, cable, reason),
    };
    match taken {
        Room::There => true,
        Room::Later => false,
        Room::Never => skip(port, cable, DropReason::NoRoom),
    }
}

/// Looks at the next frame.
fn look(cable: &Cable) -> Result<Option<Ahead>, DropReason> {
    let (mut front, gap) = ([0; VNET_HEADER_LEN + HEADER_MAX], cable.header_gap());
    let Some(got) = cable.peek(&mut front[gap..]).map_err(|_| DropReason::BadVnetHeader)? else { return Ok(None) };
    front.copy_within(gap..VNET_HEADER_LEN, 0);
    front[VNET_HEADER_LEN - gap..VNET_HEADER_LEN].fill(0);
    let len = (got + gap).checked_sub(VNET_HEADER_LEN).ok_or(DropReason::Truncated)?;
    Ok(Some(Ahead { front, len: u32::try_from(len).map_err(|_| DropReason::Oversized)? }))
}

/// The next frame is lost, and counted.
fn skip(port: &mut Port, cable: &Cable, reason: DropReason) -> bool {
    cable.skip();
    port.tap.wanted = 1;
    port.dropped_to_guest(reason);
    true
}

impl Ahead {
    /// Its leading bytes.
    fn head(&self) -> &[u8] {
        let len = HEADER_MAX.min(self.len as usize);
        &self.front[VNET_HEADER_LEN..VNET_HEADER_LEN + len]
    }

    /// Decides how it goes to the guest.
    fn form(&self, port: &Port) -> Result<Form, DropReason> {
        let (can, mtu) = (port.negotiated.to_guest, port.spec.mtu);
        let vnet = self.front.first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::Truncated)?;
        check_address(port, self.head())?;
        if vnet[1] == GSO_UDP {
            let (mut plain, size) = (*vnet, u16::from_le_bytes([vnet[4], vnet[5]]));
            plain[1] = 0;
            let partial = VnetHeader::parse(&plain, self.len, ANYTHING)?.partial.ok_or(DropReason::BadVnetHeader)?;
            let datagrams = DatagramSegmenter::new(self.head(), self.len, partial, size)?;
            return check_first(Cutter::Udp(datagrams), mtu);
        }
        let header = VnetHeader::parse(vnet, self.len, ANYTHING)?;
        match (header.gso, header.partial) {
            (Some(gso), Some(partial)) if can.csum && can.takes(gso) => {
                let least = u32::from(partial.start) + TCP_LEN;
                check_packet(least + u32::from(gso.size), mtu)?;
                // The kernel's hint, within what it can be: no less than the headers, no more than the frame.
                let hint = u32::from(u16::from_le_bytes([vnet[2], vnet[3]]));
                Ok(Form::Whole(header, hint.max(least).min(self.len) as u16))
            }
            (Some(gso), _) => {
                let frame = Frame::parse(self.head(), self.len)?;
                check_first(Cutter::Tcp(Segmenter::new(self.head(), &frame, gso)?), mtu)
            }
            (None, partial) => {
                check_packet(self.len, mtu)?;
                let whole = VnetHeader { data_valid: header.data_valid && can.csum, ..header };
                match partial.filter(|_| !can.csum) {
                    Some(partial) if field_end(partial) > self.head().len() => Err(DropReason::BadVnetHeader),
                    Some(partial) => Ok(Form::Summed(partial)),
                    None => Ok(Form::Whole(whole, ETHERNET_LEN as u16)),
                }
            }
        }
    }
}

/// Where the checksum's field ends.
fn field_end(partial: PartialChecksum) -> usize {
    usize::from(partial.start) + usize::from(partial.offset) + 2
}

/// A frame in segments, the first of which is the longest.
fn check_first(cutter: Cutter, mtu: u16) -> Result<Form, DropReason> {
    let first = cutter.clone().next().ok_or(DropReason::BadVnetHeader)?;
    check_packet(first.headers.as_slice().len() as u32 + first.payload_len, mtu)?;
    Ok(Form::Cut(cutter))
}

/// Whether a frame for which `posted` chains are too few waits for more. How many the guest may post is judged by the most that it
/// ever had posted.
fn waits(port: &mut Port, posted: u16, patient: bool) -> bool {
    let half = (port.tap.most / 2).max(1);
    if posted > 0 && (!patient || posted >= half) {
        return false;
    }
    port.tap.wanted = posted.saturating_add(1).min(half);
    true
}

/// How many chains the guest has posted; `None`: still as few as were too few.
fn posted(port: &mut Port) -> Option<u16> {
    let posted = port.rx().available();
    port.tap.most = port.tap.most.max(posted);
    (posted >= port.tap.wanted).then_some(posted)
}

/// Takes a frame as it is, by itself or behind those that it continues.
fn whole(
    port: &mut Port,
    cable: &Cable,
    ahead: &Ahead,
    (vnet, headers_len): (VnetHeader, u16),
    how: (Coalesce, Instant),
) -> Room {
    let total = port.negotiated.header_len + ahead.len;
    let mut room = Room::Later;
    let Some(place) = port.place(total, how.1, |port| reserve_whole(port, total).map_err(|none| room = none).ok())
    else {
        return room;
    };
    if place.is_short {
        port.settle(how.1);
        return Room::Never;
    }
    let known = place.front - VNET_HEADER_LEN;
    let (mut again, gap) = ([0; VNET_HEADER_LEN + HEADER_MAX], cable.header_gap());
    let (front, rest) = (place.front - gap, ahead.len - known as u32);
    let vecs = port.rx_burst.iovecs_behind(
        &mut again[..front],
        front,
        place.chains.clone(),
        place.offset,
        rest.min(place.len),
    );
    if cable.receive(&vecs).ok().flatten() != Some(front + rest as usize) {
        port.dropped_to_guest(DropReason::Truncated);
        return Room::There;
    }
    let landed = Landed { head: &ahead.head()[..known], len: ahead.len, vnet, headers_len };
    if let Err(reason) = port.land(&place, &landed, how) {
        port.dropped_to_guest(reason);
    }
    Room::There
}

/// Reserves chains for so many bytes, those of the virtio-net header among them.
fn reserve_whole(port: &mut Port, total: u32) -> Result<u32, Room> {
    let posted = posted(port).ok_or(Room::Later)?;
    match port.reserve(total, total) {
        0 => {
            port.release();
            let patient = port.negotiated.mergeable;
            Err(if waits(port, posted, patient) { Room::Later } else { Room::Never })
        }
        room => {
            port.tap.wanted = 1;
            Ok(room)
        }
    }
}

/// Takes a frame with its checksum completed.
fn sum_up(port: &mut Port, cable: &Cable, ahead: &Ahead, partial: PartialChecksum) -> Room {
    let header_len = port.negotiated.header_len;
    if let Err(room) = reserve_whole(port, header_len + ahead.len) {
        return room;
    }
    let known = summed(ahead, partial);
    let mut headers = HeaderBytes::new(known);
    let (cut, mut again) = (known.len() as u32, [0; VNET_HEADER_LEN + HEADER_MAX]);
    let skipped = VNET_HEADER_LEN - cable.header_gap() + known.len();
    let (chains, rest) = (0..port.rx_burst.len(), ahead.len - cut);
    let vecs = port.rx_burst.iovecs_behind(&mut again[..skipped], skipped, chains.clone(), header_len + cut, rest);
    if cable.receive(&vecs).ok().flatten() != Some(skipped + rest as usize) {
        port.release();
        port.dropped_to_guest(DropReason::Truncated);
        return Room::There;
    }
    partial.complete(&mut headers, port.rx_burst.sum(chains, header_len + cut, rest));
    port.complete_segmented(&VnetHeader::default(), 0, headers.as_slice(), rest);
    Room::There
}

/// The leading bytes that are summed apart from the rest: they end an even number of bytes behind the start of the sum.
fn summed(ahead: &Ahead, partial: PartialChecksum) -> &[u8] {
    let head = ahead.head();
    let odd = if (head.len() as u32) < ahead.len { (head.len() - usize::from(partial.start)) % 2 } else { 0 };
    &head[..head.len() - odd]
}

/// Takes a large frame in segments: as many as there is room for, if the guest never posts more.
fn cut(port: &mut Port, cable: &Cable, cutter: &Cutter, gather: &mut Gather) -> Room {
    let Some(posted) = posted(port) else { return Room::Later };
    let mut places = [(0, 0); SEGMENTS];
    let (count, all) = reserve(port, cutter, &mut places);
    if count < all {
        if count < SEGMENTS && waits(port, posted, true) {
            port.release();
            return Room::Later;
        }
        if count == 0 {
            port.release();
            return Room::Never;
        }
        port.dropped_to_guest(DropReason::NoRoom);
    }
    port.tap.wanted = 1;
    let places = &places[..count];
    if read(port, cable, cutter, places, gather) {
        complete(port, cutter, places);
    } else {
        port.release();
        port.dropped_to_guest(DropReason::Truncated);
    }
    Room::There
}

/// Reserves chains for each segment; returns how many have theirs, and how many segments there are.
fn reserve(port: &mut Port, cutter: &Cutter, places: &mut [(usize, usize); SEGMENTS]) -> (usize, usize) {
    port.rx_burst.clear();
    let (mut count, mut all) = (0, 0);
    for segment in cutter.clone() {
        let bytes = port.negotiated.header_len + segment.headers.as_slice().len() as u32 + segment.payload_len;
        if count == all
            && let Some(place) = places.get_mut(count)
            && let Some(chains) = port.reserve_next(bytes)
        {
            *place = (chains.start, chains.end);
            count += 1;
        }
        all += 1;
    }
    (count, all)
}

/// Reads each segment's payload to where it belongs in its chains, and what there is no place for not at all; false if there was
/// another frame than was expected.
fn read(port: &Port, cable: &Cable, cutter: &Cutter, places: &[(usize, usize)], gather: &mut Gather) -> bool {
    let mut front = [0; VNET_HEADER_LEN + HEADER_MAX];
    let Some(headers_len) = cutter.clone().next().map(|first| first.headers.as_slice().len()) else { return false };
    let front_len = VNET_HEADER_LEN - cable.header_gap() + headers_len;
    let mut vecs = gather.start();
    vecs.host(&mut front[..front_len]);
    let (offset, mut wanted) = (port.negotiated.header_len + headers_len as u32, front_len);
    for (segment, &(start, end)) in cutter.clone().zip(places) {
        vecs.guest(Part { burst: &port.rx_burst, chains: start..end, offset, len: segment.payload_len });
        wanted += segment.payload_len as usize;
    }
    cable.receive(&vecs.finish()).ok().flatten() == Some(wanted)
}

/// Writes the headers in front of each segment's payload.
fn complete(port: &mut Port, cutter: &Cutter, places: &[(usize, usize)]) {
    let mut used = 0;
    for (mut segment, &(start, end)) in cutter.clone().zip(places) {
        let mut vnet = VnetHeader::default();
        if port.negotiated.to_guest.csum {
            vnet.partial = Some(segment.partial);
        } else {
            let offset = port.negotiated.header_len + segment.headers.as_slice().len() as u32;
            let rest = port.rx_burst.sum(start..end, offset, segment.payload_len);
            segment.partial.complete(&mut segment.headers, rest);
        }
        used = port.complete_in(start..end, &vnet, segment.headers.as_slice(), segment.payload_len);
    }
    port.release_behind(used);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::feature;
    use crate::switch::tests::member;
    use std::net::IpAddr;
    use vonic_frame::{Checksum, Envelope, Gso, GsoKind, MacAddr, TcpFields, tcp_headers};

    const CWR_ACK: u8 = 0x90;
    /// VIRTIO_NET_HDR_GSO_ECN.
    const GSO_ECN: u8 = 0x80;

    /// A TCP frame of 14 + 20 + 20 + `payload` bytes for member `to`, in segments of 1000.
    fn ahead(to: u8, payload: u32, gso_type: u8) -> Ahead {
        let envelope = Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, to]),
            src: IpAddr::from([192, 0, 2, 9]),
            dst: IpAddr::from([192, 0, 2, to]),
        };
        let fields = TcpFields {
            src_port: 80,
            dst_port: 4000,
            seq: 1,
            ack: 7,
            flags: CWR_ACK,
            window: 500,
            options: &[],
            payload_len: payload,
        };
        let (headers, _) = tcp_headers(&envelope, &fields, Checksum::Partial);
        let partial = Some(PartialChecksum { start: 34, offset: 16 });
        let gso = (gso_type != 0).then_some(Gso { kind: GsoKind::Tcp4, size: 1000, ecn: false });
        let mut front = [0; VNET_HEADER_LEN + HEADER_MAX];
        front[..VNET_HEADER_LEN].copy_from_slice(&VnetHeader { partial, data_valid: false, gso }.emit(54, 0));
        front[1] = gso_type;
        front[VNET_HEADER_LEN..][..54].copy_from_slice(headers.as_slice());
        Ahead { front, len: 54 + payload }
    }

    fn port(bits: u64) -> Port {
        let mut port = Port::new(member(2, true));
        port.set_features(feature::VERSION_1 | bits);
        port
    }

    /// What becomes of a frame: `whole`, `summed`, or how many segments with how many bytes.
    fn form(ahead: &Ahead, port: &Port) -> Result<(&'static str, usize, u32), DropReason> {
        Ok(match ahead.form(port)? {
            Form::Whole(vnet, headers_len) => ("whole", usize::from(headers_len), u32::from(vnet.partial.is_some())),
            Form::Summed(_) => ("summed", 0, 0),
            Form::Cut(cutter) => ("cut", cutter.clone().count(), cutter.map(|segment| segment.payload_len).sum()),
        })
    }

    #[test]
    fn each_guest_gets_a_frame_as_it_can_take_it() {
        let all = port(feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6);
        let (csum, none) = (port(feature::GUEST_CSUM), port(0));
        let large = ahead(2, 4500, 1);
        assert_eq!(form(&large, &all), Ok(("whole", 54, 1)));
        assert_eq!(form(&large, &csum), Ok(("cut", 5, 4500)));
        assert_eq!(form(&large, &none), Ok(("cut", 5, 4500)));
        let small = ahead(2, 1000, 0);
        assert_eq!(form(&small, &csum), Ok(("whole", 14, 1)));
        assert_eq!(form(&small, &none), Ok(("summed", 0, 0)));
        // CWR belongs to the first segment only, which nobody has told the guest's driver of (virtio 1.3 §5.1.3).
        let ecn = ahead(2, 4500, 1 | GSO_ECN);
        assert_eq!(form(&ecn, &all), Ok(("cut", 5, 4500)));
        let Ok(Form::Cut(cutter)) = ecn.form(&all) else { panic!() };
        let flags: Vec<u8> = cutter.map(|segment| segment.headers.as_slice()[47]).collect();
        assert_eq!(flags, [CWR_ACK, 0x10, 0x10, 0x10, 0x10]);
    }

    #[test]
    fn what_no_guest_can_take_has_a_reason() {
        let all = port(feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6);
        let mut narrow = port(0);
        narrow.spec.mtu = 1039;
        assert_eq!(form(&ahead(2, 4500, 1), &narrow), Err(DropReason::Oversized));
        assert_eq!(form(&ahead(2, 1000, 0), &narrow), Err(DropReason::Oversized));
        assert_eq!(form(&ahead(3, 10, 0), &all), Err(DropReason::UnknownDestination));
        // UDP over a TCP frame, IPv6 of IPv4, and a kind that there is not.
        assert_eq!(form(&ahead(2, 4500, GSO_UDP), &all), Err(DropReason::BadVnetHeader));
        assert_eq!(form(&ahead(2, 4500, 4), &port(feature::GUEST_CSUM)), Err(DropReason::BadVnetHeader));
        assert_eq!(form(&ahead(2, 4500, 3), &all), Err(DropReason::BadVnetHeader));
        let mut tagged = ahead(2, 100, 0);
        tagged.front[VNET_HEADER_LEN + 12..][..2].copy_from_slice(&[0x81, 0]);
        assert_eq!(form(&tagged, &all), Err(DropReason::VlanTagged));
        let mut far = ahead(2, 1000, 0);
        far.front[6..8].copy_from_slice(&200u16.to_le_bytes());
        assert_eq!(form(&far, &port(0)), Err(DropReason::BadVnetHeader));
        let short = Ahead { len: 13, ..ahead(2, 10, 0) };
        assert_eq!(form(&short, &all), Err(DropReason::Truncated));
    }
}
