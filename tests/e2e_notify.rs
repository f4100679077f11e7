//! Is a guest told of each of its connections, once, in batches and in time, when thousands are established in a burst?
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::burst::Burst;
use vonic_tests::{Bed, TestConfig, wire};

const BATCH: usize = 500;
const DELAY: Duration = Duration::from_millis(200);
/// What a slow machine may add to the stated delay: the engine's threads and the guest's share its processors.
const SLACK: Duration = Duration::from_secs(3);

#[test]
fn ten_thousand_connections_are_told_once_each_in_batches_and_in_time() {
    const COUNT: usize = 10_000;
    let bed = Bed::start(&TestConfig::default().vm("a", 2, Burst::LIMITS)).unwrap();
    let (listener, port) = wire::listen().unwrap();
    let terms = format!("batch={BATCH}&delay_ms={}", DELAY.as_millis());
    let mut burst = Burst::start(&bed, "a", 2, &terms).unwrap();
    let accepting =
        std::thread::spawn(move || (0..COUNT).map(|_| wire::accept(&listener).unwrap()).collect::<Vec<_>>());
    let begin = Instant::now();
    burst.open(COUNT, port).unwrap();
    let opened = begin.elapsed();
    burst.serve_until("event for each", |burst| burst.events() >= COUNT).unwrap();
    let far = accepting.join().unwrap();
    let ids = check_established(&burst, opened);
    assert_eq!(ids.len(), COUNT);
    // The same of their ends.
    burst.batches.clear();
    drop(far);
    burst.serve_until("event for each end", |burst| burst.events() >= COUNT).unwrap();
    // Whatever is told twice comes now.
    let end = Instant::now() + DELAY * 2;
    burst.serve_until("pause", |_| Instant::now() >= end).unwrap();
    let ended: Vec<&Value> = events(&burst).collect();
    let closed = ended.iter().filter(|event| event["event"] == "closed").count();
    let ended_ids: BTreeSet<&str> = ended.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!((ended.len(), closed), (COUNT, COUNT));
    assert!(ended_ids.into_iter().eq(ids.iter().map(String::as_str)), "others ended than were established");
}

fn events(burst: &Burst) -> impl Iterator<Item = &Value> {
    burst.batches.iter().flat_map(|(_, batch)| batch["events"].as_array().unwrap())
}

/// Each is told once, in time, in few batches; what the connections are called.
fn check_established(burst: &Burst, opened: Duration) -> BTreeSet<String> {
    let mut told: BTreeMap<u16, (Duration, String)> = BTreeMap::new();
    let (mut next, mut sizes, mut waits) = (1, Vec::new(), Vec::new());
    for (at, batch) in burst.batches.iter().filter(|(_, batch)| !batch["events"].as_array().unwrap().is_empty()) {
        let events = batch["events"].as_array().unwrap();
        assert_eq!((&batch["missed"], &batch["restarted"]), (&Value::from(0), &Value::from(false)));
        assert!(events.len() <= BATCH, "{}", events.len());
        sizes.push(events.len());
        waits.push(Duration::from_micros(batch["waited_us"].as_u64().unwrap()));
        for event in events {
            assert_eq!((&event["number"], &event["event"]), (&next.into(), &"established".into()), "{event}");
            next += 1;
            let guest: SocketAddr = event["guest"].as_str().unwrap().parse().unwrap();
            let delay = at.duration_since(burst.established[&guest.port()]);
            let id = event["id"].as_str().unwrap().to_string();
            assert!(told.insert(guest.port(), (delay, id)).is_none(), "twice: {event}");
        }
    }
    assert_eq!(told.len(), burst.established.len(), "some are missing");
    let mut delays: Vec<Duration> = told.values().map(|(delay, _)| *delay).collect();
    delays.sort();
    waits.sort();
    let part = |all: &[Duration], percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
    eprintln!(
        "{} connections in {opened:.1?}, told in {} batches of up to {}; delay until the guest has it: p50 {:.1?} p90 {:.1?} p99 {:.1?} \
        most {:.1?}; the first of a batch in vonic: p50 {:.1?} most {:.1?}; the bound: {DELAY:?}",
        delays.len(),
        sizes.len(),
        sizes.iter().max().unwrap(),
        part(&delays, 50),
        part(&delays, 90),
        part(&delays, 99),
        part(&delays, 100),
        part(&waits, 50),
        part(&waits, 100),
    );
    // Full ones, and one for each time that the bound has passed.
    let most = delays.len() / BATCH + opened.as_millis() as usize / DELAY.as_millis() as usize + 5;
    assert!(sizes.len() <= most, "{sizes:?}");
    assert!(part(&delays, 100) <= DELAY + SLACK, "{:?}", part(&delays, 100));
    assert!(part(&waits, 100) <= DELAY + SLACK, "{:?}", part(&waits, 100));
    told.into_values().map(|(_, id)| id).collect()
}
