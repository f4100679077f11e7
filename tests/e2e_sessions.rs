//! VMMs come, go, crash at any point of their handshake, come again, and restart their rings: is anything of the others touched, does
//! anything stay behind in vonic, is a byte lost over a restarted ring?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use vm_memory::{Bytes, GuestAddress};
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{Chain, GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, code, feature, handshake};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// VMs whose VMMs come and go.
const RESTLESS: [(&str, u8); 4] = [("a", 2), ("b", 3), ("c", 4), ("d", 5)];

/// Two VMs that nothing may touch: they exchange frames, and one of them has a connection open.
struct Steady {
    x: HandGuest,
    y: HandGuest,
    line: Line,
    count: u16,
}

impl Steady {
    fn start(bed: &Bed) -> Steady {
        let mut x = HandGuest::start(bed, "x", 6, feature::ALL).unwrap();
        let y = HandGuest::start(bed, "y", 7, feature::ALL).unwrap();
        let line = Line::guest_opens(&mut x, 4000).unwrap();
        Steady { x, y, line, count: 0 }
    }

    /// A frame each way, and a piece of the stream each way.
    fn goes_on(&mut self, after: &str) {
        self.count += 1;
        let text = format!("frame {}", self.count);
        let there = frames::ping((mac(6), mac(7)), ip4(6), ip4(7), self.count, text.as_bytes());
        let back = frames::ping((mac(7), mac(6)), ip4(7), ip4(6), self.count, text.as_bytes());
        let Steady { x, y, line, .. } = self;
        let mut work = || -> Result<()> {
            x.mock.send_frame(&VnetHeader::default(), &there)?;
            y.mock.expect_frame("frame of x", seconds(5), |frame| frame == there)?;
            y.mock.send_frame(&VnetHeader::default(), &back)?;
            x.mock.expect_frame("frame of y", seconds(5), |frame| frame == back)?;
            line.exchange(x)
        };
        work().with_context(|| format!("x and y, after {after}")).unwrap();
    }
}

fn bed() -> Bed {
    let names = RESTLESS.into_iter().chain([("x", 6), ("y", 7), ("e", 8)]);
    Bed::start(&names.fold(TestConfig::default(), |config, (name, number)| config.vm(name, number, ""))).unwrap()
}

/// What vonic holds: descriptors by kind (one table for both processes), the engine's threads, its maps of guest memory.
fn holdings(bed: &mut Bed) -> BTreeMap<String, usize> {
    let engine = std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap();
    let (master, engine) = (format!("/proc/{}", bed.vonicd.process().pid()), format!("/proc/{}", engine.trim()));
    let mut held = BTreeMap::new();
    for entry in std::fs::read_dir(format!("{master}/fd")).unwrap() {
        // A descriptor may go between the listing and the look.
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let kind = target.to_string_lossy().split('[').next().unwrap_or_default().to_string();
        *held.entry(kind).or_default() += 1;
    }
    held.insert("threads".into(), std::fs::read_dir(format!("{engine}/task")).unwrap().count());
    let maps = std::fs::read_to_string(format!("{engine}/maps")).unwrap();
    held.insert("maps".into(), maps.matches("memfd:").count());
    held
}

/// [`holdings`] when nothing of them comes or goes any more, such as the connection of the last question to the API.
fn settled(bed: &mut Bed) -> BTreeMap<String, usize> {
    let (mut held, mut alike) = (BTreeMap::new(), 0);
    wait_until("a service at rest", seconds(10), || {
        let last = std::mem::replace(&mut held, holdings(bed));
        alike = if last == held { alike + 1 } else { 0 };
        alike == 50
    })
    .unwrap();
    held
}

fn holds_again(bed: &mut Bed, before: &BTreeMap<String, usize>) {
    let mut now = BTreeMap::new();
    let result = wait_until("what vonic held before", seconds(10), || {
        now = holdings(bed);
        now == *before
    });
    result.with_context(|| format!("before {before:?}, now {now:?}")).unwrap();
}

/// Where in its last message a VMM crashes.
#[derive(Debug, Clone, Copy)]
enum Crash {
    Answered,
    Unanswered,
    Torn,
}

impl Crash {
    const ALL: [Crash; 3] = [Crash::Answered, Crash::Unanswered, Crash::Torn];
}

