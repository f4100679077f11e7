//! Cutting and putting together undo each other: whatever segments come, in large frames cut again they are the same bytes; and a large
//! frame that was cut is put together to itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use vonic_frame::{
    Aggregate, Checksum, Content, Envelope, Frame, Gso, GsoKind, HEADER_MAX, MacAddr, PartialChecksum, Segmenter, Sum,
    TcpFields, Transport, VnetHeader, tcp_checksum_holds, tcp_headers,
};

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 0x10;
const URG: u8 = 0x20;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// What a segment says.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    v6: bool,
    port: u16,
    seq: u32,
    ack: u32,
    window: u16,
    flags: u8,
    reserved: u8,
    options: Vec<u8>,
    class: u8,
    hops: u8,
    label: u8,
    id: u16,
    dont_fragment: bool,
    text: Vec<u8>,
    padding: usize,
}

fn first(v6: bool, size: usize) -> Segment {
    Segment {
        v6,
        port: 4000,
        seq: u32::MAX - 5000,
        ack: 77,
        window: 501,
        flags: ACK,
        reserved: 0,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        class: 0,
        hops: 64,
        label: 3,
        id: u16::MAX - 3,
        dont_fragment: true,
        text: text(0, size),
        padding: 0,
    }
}

fn text(from: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| from.wrapping_add(i)).map(|i| (i ^ i >> 8) as u8).collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

