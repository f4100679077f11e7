//! Is a guest told of each of its connections, once, in batches and in time, when thousands are established in a burst?
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::burst::Burst;
use vonic_tests::*;

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

/// How many lines of what the agent has printed have that in them, or how many such texts there are.
fn count(guest: &mut Guest, command: &str) -> usize {
    guest.must(command, seconds(20)).unwrap().trim().parse().unwrap()
}

/// The agent is told of each of the guest's connections, and goes on where the engine is another one.
#[test]
fn an_agent_is_told_of_each_connection_over_the_engines_death() {
    const COUNT: usize = 300;
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let programs = vec![agent_program().unwrap()];
    let config = GuestConfig { programs, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    let server = bed.server().unwrap();
    guest.must("touch /run/told", seconds(5)).unwrap();
    guest.spawn("vonic-agent connections --follow --json --batch 50 --delay 100 > /run/told").unwrap();
    for round in 1..=2 {
        // The list comes behind the news that it is wanted.
        let began = "awk '/\"connections\":/ {n++} END {print n+0}' /run/told";
        wait_until("the beginning", seconds(30), || count(&mut guest, began) == round).unwrap();
        let port = server.address().port();
        guest.must(&format!("vonic-peer connections 192.0.2.1:{port} {COUNT}"), seconds(60)).unwrap();
        for event in ["established", "closed"] {
            let command = format!("grep -o '\"event\":\"{event}\"' /run/told | wc -l");
            wait_until("event for each", seconds(20), || count(&mut guest, &command) >= COUNT * round).unwrap();
            assert_eq!(count(&mut guest, &command), COUNT * round);
        }
        if round == 1 {
            let old = bed.vonicd.engine().unwrap();
            assert!(std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
        }
    }
    let twice = "grep -o '\"id\":\"[0-9a-f]*\",\"event\":\"[a-z]*\"' /run/told | sort | uniq -d | wc -l";
    assert_eq!(count(&mut guest, twice), 0);
    assert_eq!(count(&mut guest, "awk '/\"missed\":[1-9]/ {n++} END {print n+0}' /run/told"), 0);
    let batches = count(&mut guest, "awk '/\"events\":\\[\\{/ {n++} END {print n+0}' /run/told");
    assert!(batches < 2 * COUNT, "{batches} batches for {} events", 4 * COUNT);
}
