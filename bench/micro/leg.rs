//! One TCP leg through a fixed life: handshake, payload from the guest, payload to the guest, both FINs; as the worker calls it, with
//! timestamps. The guest's segments are made before anything is counted.

use std::hint::black_box;

use anyhow::{Result, ensure};
use vonic_tcp::{
    Config, DEFAULT_MSS, Event, Flags, Instant, Keepalive, Leg, OptionBytes, Options, Segment, Seq, State, Timestamps,
    Transmit,
};

/// Data segments from the guest, and data frames to it.
pub const COUNT: u32 = 1000;
/// Frames to the guest before it acknowledges.
const ACK_EVERY: u32 = 2;

const MSS: u16 = 1460;
/// A segment's payload beside the timestamps option.
const PAYLOAD: u32 = MSS as u32 - 12;
const SCALE: u8 = 7;
const ROOM: u32 = 1 << 20;
/// Both directions pass 2³² on the way.
const IRS: Seq = Seq(u32::MAX - 500_000);
const ISS: Seq = Seq(u32::MAX - 700_000);
/// Microseconds from one segment to the next.
const STEP: u64 = 20;
/// The leg's TSval at instant 0.
const CLOCK: u32 = 1_000_000;

/// A segment of the guest and when it comes.
struct Arrival {
    now: Instant,
    flags: Flags,
    seq: Seq,
    ack: Seq,
    len: u32,
    options: OptionBytes,
}

impl Arrival {
    fn segment(&self) -> Segment<'_> {
        let Arrival { seq, ack, flags, len, .. } = *self;
        let window = if flags == Flags::SYN { 60_000 } else { (ROOM >> SCALE) as u16 };
        Segment { seq, ack, flags, window, options: self.options.as_slice(), len }
    }
}

/// The guest's side of the whole life.
struct Trace {
    /// SYN, and the handshake's ACK.
    opening: Vec<Arrival>,
    inward: Vec<Arrival>,
    acknowledgments: Vec<Arrival>,
    /// FIN, and the ACK of the leg's.
    closing: Vec<Arrival>,
}

impl Trace {
    fn new() -> Trace {
        let mut now = Instant(1_000_000);
        let mut arrival = |flags, taken: u32, acked: u32, len| {
            now = Instant(now.0 + STEP);
            let millis = (now.0 / 1000) as u32;
            let syn = flags == Flags::SYN;
            let options = Options {
                mss: syn.then_some(MSS),
                window_scale: syn.then_some(SCALE),
                sack_permitted: syn,
                timestamps: Some(Timestamps { val: 1 + millis, ecr: if syn { 0 } else { CLOCK + millis } }),
                ..Options::default()
            };
            let ack = if syn { Seq(0) } else { ISS + acked };
            Arrival { now, flags, seq: IRS + taken, ack, len, options: options.emit() }
        };
        let opening = vec![arrival(Flags::SYN, 0, 0, 0), arrival(Flags::ACK, 1, 1, 0)];
        let inward = (0..COUNT).map(|i| arrival(Flags::ACK, 1 + i * PAYLOAD, 1, PAYLOAD)).collect();
        let (taken, sent) = (1 + COUNT * PAYLOAD, 1 + COUNT * PAYLOAD);
        let acks = (1..=COUNT / ACK_EVERY).map(|i| arrival(Flags::ACK, taken, 1 + i * ACK_EVERY * PAYLOAD, 0));
        let acknowledgments = acks.collect();
        let closing =
            vec![arrival(Flags::FIN | Flags::ACK, taken, sent, 0), arrival(Flags::ACK, taken + 1, sent + 1, 0)];
        Trace { opening, inward, acknowledgments, closing }
    }
}

