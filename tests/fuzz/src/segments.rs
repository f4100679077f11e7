//! Runs of TCP segments, put together as a receiver with large frames gets them, and cut again: the very same frames.
use std::net::IpAddr;

use vonic_frame::{
    Aggregate, Checksum, Envelope, Frame, HEADER_MAX, MacAddr, Segmenter, Sum, TcpFields, VnetHeader, tcp_headers,
};

use crate::bytes::Bytes;

const ACK: u8 = 0x10;
const PSH_FIN_CWR: u8 = 0x89;

/// What the next segment of the connection says.
struct State {
    v6: bool,
    seq: u32,
    ack: u32,
    window: u16,
    id: u16,
    options: Vec<u8>,
}

/// One byte: families, sizes and whether the receiver takes CWR; then some bytes for each segment.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let first = bytes.byte();
    let (v6, ecn) = (first & 1 != 0, first & 2 != 0);
    let size = [1, 2, 100, 536, 1448, 9000, 1447, 20_000][usize::from(first >> 2 & 7)];
    let options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let mut state = State { v6, seq: bytes.word(), ack: 7, window: 500, id: bytes.half(), options };
    let mut frames = Vec::new();
    while !bytes.is_empty() && frames.len() < 200 {
        frames.push(segment(&mut state, &mut bytes, size));
    }
    let large = coalesce(&frames, ecn);
    for (vnet, frame) in &large {
        assert!(frame.len() <= 14 + 65_535 + 40);
        assert!(ecn || !vnet.and_then(|vnet| vnet.gso).is_some_and(|gso| gso.ecn));
    }
    let again: Vec<Vec<u8>> = large.iter().flat_map(|(vnet, frame)| cut(*vnet, frame)).collect();
    assert_eq!(again.len(), frames.len());
    for (again, frame) in again.iter().zip(&frames) {
        assert!(same(again, frame), "{again:02x?}\n{frame:02x?}");
    }
}