/// A VMM that crashes in its message number `last`; false if there is no such message.
fn crash_in_handshake(bed: &Bed, vm: &str, last: usize, how: Crash) -> bool {
    let mut mock = MockFrontend::connect(&bed.socket(vm), MockConfig::default()).unwrap();
    let messages = handshake(&mut mock);
    let Some((request, body, files)) = messages.get(last) else { return false };
    for (request, body, files) in &messages[..last] {
        let reply = mock.raw().ask(*request, body, files).unwrap();
        let fine = matches!(*request, code::GET_FEATURES | code::GET_PROTOCOL_FEATURES);
        assert!(fine || reply.acknowledged() == Some(true), "{vm}: request {request} was answered {reply:?}");
    }
    let size = body.len() as u32;
    match how {
        Crash::Answered => drop(mock.raw().ask(*request, body, files).unwrap()),
        Crash::Unanswered => assert!(mock.raw().tell(*request, size, body, files).unwrap()),
        Crash::Torn => assert!(mock.raw().tell(*request, size.max(8), &body[..body.len() / 2], files).unwrap()),
    }
    true
}

#[test]
fn a_vmm_that_crashes_after_any_message_of_its_handshake_leaves_nothing_behind() {
    let mut bed = bed();
    let mut steady = Steady::start(&bed);
    let before = settled(&mut bed);
    for how in Crash::ALL {
        let mut last = 0;
        while crash_in_handshake(&bed, "a", last, how) {
            let what = format!("a crash of a in message {last}, {how:?}");
            steady.goes_on(&what);
            // At once: the old connection's end may not have been seen yet.
            drop(HandGuest::start(&bed, "a", 2, feature::ALL).context(what).unwrap());
            last += 1;
        }
        assert_eq!(last, 18);
        holds_again(&mut bed, &before);
    }
    drop(steady);
    bed.vonicd.stop().unwrap();
}

/// xorshift64*: a seed's sequence is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }
}

/// A VM whose VMM lives.
struct Live {
    guest: HandGuest,
    lines: Vec<Line>,
}

/// One step of a VM; its state after it.
fn step(bed: &Bed, (name, number): (&str, u8), live: Option<Live>, random: &mut Random, round: u16) -> Option<Live> {
    let Some(Live { mut guest, mut lines }) = live else {
        if random.below(2) == 0 {
            let how = Crash::ALL[random.below(3)];
            assert!(crash_in_handshake(bed, name, random.below(18), how));
            return None;
        }
        let guest = HandGuest::start(bed, name, number, feature::ALL).unwrap();
        return Some(Live { guest, lines: Vec::new() });
    };
    match random.below(6) {
        0 | 1 => {
            drop(guest);
            lines.into_iter().for_each(|line| line.host_sees_reset().unwrap());
            return None;
        }
        2 => drop(guest.mock.gateway_answers(number).unwrap()),
        3 => restart_ring(&mut guest.mock, random.below(2)),
        4 => lines.push(Line::guest_opens(&mut guest, 5000 + round).unwrap()),
        _ => {}
    }
    lines.iter_mut().for_each(|line| line.exchange(&mut guest).unwrap());
    Some(Live { guest, lines })
}

fn restart_ring(mock: &mut MockFrontend, index: usize) {
    let base = stop(mock, index);
    mock.start_ring(index).unwrap();
    // The index at which the driver stands is where the device stopped.
    assert_eq!(mock.ring(index).last_used, base);
}

/// Stops a ring and takes what the device used of it; the answer to GET_VRING_BASE, which is the used index in guest memory.
fn stop(mock: &mut MockFrontend, index: usize) -> u16 {
    let base = mock.stop_ring(index).unwrap();
    let at = GuestAddress(mock.ring(index).used + 2);
    assert_eq!(base, u16::from_le(mock.memory().load(at, Ordering::Acquire).unwrap()), "ring {index}");
    while mock.ring(index).last_used != base {
        assert!(mock.wait_used(index, seconds(0)).unwrap().is_some(), "ring {index}");
    }
    base
}