impl Segment {
    /// The whole frame, with right checksums.
    fn frame(&self) -> Vec<u8> {
        let ends = |v4: [u8; 4], v6: [u16; 8]| if self.v6 { IpAddr::from(v6) } else { IpAddr::from(v4) };
        let envelope = Envelope {
            src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            src: ends([192, 0, 2, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            dst: ends([192, 0, 2, 2], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]),
        };
        let fields = TcpFields {
            src_port: self.port,
            dst_port: 80,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: &self.options,
            payload_len: self.text.len() as u32,
        };
        let (headers, t) = tcp_headers(&envelope, &fields, Checksum::Partial);
        let mut frame = [headers.as_slice(), &self.text].concat();
        let t = usize::from(t);
        frame[t + 12] |= self.reserved;
        if self.v6 {
            frame[14] = 0x60 | self.class >> 4;
            frame[15] = self.class << 4;
            frame[17] = self.label;
            frame[21] = self.hops;
        } else {
            frame[15] = self.class;
            put(&mut frame, 18, self.id);
            frame[20] = if self.dont_fragment { 0x40 } else { 0 };
            frame[22] = self.hops;
        }
        finish(&mut frame, t);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// Writes the checksums of a whole frame.
fn finish(frame: &mut [u8], t: usize) {
    if u16_at(frame, 12) == 0x0800 {
        put(frame, 24, 0);
        let sum = Sum::default().bytes(&frame[14..t]).finish();
        put(frame, 24, sum);
    }
    put(frame, t + 16, 0);
    let parsed = Frame::parse(&frame[..frame.len().min(HEADER_MAX)], frame.len() as u32).unwrap();
    let Content::Ip(ip) = parsed.content else { panic!("{parsed:?}") };
    let sum = Sum::default().pseudo(ip.src, ip.dst, ip.protocol, ip.transport_len).bytes(&frame[t..]).finish();
    put(frame, t + 16, sum);
}

fn parse(frame: &[u8]) -> (&[u8], Frame) {
    let head = &frame[..frame.len().min(HEADER_MAX)];
    (head, Frame::parse(head, frame.len() as u32).unwrap())
}

/// A run of segments with their payload.
struct Run {
    aggregate: Aggregate,
    text: Vec<u8>,
}

impl Run {
    fn begin(frame: &[u8], ecn: bool) -> Option<Run> {
        let (head, parsed) = parse(frame);
        let aggregate = Aggregate::begin(head, &parsed, ecn)?;
        Some(Run { text: frame[aggregate.headers_len()..].to_vec(), aggregate })
    }

    /// `None`: it does not continue this; else whether something may follow it.
    fn take(&mut self, frame: &[u8]) -> Option<bool> {
        let (head, parsed) = parse(frame);
        let next = self.aggregate.continues(head, &parsed)?;
        self.text.extend_from_slice(&frame[self.aggregate.headers_len()..]);
        Some(self.aggregate.append(next))
    }

    fn end(&self) -> (Option<VnetHeader>, Vec<u8>) {
        (self.aggregate.vnet(), [self.aggregate.headers().as_slice(), &self.text].concat())
    }
}

/// What a receiver gets of these frames.
fn coalesce(frames: &[Vec<u8>], ecn: bool) -> Vec<(Option<VnetHeader>, Vec<u8>)> {
    let mut out = Vec::new();
    let mut open: Option<Run> = None;
    for frame in frames {
        if let Some(run) = &mut open {
            match run.take(frame) {
                Some(true) => continue,
                Some(false) => {
                    out.push(run.end());
                    open = None;
                    continue;
                }
                None => out.push(run.end()),
            }
        }
        open = Run::begin(frame, ecn);
        if open.is_none() {
            out.push((None, frame.clone()));
        }
    }
    out.extend(open.iter().map(Run::end));
    out
}

/// What the receiver would have got without it.
fn cut(frames: &[(Option<VnetHeader>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (vnet, frame) in frames {
        let Some(gso) = vnet.and_then(|vnet| vnet.gso) else {
            out.push(frame.clone());
            continue;
        };
        let (head, parsed) = parse(frame);
        assert_eq!(vnet.unwrap().partial, Some(PartialChecksum { start: transport(&parsed), offset: 16 }));
        for mut segment in Segmenter::new(head, &parsed, gso).unwrap() {
            let text = &frame[segment.payload_offset as usize..][..segment.payload_len as usize];
            segment.partial.complete(&mut segment.headers, Sum::default().bytes(text).fold());
            out.push([segment.headers.as_slice(), text].concat());
        }
    }
    out
}

fn transport(frame: &Frame) -> u16 {
    let Content::Ip(ip) = frame.content else { panic!("{frame:?}") };
    ip.transport_offset
}

/// What the next segment does. Most do nothing special.
#[derive(Clone, Copy, Debug)]
enum Step {
    Plain,
    Flags(u8),
    Short(usize),
    Long,
    Empty,
    Gap,
    Again,
    Ack,
    Window,
    Timestamp,
    MoreOptions,
    Class(u8),
    Hops,
    Label,
    Reserved,
    SameId,
    OtherId,
    Fragmentable,
    OtherFlow,
    OtherFamily,
    Padding,
}

fn steps() -> impl Strategy<Value = Step> {
    let special = prop_oneof![
        prop_oneof![
            Just(Step::Flags(ACK | PSH)),
            Just(Step::Flags(ACK | FIN)),
            Just(Step::Flags(ACK | FIN | PSH)),
            Just(Step::Flags(ACK | CWR)),
            Just(Step::Flags(ACK | ECE)),
            Just(Step::Flags(SYN)),
            Just(Step::Flags(ACK | URG)),
            Just(Step::Flags(0)),
        ],
        (1usize..100).prop_map(Step::Short),
        Just(Step::Long),
        Just(Step::Empty),
        Just(Step::Gap),
        Just(Step::Again),
        Just(Step::Ack),
        Just(Step::Window),
        Just(Step::Timestamp),
        Just(Step::MoreOptions),
        prop_oneof![Just(1u8), Just(2), Just(3), Just(0xb8)].prop_map(Step::Class),
        Just(Step::Hops),
        Just(Step::Label),
        Just(Step::Reserved),
        Just(Step::SameId),
        Just(Step::OtherId),
        Just(Step::Fragmentable),
        Just(Step::OtherFlow),
        Just(Step::OtherFamily),
        Just(Step::Padding),
    ];
    prop_oneof![4 => Just(Step::Plain), 1 => special]
}

/// The segments that come of these steps.
fn segments(v6: bool, size: usize, steps: &[Step]) -> Vec<Segment> {
    let mut out = Vec::new();
    let mut state = first(v6, size);
    for step in steps {
        let mut now = state.clone();
        match *step {
            Step::Plain => {}
            Step::Flags(flags) => now.flags = flags,
            Step::Short(by) => now.text.truncate(size.saturating_sub(by).max(1)),
            Step::Long => now.text = text(now.seq, size + 1),
            Step::Empty => now.text.clear(),
            Step::Gap => now.seq = now.seq.wrapping_add(1),
            Step::Again => now.seq = now.seq.wrapping_sub(size as u32),
            Step::Ack => (now.ack, state.ack) = (now.ack + 1, state.ack + 1),
            Step::Window => (now.window, state.window) = (now.window + 1, state.window + 1),
            Step::Timestamp => {
                now.options[7] = now.options[7].wrapping_add(1);
                state.options.clone_from(&now.options);
            }
            Step::MoreOptions => now.options.extend_from_slice(&[1, 1, 1, 1]),
            Step::Class(class) => now.class = class,
            Step::Hops => now.hops -= 1,
            Step::Label => now.label ^= 1,
            Step::Reserved => now.reserved = 1,
            Step::SameId => now.id = now.id.wrapping_sub(1),
            Step::OtherId => (now.id, state.id) = (now.id ^ 0x5555, now.id ^ 0x5555),
            Step::Fragmentable => now.dont_fragment = false,
            Step::OtherFlow => now.port ^= 1,
            Step::OtherFamily => now.v6 = !now.v6,
            Step::Padding => now.padding = 6,
        }
        state.seq = now.seq.wrapping_add(now.text.len() as u32);
        state.id = state.id.wrapping_add(1);
        state.text = text(state.seq, size);
        out.push(now);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_together_is_cut_into_the_very_same_frames(
        v6: bool,
        size in prop_oneof![Just(1usize), Just(2), Just(536), Just(1447), Just(1448), Just(9001)],
        steps in vec(steps(), 1..60),
        ecn: bool,
    ) {
        // Of atomic packets that all have one number, the numbers do not come back (RFC 6864 §4.1 lets anybody change them).
        let steps: Vec<Step> = steps.into_iter().filter(|step| !matches!(step, Step::SameId)).collect();
        let frames: Vec<Vec<u8>> = segments(v6, size, &steps).iter().map(Segment::frame).collect();
        let large = coalesce(&frames, ecn);
        for (vnet, frame) in &large {
            // A frame that says so by its header was meant for a receiver that takes it.
            prop_assert!(frame.len() <= 14 + 65535 && (ecn || !vnet.and_then(|vnet| vnet.gso).is_some_and(|gso| gso.ecn)));
        }
        prop_assert_eq!(cut(&large), frames);
    }

    #[test]
    fn what_was_cut_is_put_together_to_itself(
        v6: bool,
        len in 0usize..65_000,
        size in 1u16..,
        (flags, reserved, options) in (0u8..16, 0u8..2, 0usize..=10),
        (id, class) in (any::<u16>(), any::<u8>()),
    ) {
        let size = size.max((len / 2000) as u16 + 1);
        let options = vec![1; 4 * options];
        let flag = |bit: u8, is: u8| if flags & bit != 0 { is } else { 0 };
        let flags = ACK | flag(1, PSH) | flag(2, FIN) | flag(4, CWR) | flag(8, ECE);
        let len = len.min(65535 - 60 - options.len());
        let whole = Segment { flags, reserved, options, id, class, text: text(7, len), ..first(v6, 1) };
        let mut frame = whole.frame();
        let (_, parsed) = parse(&frame);
        let kind = if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
        let gso = Gso { kind, size, ecn: flags & CWR != 0 };
        let partial = PartialChecksum { start: transport(&parsed), offset: 16 };
        let vnet = VnetHeader { partial: Some(partial), data_valid: false, gso: Some(gso) };
        let pieces = cut(&[(Some(vnet), frame.clone())]);
        prop_assert_eq!(pieces.len(), len.div_ceil(usize::from(size)).max(1));
        let several = pieces.len() > 1;
        if several {
            let Content::Ip(ip) = parsed.content else { panic!() };
            let sum = Sum::default().pseudo(ip.src, ip.dst, ip.protocol, ip.transport_len).fold();
            put(&mut frame, usize::from(partial.start) + 16, sum);
        }
        prop_assert_eq!(coalesce(&pieces, true), [(several.then_some(vnet), frame)]);
    }
}

/// Each way in which a segment can differ from what would continue the one before.
#[test]
fn only_what_continues_is_taken_in() {
    for v6 in [false, true] {
        let taken = |step: Step| {
            let both = segments(v6, 1000, &[Step::Plain, step]);
            let mut run = Run::begin(&both[0].frame(), true).unwrap();
            run.take(&both[1].frame())
        };
        assert_eq!(taken(Step::Plain), Some(true));
        for last in [Step::Flags(ACK | PSH), Step::Flags(ACK | FIN), Step::Short(1)] {
            assert_eq!(taken(last), Some(false), "{last:?}");
        }
        let never = [
            Step::Flags(ACK | CWR),
            Step::Flags(ACK | ECE),
            Step::Flags(ACK | SYN),
            Step::Flags(ACK | URG),
            Step::Flags(0),
            Step::Long,
            Step::Empty,
            Step::Gap,
            Step::Again,
            Step::Ack,
            Step::Window,
            Step::Timestamp,
            Step::MoreOptions,
            Step::Class(3),
            Step::Hops,
            Step::Reserved,
            Step::OtherFlow,
            Step::OtherFamily,
            Step::Padding,
        ];
        for other in never {
            assert_eq!(taken(other), None, "{other:?}");
        }
        let of_family = |other| if v6 { Some(true) } else { other };
        assert_eq!(taken(Step::OtherId), of_family(None));
        assert_eq!(taken(Step::Fragmentable), of_family(None));
        // All atomic packets of a sender may have one number (RFC 6864 §4.1).
        assert_eq!(taken(Step::SameId), Some(true));
        assert_eq!(taken(Step::Label), if v6 { None } else { Some(true) });
    }
}

/// Some may not even begin one.
#[test]
fn nothing_is_begun_with_what_has_to_go_on_at_once() {
    let begins = |change: &dyn Fn(&mut Segment), ecn| {
        let mut segment = first(false, 1000);
        change(&mut segment);
        Run::begin(&segment.frame(), ecn).is_some()
    };
    assert!(begins(&|_| (), false));
    assert!(begins(&|s| s.flags = ACK | ECE, false));
    assert!(begins(&|s| s.flags = ACK | CWR, true));
    for flags in [ACK | CWR, ACK | PSH, ACK | FIN, ACK | SYN, SYN, ACK | URG, ACK | 4, 0] {
        assert!(!begins(&|s| s.flags = flags, false), "{flags:#x}");
    }
    assert!(!begins(&|s| s.text.clear(), false));
    assert!(!begins(&|s| s.padding = 6, false));
}

#[test]
fn a_wrong_checksum_is_seen() {
    for v6 in [false, true] {
        let mut frame = first(v6, 999).frame();
        let holds = |frame: &[u8]| {
            let (head, parsed) = parse(frame);
            let Content::Ip(ip) = parsed.content else { panic!() };
            let Transport::Tcp(tcp) = ip.transport else { panic!() };
            let end = usize::from(ip.transport_offset) + usize::from(tcp.header_len);
            tcp_checksum_holds(&head[..end], &parsed, Sum::default().bytes(&frame[end..]).fold())
        };
        assert!(holds(&frame));
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert!(!holds(&frame));
    }
}