/// The next segment: mostly what continues the one before, and a byte's worth of difference now and then.
fn segment(state: &mut State, bytes: &mut Bytes<'_>, size: usize) -> Vec<u8> {
    let (mut len, mut flags, mut patch) = (size, ACK, None);
    match bytes.byte() {
        0..140 => {}
        140..155 => len = 1 + bytes.below(size),
        155..165 => flags = bytes.byte(),
        165..170 => len = bytes.half() as usize % 9001,
        170..175 => state.seq = state.seq.wrapping_add(bytes.number() as u32),
        175..180 => state.ack = bytes.word(),
        180..185 => state.window = bytes.half(),
        185..190 => state.id = bytes.half(),
        190..195 => {
            state.options.resize(4 * bytes.below(11), 1);
            let at = bytes.below(state.options.len());
            if let Some(option) = state.options.get_mut(at) {
                *option = bytes.byte();
            }
        }
        195..200 => state.v6 = !state.v6,
        200..210 => flags = ACK | bytes.byte() & PSH_FIN_CWR,
        _ => patch = Some((bytes.below(74), bytes.byte())),
    }
    let ends = |v4: [u8; 4], v6: [u16; 8]| if state.v6 { IpAddr::from(v6) } else { IpAddr::from(v4) };
    let envelope = Envelope {
        src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        src: ends([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        dst: ends([192, 0, 2, 2], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
    };
    let fields = TcpFields {
        src_port: 4000,
        dst_port: 80,
        seq: state.seq,
        ack: state.ack,
        flags,
        window: state.window,
        options: &state.options,
        payload_len: len as u32,
    };
    let (headers, t) = tcp_headers(&envelope, &fields, Checksum::Partial);
    let mut frame = headers.as_slice().to_vec();
    frame.extend((0..len as u32).map(|i| (state.seq.wrapping_add(i) >> 3) as u8));
    if !state.v6 {
        frame[18..20].copy_from_slice(&state.id.to_be_bytes());
        frame[20] = 0x40;
    }
    if let Some((at, by)) = patch
        && let Some(byte) = frame.get_mut(at)
    {
        *byte ^= by;
    }
    finish(&mut frame, t.into());
    state.seq = state.seq.wrapping_add(len as u32);
    state.id = state.id.wrapping_add(1);
    frame
}

/// The checksums as they are right for these bytes; a receiver's frames have been checked.
fn finish(frame: &mut [u8], t: usize) {
    if frame[12..14] == [8, 0] {
        frame[24..26].fill(0);
        let sum = Sum::default().bytes(&frame[14..34.min(t)]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(parsed) = Frame::parse(&frame[..frame.len().min(HEADER_MAX)], frame.len() as u32) else { return };
    let vonic_frame::Content::Ip(ip) = parsed.content else { return };
    if let vonic_frame::Transport::Tcp(_) = ip.transport {
        let (from, to) =
            (usize::from(ip.transport_offset), (u32::from(ip.transport_offset) + ip.transport_len) as usize);
        frame[from + 16..from + 18].fill(0);
        let sum = Sum::default().pseudo(ip.src, ip.dst, ip.protocol, ip.transport_len).bytes(&frame[from..to]).finish();
        frame[from + 16..from + 18].copy_from_slice(&sum.to_be_bytes());
    }
}

struct Run {
    aggregate: Aggregate,
    text: Vec<u8>,
}

impl Run {
    fn end(self) -> (Option<VnetHeader>, Vec<u8>) {
        (self.aggregate.vnet(), [self.aggregate.headers().as_slice(), &self.text].concat())
    }
}

/// What a receiver gets of these frames. What is no frame goes by itself.
fn coalesce(frames: &[Vec<u8>], ecn: bool) -> Vec<(Option<VnetHeader>, Vec<u8>)> {
    let (mut out, mut open) = (Vec::new(), None::<Run>);
    for frame in frames {
        let head = &frame[..frame.len().min(HEADER_MAX)];
        let parsed = Frame::parse(head, frame.len() as u32).ok();
        if let (Some(run), Some(parsed)) = (&mut open, &parsed)
            && let Some(next) = run.aggregate.continues(head, parsed)
        {
            run.text.extend_from_slice(&frame[run.aggregate.headers_len()..]);
            if !run.aggregate.append(next) {
                out.extend(open.take().map(Run::end));
            }
            continue;
        }
        out.extend(open.take().map(Run::end));
        open = parsed.and_then(|parsed| Aggregate::begin(head, &parsed, ecn)).map(|aggregate| {
            let text = frame[aggregate.headers_len()..].to_vec();
            Run { aggregate, text }
        });
        if open.is_none() {
            out.push((None, frame.clone()));
        }
    }
    out.extend(open.map(Run::end));
    out
}

/// What it would have got without that.
fn cut(vnet: Option<VnetHeader>, frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(gso) = vnet.and_then(|vnet| vnet.gso) else { return vec![frame.to_vec()] };
    let head = &frame[..frame.len().min(HEADER_MAX)];
    let Ok(parsed) = Frame::parse(head, frame.len() as u32) else { panic!("what was put together is no frame") };
    let Ok(segments) = Segmenter::new(head, &parsed, gso) else { panic!("what was put together cannot be cut") };
    let whole = |mut segment: vonic_frame::Segment| {
        let text = &frame[segment.payload_offset as usize..][..segment.payload_len as usize];
        segment.partial.complete(&mut segment.headers, Sum::default().bytes(text).fold());
        [segment.headers.as_slice(), text].concat()
    };
    segments.map(whole).collect()
}

/// The same, but for the number of an atomic packet, which anybody may change (RFC 6864 §4.1), and the checksum over it; and a TCP checksum's two
/// values that mean the same sum, 0 and 0xffff.
fn same(one: &[u8], other: &[u8]) -> bool {
    let loose = |at: &usize| one.get(12..14) == Some(&[8, 0]) && [18, 19, 24, 25].contains(at);
    let (one, other) = (with_one_zero(one), with_one_zero(other));
    one.len() == other.len() && (0..one.len()).all(|at| one[at] == other[at] || loose(&at))
}

/// A TCP checksum of 0xffff as 0.
fn with_one_zero(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Ok(parsed) = Frame::parse(&frame[..frame.len().min(HEADER_MAX)], frame.len() as u32)
        && let vonic_frame::Content::Ip(ip) = parsed.content
        && let vonic_frame::Transport::Tcp(_) = ip.transport
    {
        let at = usize::from(ip.transport_offset) + 16;
        if frame[at..at + 2] == [0xff; 2] {
            frame[at..at + 2].fill(0);
        }
    }
    frame
}
