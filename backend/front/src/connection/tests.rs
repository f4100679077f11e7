use super::*;
use crate::message::Request::*;
use crate::testing::{memory_file, number, ring, table};

const FEATURES: u64 = 1 << 32 | 1 << 30;
const PROTOCOL: u64 = 0xa209;

/// A connection between a VMM and an engine that are both this test.
struct Bench {
    connection: Connection,
    vmm: UnixStream,
    vmm_reader: Reader,
    engine: UnixStream,
    engine_reader: Reader,
    now: Instant,
}

impl Bench {
    /// With a session attached and its handshake done.
    fn new() -> Bench {
        let now = Instant::now();
        let ((ours, vmm), (session, engine)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        for socket in [&ours, &vmm, &engine] {
            socket.set_nonblocking(true).unwrap();
        }
        let mut connection = Connection::new(ours, VmLog::new("test"), Duration::from_secs(10), now);
        assert!(!connection.reads_vmm(), "nothing is read before there is a session");
        connection.attach(session.into(), now).unwrap();
        let (vmm_reader, engine_reader) = (Reader::default(), Reader::default());
        let mut bench = Bench { connection, vmm, vmm_reader, engine, engine_reader, now };
        let answers =
            [(GetFeatures, FEATURES), (GetProtocolFeatures, PROTOCOL), (SetProtocolFeatures, 0), (GetQueueNum, 2)];
        for (request, value) in answers {
            let asked = bench.at_engine().unwrap();
            assert_eq!(asked.request(), Some(request));
            assert_eq!(asked.needs_reply(), !request.has_reply());
            assert!(!bench.connection.reads_vmm());
            bench.engine_says(&asked, value).unwrap();
        }
        assert!(bench.connection.reads_vmm() && bench.connection.due().is_none());
        bench
    }

    fn at_engine(&mut self) -> Option<Message> {
        self.engine_reader.read(&self.engine).unwrap()
    }

    fn at_vmm(&mut self) -> Option<Message> {
        self.vmm_reader.read(&self.vmm).unwrap()
    }

    fn engine_says(&mut self, asked: &Message, value: u64) -> Result<(), End> {
        Message::reply(asked.code, value.to_ne_bytes().to_vec()).send(&self.engine).unwrap();
        self.connection.session_ready(self.now)
    }

    fn vmm_says(&mut self, mut message: Message, asks: bool) -> Result<(), End> {
        message.set_needs_reply(asks);
        message.send(&self.vmm).unwrap();
        self.connection.vmm_ready(self.now)
    }

    /// The VMM's message is passed on, and the engine agrees.
    fn agreed(&mut self, message: Message, asks: bool) {
        let code = message.code;
        self.vmm_says(message, asks).unwrap();
        let asked = self.at_engine().unwrap();
        assert!(asked.code == code && asked.needs_reply());
        self.engine_says(&asked, 0).unwrap();
    }
}

#[test]
fn an_acknowledgement_reaches_the_vmm_only_if_it_asked() {
    let mut bench = Bench::new();
    bench.agreed(Message::new(SetOwner, vec![]), false);
    assert!(bench.at_vmm().is_none());
    bench.agreed(number(SetFeatures, FEATURES), true);
    let reply = bench.at_vmm().unwrap();
    assert_eq!((reply.code, reply.flags, reply.u64_at(0)), (2, 5, Some(0)));
}

#[test]
fn one_message_is_in_flight_and_the_vmm_waits() {
    let mut bench = Bench::new();
    number(SetFeatures, FEATURES).send(&bench.vmm).unwrap();
    ring(SetVringNum, 0, 256).send(&bench.vmm).unwrap();
    bench.connection.vmm_ready(bench.now).unwrap();
    let first = bench.at_engine().unwrap();
    assert_eq!(first.request(), Some(SetFeatures));
    assert!(bench.at_engine().is_none() && !bench.connection.reads_vmm());
    assert_eq!(bench.connection.due(), Some(bench.now + Duration::from_secs(10)));
    assert!(bench.connection.overdue().to_string().contains("SetFeatures"));
    bench.engine_says(&first, 0).unwrap();
    assert!(bench.connection.reads_vmm());
    bench.connection.vmm_ready(bench.now).unwrap();
    assert_eq!(bench.at_engine().unwrap().request(), Some(SetVringNum));
}

#[test]
fn early_enabling_is_acknowledged_at_once_and_follows_features() {
    let mut bench = Bench::new();
    for index in [0, 1] {
        bench.vmm_says(ring(SetVringEnable, index, 1), true).unwrap();
        let reply = bench.at_vmm().unwrap();
        assert_eq!((reply.code, reply.u64_at(0)), (18, Some(0)));
    }
    assert!(bench.at_engine().is_none());
    bench.agreed(number(SetFeatures, FEATURES), false);
    for index in [0, 1] {
        assert!(!bench.connection.reads_vmm(), "the VMM waits until its rings are enabled");
        let asked = bench.at_engine().unwrap();
        assert_eq!((asked.request(), asked.u32_at(0), asked.u32_at(4)), (Some(SetVringEnable), Some(index), Some(1)));
        bench.engine_says(&asked, 0).unwrap();
    }
    assert!(bench.at_vmm().is_none() && bench.connection.reads_vmm());
}

#[test]
fn refusals_hit_one_message_if_the_vmm_asked_and_the_connection_if_not() {
    let mut bench = Bench::new();
    bench.vmm_says(ring(SetVringNum, 9, 256), true).unwrap();
    assert_eq!(bench.at_vmm().unwrap().u64_at(0), Some(1));
    let too_large = || table(&[[0, 1 << 30, 0, 0]], vec![memory_file(4096)]);
    bench.vmm_says(too_large(), true).unwrap();
    assert_eq!(bench.at_vmm().unwrap().u64_at(0), Some(1));
    assert!(bench.at_engine().is_none());
    let end = bench.vmm_says(too_large(), false).unwrap_err().to_string();
    assert!(end.contains("its file has only 0x1000 bytes"), "{end}");
    assert!(Bench::new().vmm_says(ring(GetVringBase, 9, 0), true).is_err(), "no answer of its kind says no");
}

#[test]
fn a_reset_is_acknowledged_when_every_ring_has_stopped() {
    let mut bench = Bench::new();
    bench.agreed(number(SetProtocolFeatures, PROTOCOL), false);
    bench.agreed(number(SetFeatures, FEATURES), false);
    bench.agreed(ring(SetVringNum, 0, 256), false);
    bench.vmm_says(Message::new(ResetDevice, vec![]), true).unwrap();
    for index in [0, 1] {
        let stop = bench.at_engine().unwrap();
        assert_eq!((stop.request(), stop.u32_at(0)), (Some(GetVringBase), Some(index)));
        bench.engine_says(&stop, 7 << 32 | u64::from(index)).unwrap();
        assert!(bench.at_vmm().is_none() && !bench.connection.reads_vmm());
    }
    let reset = bench.at_engine().unwrap();
    assert_eq!((reset.request(), reset.needs_reply()), (Some(ResetDevice), true));
    bench.engine_says(&reset, 0).unwrap();
    let reply = bench.at_vmm().unwrap();
    assert_eq!((reply.code, reply.u64_at(0)), (34, Some(0)));
    let kept: Vec<_> = bench.connection.journal.replay().iter().map(|m| m.request().unwrap()).collect();
    assert_eq!(kept, [SetProtocolFeatures]);
}

#[test]
fn unknown_requests_never_end_a_connection() {
    let mut bench = Bench::new();
    for code in [22, 35, 44, 4711] {
        bench.vmm_says(Message { code, ..Message::new(SetOwner, vec![0; 16]) }, false).unwrap();
        assert!(bench.at_vmm().is_none());
        bench.vmm_says(Message { code, ..Message::new(SetOwner, vec![0; 16]) }, true).unwrap();
        let reply = bench.at_vmm().unwrap();
        assert_eq!((reply.code, reply.u64_at(0)), (code, Some(1)));
    }
    assert!(bench.at_engine().is_none());
}

#[test]
fn the_engines_refusal_is_passed_on_and_not_remembered() {
    let mut bench = Bench::new();
    bench.vmm_says(number(SetFeatures, FEATURES), true).unwrap();
    let asked = bench.at_engine().unwrap();
    bench.engine_says(&asked, 1).unwrap();
    assert_eq!(bench.at_vmm().unwrap().u64_at(0), Some(1));
    assert!(bench.connection.journal.replay().is_empty());
    bench.vmm_says(ring(SetVringEnable, 0, 1), true).unwrap();
    assert!(bench.at_engine().is_none(), "features are not acknowledged yet: still held");
    bench.agreed(number(SetFeatures, FEATURES), false);
    assert_eq!(bench.connection.journal.replay().len(), 1);
}

#[test]
fn replies_that_nobody_asked_for_end_the_connection() {
    let mut bench = Bench::new();
    Message::reply(1, vec![0; 8]).send(&bench.vmm).unwrap();
    assert!(matches!(bench.connection.vmm_ready(bench.now), Err(End::Fault(_))));

    let mut bench = Bench::new();
    let end = bench.engine_says(&number(SetFeatures, 0), 0);
    assert!(matches!(end, Err(End::Fault(_))), "{end:?}");
    let mut bench = Bench::new();
    bench.vmm_says(number(SetFeatures, FEATURES), true).unwrap();
    let end = bench.engine_says(&ring(SetVringNum, 0, 0), 0);
    assert!(matches!(end, Err(End::Fault(_))), "an answer to another question: {end:?}");
}

#[test]
fn either_side_may_leave() {
    let mut bench = Bench::new();
    bench.vmm.shutdown(Shutdown::Both).unwrap();
    assert!(matches!(bench.connection.vmm_ready(bench.now), Err(End::Vmm)));
    let mut bench = Bench::new();
    bench.engine.shutdown(Shutdown::Both).unwrap();
    assert!(matches!(bench.connection.session_ready(bench.now), Err(End::Session)));
    let mut bench = Bench::new();
    bench.engine.shutdown(Shutdown::Both).unwrap();
    assert!(matches!(bench.vmm_says(number(SetFeatures, FEATURES), true), Err(End::Session)));
}

#[test]
fn a_vmm_that_does_not_read_its_answers_is_not_waited_for() {
    let mut bench = Bench::new();
    let ask = Message::new(GetFeatures, vec![]);
    let end = (0..1_000_000).find_map(|_| {
        let _ = ask.send(&bench.vmm);
        bench.connection.vmm_ready(bench.now).err()
    });
    assert!(end.unwrap().to_string().contains("does not take its answers"));
}

#[test]
fn a_vmm_that_says_too_much_is_read_later() {
    let mut bench = Bench::new();
    let mut answered = 0;
    while bench.connection.reads_vmm() {
        // The engine does not hear of it.
        bench.vmm_says(Message::new(GetFeatures, Vec::new()), false).unwrap();
        answered += u32::from(bench.at_vmm().is_some());
    }
    assert!((1900..=2000).contains(&answered), "{answered}");
    let until = bench.connection.due().unwrap();
    assert!(!bench.connection.is_overdue(until));
    bench.connection.end_rest(until - Duration::from_micros(1));
    assert!(!bench.connection.reads_vmm());
    // Then one look every two milliseconds.
    for more in 0..10 {
        bench.now = until + more * Duration::from_millis(2);
        bench.connection.end_rest(bench.now);
        assert!(bench.connection.reads_vmm());
        bench.connection.vmm_ready(bench.now).unwrap();
        assert!(bench.connection.due().is_none() || !bench.connection.reads_vmm());
    }
    // What it said meanwhile is there.
    bench.now += Duration::from_secs(60);
    bench.connection.end_rest(bench.now);
    bench.vmm_says(Message::new(GetFeatures, Vec::new()), false).unwrap();
    assert!(bench.at_vmm().is_some());
}

#[test]
fn mappings_of_memory_have_a_tenth_of_that_pace() {
    let mut bench = Bench::new();
    let mut mapped = 0;
    while bench.connection.rests_until.is_none() {
        bench.vmm_says(table(&[[0, 4096, 0, 0]], vec![memory_file(4096)]), false).unwrap();
        if let Some(asked) = bench.at_engine() {
            bench.engine_says(&asked, 0).unwrap();
            mapped += 1;
        }
    }
    assert!((350..=400).contains(&mapped), "{mapped}");
}