/// Takes everything that the leg has to send; how many segments, and how many bytes of payload.
fn drain(leg: &mut Leg, now: Instant, queued: &mut u32) -> (u32, u32) {
    let (mut segments, mut bytes) = (0, 0);
    while let Some(transmit) = leg.poll(now, PAYLOAD) {
        match transmit {
            Transmit::Control(header) | Transmit::Question(header) => {
                black_box(&header);
            }
            Transmit::Data(plan) => {
                let len = plan.max.min(*queued);
                let Some(header) = leg.sent(now, &plan, len) else { continue };
                black_box(&header);
                *queued -= len;
                bytes += len;
            }
        }
        segments += 1;
    }
    (segments, bytes)
}

/// Counted: the guest opens, the host's connect succeeds.
#[inline(never)]
fn measured_opening(config: &Config, trace: &Trace) -> (Leg, Option<Event>) {
    let [syn, ack] = trace.opening.as_slice() else { unreachable!("a handshake has two segments") };
    let mut leg = Leg::accept(config, &syn.segment(), ISS, syn.now);
    leg.set_window(ROOM);
    leg.host_connected(syn.now);
    black_box(drain(&mut leg, syn.now, &mut 0));
    let effect = leg.handle_segment(ack.now, &ack.segment());
    (leg, effect.event)
}

/// Counted: payload of the guest, each segment taken whole and acknowledged. Bytes taken, segments sent.
#[inline(never)]
fn measured_inward(leg: &mut Leg, trace: &Trace) -> (u32, u32) {
    let (mut taken, mut sent) = (0, 0);
    for arrival in &trace.inward {
        let effect = leg.handle_segment(arrival.now, &arrival.segment());
        let len = effect.payload.map_or(0, |payload| payload.end - payload.start);
        leg.taken(arrival.now, len);
        leg.set_window(ROOM);
        taken += len;
        sent += drain(leg, arrival.now, &mut 0).0;
    }
    (taken, sent)
}

/// Counted: payload to the guest, and its acknowledgments. Bytes sent, bytes acknowledged.
#[inline(never)]
fn measured_outward(leg: &mut Leg, trace: &Trace) -> (u32, u32) {
    let (mut sent, mut acked) = (0, 0);
    for arrival in &trace.acknowledgments {
        leg.host_readable();
        sent += drain(leg, arrival.now, &mut (ACK_EVERY * PAYLOAD)).1;
        acked += leg.handle_segment(arrival.now, &arrival.segment()).acked;
    }
    (sent, acked)
}

/// Counted: the guest's FIN, then the host's. The state that it ends in.
#[inline(never)]
fn measured_closing(leg: &mut Leg, trace: &Trace) -> State {
    let [fin, ack] = trace.closing.as_slice() else { unreachable!("a close has two segments") };
    black_box(leg.handle_segment(fin.now, &fin.segment()));
    leg.taken(fin.now, 0);
    black_box(drain(leg, fin.now, &mut 0));
    leg.host_finished(0);
    black_box(drain(leg, fin.now, &mut 0));
    black_box(leg.handle_segment(ack.now, &ack.segment()));
    leg.state()
}

/// Runs the whole life, and looks whether it went as it should.
pub fn run() -> Result<()> {
    let trace = Trace::new();
    // As the worker has it.
    let config = Config {
        timestamps: Some(CLOCK),
        keepalive: Some(Keepalive::DEFAULT),
        default_mss: DEFAULT_MSS,
        ..Config::new(MSS, SCALE)
    };
    let (mut leg, event) = measured_opening(&config, &trace);
    ensure!(event == Some(Event::Established), "the handshake ended in {event:?}");
    let (taken, acks) = measured_inward(&mut leg, &trace);
    ensure!((taken, acks) == (COUNT * PAYLOAD, COUNT), "the leg took {taken} bytes and sent {acks} segments");
    let (sent, acked) = measured_outward(&mut leg, &trace);
    ensure!((sent, acked) == (COUNT * PAYLOAD, COUNT * PAYLOAD), "{sent} bytes went to the guest, {acked} are known");
    let state = measured_closing(&mut leg, &trace);
    ensure!(state == State::Closed, "the connection ended in {state:?}");
    Ok(())
}
