//! Is a guest told of each of its connections, once, in batches and in time, when thousands are established in a burst? `VONIC_LONG=1`, with
//! released builds on a machine that does nothing else, holds it to the stated delay.
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
fn slack() -> Duration {
    if std::env::var_os("VONIC_LONG").is_some() { Duration::ZERO } else { Duration::from_secs(3) }
}

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
    assert!(part(&delays, 100) <= DELAY + slack(), "{:?}", part(&delays, 100));
    assert!(part(&waits, 100) <= DELAY + slack(), "{:?}", part(&waits, 100));
    told.into_values().map(|(_, id)| id).collect()
}

/// What puts another engine in the place of the one that tells.
#[derive(Debug, Clone, Copy)]
enum Change {
    Kill,
    Restart,
    Upgrade,
}

fn change(bed: &mut Bed, by: Change) {
    match by {
        Change::Kill => {
            let old = bed.vonicd.engine().unwrap();
            assert!(std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
        }
        Change::Restart => drop(bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap()),
        Change::Upgrade => {
            let newer = Vonicd::copy(&bed.directory).unwrap();
            bed.vonicd.upgrade(&newer).unwrap();
        }
    }
}

/// The agent is told of each of the guest's connections, and goes on where the engine is another one: it hears that this is so, asks for the
/// list, and knows every connection that is there, those too that had begun before.
#[test]
fn an_agent_is_told_of_each_connection_whatever_becomes_of_the_engine() {
    const COUNT: usize = 200;
    const HELD: usize = 40;
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let programs = vec![agent_program().unwrap()];
    let config = GuestConfig { programs, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    let server = bed.server().unwrap();
    let port = server.address().port();
    let mut echo = std::process::Command::new(peer_program().unwrap());
    let log = bed.directory.path().join("echo.log");
    let echo = Process::start("echo", echo.args(["echo", "127.0.0.1:7009"]), None, &log).unwrap();
    wait_until("the echo", seconds(10), || echo.log().contains("listening")).unwrap();
    let held = guest.spawn(&format!("vonic-peer hold 192.0.2.1:7009 {HELD} /run/end")).unwrap();
    held.wait_output(&mut guest, "open", seconds(30)).unwrap();
    let mut follower = Follower::start(&mut guest).unwrap();
    let (mut names, mut epochs) = (None, BTreeSet::new());
    for by in [Some(Change::Kill), Some(Change::Restart), Some(Change::Upgrade), None] {
        follower.wait_begun(&mut guest).unwrap();
        guest.must(&format!("vonic-peer connections 192.0.2.1:{port} {COUNT}"), seconds(60)).unwrap();
        let told = follower.wait_closed(&mut guest, port, COUNT).unwrap();
        for event in ["established", "closed"] {
            assert_eq!(
                (told.events(port, event).len(), told.count(port, event)),
                (COUNT, COUNT),
                "{event} before {by:?}"
            );
        }
        assert!(told.batches < COUNT, "{} batches for {} events", told.batches, told.events.len());
        // Those that were there before are all that are left, by the names that they had.
        let open = told.open(7009);
        assert_eq!((open.len(), told.open(port).len()), (HELD, 0), "before {by:?}");
        assert_eq!(names.get_or_insert(open.clone()), &open, "before {by:?}");
        assert!(epochs.insert(told.epoch), "the epoch is another one");
        by.into_iter().for_each(|by| change(&mut bed, by));
    }
    guest.must("touch /run/end", seconds(10)).unwrap();
    assert_eq!(held.wait(&mut guest, seconds(60)).unwrap().status, 0);
    let told = follower.wait_closed(&mut guest, 7009, HELD).unwrap();
    assert_eq!((told.count(7009, "closed"), told.open(7009).len()), (HELD, 0));
}

/// Whoever asks for the list right behind an engine's death gets all of it.
#[test]
fn the_list_behind_an_engines_death_is_whole() {
    const COUNT: usize = 3000;
    let bed = Bed::start(&TestConfig::default().vm("a", 2, Burst::LIMITS)).unwrap();
    let (listener, port) = wire::listen().unwrap();
    let mut burst = Burst::start(&bed, "a", 2, "batch=1000").unwrap();
    let accepting =
        std::thread::spawn(move || (0..COUNT).map(|_| wire::accept(&listener).unwrap()).collect::<Vec<_>>());
    burst.open(COUNT, port).unwrap();
    let _far = accepting.join().unwrap();
    let to = format!("192.0.2.1:{port}");
    for _ in 0..3 {
        let old = bed.vonicd.engine().unwrap();
        assert!(std::process::Command::new("kill").args(["-9", &old.to_string()]).status().unwrap().success());
        let rows = wait_for("the list", seconds(20), || Ok(bed.vonicd.vonic(&["conns", "--json"]).ok())).unwrap();
        let rows = rows.as_array().unwrap().iter();
        assert_eq!(rows.filter(|row| row["remote"] == to.as_str()).count(), COUNT);
        wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
    }
}