#[test]
fn vmms_come_and_go_in_any_order_and_nobody_else_notices() {
    let mut bed = bed();
    let mut steady = Steady::start(&bed);
    let mut e = bed.guest("e", 8, Vmm::Uml).unwrap();
    let mut server = bed.server().unwrap();
    let before = settled(&mut bed);
    let stream = format!("vonic-peer both 192.0.2.1:{} 8000057 $n", server.address().port());
    let streams = format!("n=0; until [ -e /run/stop ]; do {stream} || exit 1; n=$((n+1)); done; echo rounds $n");
    let job = e.spawn(&streams).unwrap();
    let seed = std::env::var("VONIC_SEED").map_or(20_261_121, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let mut vms: [Option<Live>; 4] = [const { None }; 4];
    for round in 0..250 {
        let place = random.below(4);
        vms[place] = step(&bed, RESTLESS[place], vms[place].take(), &mut random, round);
        steady.goes_on(&format!("round {round} of seed {seed}"));
    }
    drop(vms);
    e.must("touch /run/stop", seconds(5)).unwrap();
    let done = job.wait(&mut e, seconds(60)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let rounds: usize = done.stdout.rsplit_once("rounds ").unwrap().1.trim().parse().unwrap();
    assert!(rounds > 0);
    for _ in 0..rounds {
        let report = server.report(seconds(10)).unwrap();
        assert!(report["error"].is_null(), "{report}");
    }
    wait_until("the end of e's connections", seconds(60), || {
        bed.vonicd.vonic(&["conns", "--vm", "e", "--json"]).unwrap().as_array().unwrap().is_empty()
    })
    .unwrap();
    holds_again(&mut bed, &before);
    bed.vonicd.stop().unwrap();
}

/// What the driver makes available while a ring stands still is there when it runs again; a stream goes on over it.
#[test]
fn restarted_rings_lose_nothing() {
    let bed = bed();
    let mut steady = Steady::start(&bed);
    for round in 0..40 {
        let rings: &[usize] = [&[0][..], &[1], &[0, 1], &[1, 0]][round % 4];
        steady.line.host_sends().unwrap();
        rings.iter().for_each(|ring| restart_ring_with_work(&mut steady, *ring, round));
        steady.line.guest_receives(&mut steady.x).unwrap();
        steady.goes_on(&format!("restart {round} of {rings:?}"));
    }
    bed.vonicd.stop().unwrap();
}

fn restart_ring_with_work(steady: &mut Steady, index: usize, round: usize) {
    let Steady { x, y, .. } = steady;
    // Frames of the stream that came before the stop stay unread: for the driver they are lost, and vonic sends them again.
    let base = stop(&mut x.mock, index);
    let memory = x.mock.memory().clone();
    let (header, frame) = (
        VnetHeader::default().encode(),
        frames::ping((mac(6), mac(7)), ip4(6), ip4(7), round as u16, b"made available to a ring that stands still"),
    );
    if index == GUEST_TO_HOST {
        let chain = Chain { lengths: vec![12, frame.len() as u32], writable: false, indirect: false };
        let ring = x.mock.ring(index);
        ring.add(&memory, &chain, &[&header[..], &frame].concat()).unwrap();
        ring.kick.write(1).unwrap();
        // Nothing takes it as long as the ring stands still; y's own round trip shows that the worker has been round.
        y.mock.gateway_answers(7).unwrap();
        let used: u16 = memory.load(GuestAddress(x.mock.ring(index).used + 2), Ordering::Acquire).unwrap();
        assert_eq!(u16::from_le(used), base);
    }
    x.mock.start_ring(index).unwrap();
    x.mock.post_buffers().unwrap();
    if index == GUEST_TO_HOST {
        assert!(x.mock.wait_used(index, seconds(5)).unwrap().is_some());
        y.mock.expect_frame("frame from a restarted ring", seconds(5), |got| got == frame).unwrap();
    }
}

/// However fast a VMM comes and goes, the log tells each time, as long as its limit lasts.
#[test]
fn who_comes_and_goes_at_once_is_told_of() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    for round in 1..=5 {
        let mock = bed.mock("a", MockConfig::default()).unwrap();
        drop(mock);
        wait_until("the end of the session", seconds(5), || {
            !bed.vonicd.vm("a").unwrap()["connected"].as_bool().unwrap()
        })
        .unwrap();
        for what in ["a: VMM connected", "a: VMM disconnected"] {
            assert_eq!(bed.vonicd.log().matches(what).count(), round, "{what}: {}", bed.vonicd.log());
        }
    }
    bed.vonicd.stop().unwrap();
}
