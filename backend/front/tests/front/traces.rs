//! What QEMU, UML and cloud-hypervisor really sent, replayed through front and session with memory files in place of theirs.
use crate::support::{Bench, Manner, STATE, Seen, Vmm, event, memory_file, with_master};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use vonic_front::{Message, Request};

const QEMU: &str = include_str!("../traces/qemu-11.1.txt");
/// Memory by ADD_MEM_REG, of which a DIMM was plugged in and out again, and RESET_DEVICE.
const QEMU_SLOTS: &str = include_str!("../traces/qemu-11.1-slots.txt");
/// A guest's way to another host, as its source and its target said it; the target's ends where the guest runs on.
const QEMU_SOURCE: &str = include_str!("../traces/qemu-11.1-migration-source.txt");
const QEMU_TARGET: &str = include_str!("../traces/qemu-11.1-migration-target.txt");
const UML: &str = include_str!("../traces/uml-7.2.txt");
const CLOUD_HYPERVISOR: &str = include_str!("../traces/cloud-hypervisor-53.txt");

/// One line: direction, code, flags, number of descriptors, body.
struct Line {
    from_vmm: bool,
    message: Message,
    fds: usize,
}

fn line(text: &str) -> Line {
    let field = |name: &str| text.split(' ').find_map(|word| word.strip_prefix(name)).unwrap();
    let hex = field("body=").as_bytes().chunks(2);
    let body = hex.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let flags = u32::from_str_radix(field("flags=0x"), 16).unwrap();
    let code = field("code=").parse().unwrap();
    let fds = field("fds=").parse().unwrap();
    Line { from_vmm: text.starts_with('>'), message: Message { code, flags, body, fds: Vec::new() }, fds }
}

/// Memory as large as the recorded regions ask for, events for all else.
fn descriptors(line: &Line) -> Vec<OwnedFd> {
    match line.message.request() {
        Some(Request::SetMemTable | Request::AddMemReg) => {}
        Some(Request::SetLogBase) => return vec![memory_file(line.message.u64_at(0).unwrap())],
        // A file takes a state as a pipe does, and gives one that is there.
        Some(Request::SetDeviceStateFd) => return vec![file_with(STATE, line.message.u32_at(0) == Some(1))],
        _ => return (0..line.fds).map(|_| event()).collect(),
    }
    let word = |region: usize, i: usize| line.message.u64_at(8 + region * 32 + i * 8).unwrap();
    (0..line.fds).map(|region| memory_file(word(region, 1) + word(region, 3))).collect()
}

/// A file, empty or with something to be read.
fn file_with(content: &[u8], full: bool) -> OwnedFd {
    let file = File::from(memory_file(0));
    if full {
        file.write_all_at(content, 0).unwrap();
    }
    file.into()
}

/// Sends what the VMM sent and checks each answer; the engine's events.
fn replay(bench: &Bench, vmm: &mut Vmm, trace: &str) {
    let lines: Vec<Line> = trace.lines().map(line).collect();
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.from_vmm) {
        let Message { code, flags, body, .. } = &line.message;
        let message = Message { code: *code, flags: *flags, body: body.clone(), fds: descriptors(line) };
        let (asks, request) = (message.needs_reply(), message.request().unwrap());
        message.send(&vmm.0).unwrap();
        if !asks && !request.has_reply() {
            continue;
        }
        let (answered, answer) = vmm.receive().unwrap_or_else(|| panic!("ended at line {i}: {request:?}"));
        assert_eq!(answered, *code, "line {i}");
        let recorded = lines.get(i + 1).filter(|next| !next.from_vmm).map(|next| &next.message.body);
        match request {
            // What is offered depends on the VM's file, as do its rings; but for what the VMM went on to acknowledge.
            Request::GetFeatures => {
                let acked = lines.iter().filter(|line| line.message.request() == Some(Request::SetFeatures));
                let acked = acked.fold(0, |bits, line| bits | line.message.u64_at(0).unwrap());
                let now = u64::from_ne_bytes(answer[..8].try_into().unwrap());
                assert_eq!(now & acked, acked, "line {i}");
            }
            Request::GetQueueNum => assert!(u64::from_ne_bytes(answer[..8].try_into().unwrap()) >= 2),
            // A session may offer more than the recorded backend did; a ring's position is its own.
            Request::GetProtocolFeatures => {
                let [now, then] = [&answer, recorded.unwrap()].map(|b| u64::from_ne_bytes(b[..8].try_into().unwrap()));
                assert_eq!(now & then, then, "line {i}: {request:?}");
            }
            Request::GetVringBase => assert_eq!((&answer[..4], &answer[4..]), (&body[..4], &[0; 4][..])),
            // QEMU asks for a byte more than the recorded backend had.
            Request::GetConfig => {
                assert_eq!(answer[12..18.min(answer.len())], recorded.unwrap()[12..18.min(answer.len())])
            }
            _ => assert_eq!(&answer, recorded.unwrap_or(&vec![0; 8]), "line {i}: {request:?}"),
        }
    }
    vmm.lives();
    assert!(bench.seen.try_recv().is_ok());
}

fn events_of(trace: &str) -> Vec<Seen> {
    let mut events = Vec::new();
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        let mut vmm = bench.connect("vm");
        replay(bench, &mut vmm, trace);
        drop(vmm);
        loop {
            match bench.next() {
                Seen::Disconnected(1) => break,
                event => events.push(event),
            }
        }
    });
    events
}

#[test]
fn qemu_with_its_early_enabling() {
    let events = events_of(QEMU);
    assert_eq!(events[0], Seen::Features(0x1_5000_9983));
    assert_eq!(events[1], Seen::Memory);
    // Call descriptors came before the start, so the rings start with them; enabled, because that was held back.
    for index in [0, 1] {
        let started = Seen::Ring { index, size: 256, enabled: true, kick: true, call: true };
        assert!(events.contains(&started), "{events:?}");
        assert!(events.contains(&Seen::RingStopped(index)), "{events:?}");
    }
    let stopped = events.iter().rposition(|e| matches!(e, Seen::RingStopped(_)));
    let started = events.iter().rposition(|e| matches!(e, Seen::Ring { .. }));
    assert!(stopped > started, "nothing starts after the last stop: {events:?}");
}

#[test]
fn qemu_with_memory_slots_and_resets() {
    let events = events_of(QEMU_SLOTS);
    // Two resets before the driver, each of which stops both rings first.
    let reset = [Seen::RingStopped(0), Seen::RingStopped(1), Seen::Reset];
    assert_eq!(events[..6], [reset.clone(), reset].concat(), "{events:?}");
    assert_eq!(events[6..8], [Seen::Features(0x1_7000_9983), Seen::Memory], "{events:?}");
    let started = |index| events.contains(&Seen::Ring { index, size: 256, enabled: true, kick: true, call: true });
    assert!(started(0) && started(1), "{events:?}");
    // Two DIMMs in, one of them out, over running rings.
    let memory = events.iter().filter(|e| **e == Seen::Memory).count();
    assert_eq!(memory, 4, "{events:?}");
    let last = events.iter().rposition(|e| *e == Seen::Memory).unwrap();
    assert!(!events[8..last].contains(&Seen::RingStopped(0)), "{events:?}");
}

#[test]
fn qemu_when_its_guest_leaves() {
    let events = events_of(QEMU_SOURCE);
    let place = |what: &dyn Fn(&Seen) -> bool| events.iter().rposition(what).unwrap_or_else(|| panic!("{events:?}"));
    let logs = place(&|e| matches!(e, Seen::Log { on: true, used } if used.iter().flatten().count() == 2));
    let stopped = place(&|e| matches!(e, Seen::RingStopped(_)));
    let saved = place(&|e| *e == Seen::Save);
    assert!(logs < stopped && stopped < saved, "{events:?}");
}

#[test]
fn qemu_when_a_guest_comes() {
    let events = events_of(QEMU_TARGET);
    assert!(events.contains(&Seen::Load(STATE.into())), "{events:?}");
    assert!(!events.contains(&Seen::Memory), "the state comes first: {events:?}");
}

#[test]
fn user_mode_linux() {
    let events = events_of(UML);
    assert_eq!(events[..2], [Seen::Features(0x1_5000_99a3), Seen::Memory]);
    for index in [0, 1] {
        assert!(events.contains(&Seen::Ring { index, size: 256, enabled: true, kick: true, call: true }), "{events:?}");
        let last = events.iter().rfind(|e| matches!(e, Seen::Ring { index: i, .. } if *i == index)).unwrap();
        assert!(
            matches!(last, Seen::Ring { enabled: false, .. }),
            "its driver disabled the rings at the end: {last:?}"
        );
    }
}

#[test]
fn cloud_hypervisor_which_only_asks() {
    let events = events_of(CLOUD_HYPERVISOR);
    assert!(!events.iter().any(|e| matches!(e, Seen::Ring { .. } | Seen::Memory)), "{events:?}");
}

#[test]
fn one_after_the_other_on_the_same_socket() {
    with_master(Manner::Serve, |bench| {
        bench.listen("vm");
        for (session, trace) in [QEMU, UML, CLOUD_HYPERVISOR, QEMU_SLOTS, UML].into_iter().enumerate() {
            let mut vmm = bench.connect("vm");
            replay(bench, &mut vmm, trace);
            drop(vmm);
            bench.until(&Seen::Disconnected(session as u64 + 1));
        }
    });
}
