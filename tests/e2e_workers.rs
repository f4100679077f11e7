//! Ports on several workers: does every frame come, whole and once, whichever workers its guests are on? Do connections of all of them
//! outlive engines, and what does everybody else have of one worker that hangs?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vonic_tests::crash::{Killer, Manner, WORKERS_POINTS};
use vonic_tests::frames::{self, Mac, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{GUEST_TO_HOST, HOST_TO_GUEST, MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

const QUIET: Duration = Duration::from_millis(200);
/// What the workers' own guests are called, with what their addresses are made of.
const NAMES: [(&str, u8); 4] = [("a", 2), ("b", 3), ("c", 4), ("d", 5)];

fn config(workers: usize) -> TestConfig {
    let service = format!("workers = {workers}\nheartbeat_ms = 500");
    let config = TestConfig { service, ..TestConfig::default() };
    NAMES.into_iter().fold(config, |config, (name, number)| config.vm(name, number, &forward(number)))
}

fn forward(number: u8) -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:700{number}\"\nport = 7\n")
}

fn worker(bed: &Bed, name: &str) -> u64 {
    bed.vonicd.vm(name).unwrap()["worker"].as_u64().unwrap()
}

fn ping(from: u8, to: (Mac, u8), sequence: u16, payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|at| (at * 7 + usize::from(sequence)) as u8).collect();
    frames::ping((mac(from), to.0), ip4(from), ip4(to.1), sequence, &payload)
}

fn heard(mock: &mut MockFrontend) -> Vec<u8> {
    mock.receive_frame(seconds(10)).unwrap().unwrap().1
}

fn copied(bed: &Bed, name: &str) -> u64 {
    bed.vonicd.vm(name).unwrap()["copied_bytes"]["guest_to_guest"].as_u64().unwrap()
}

fn dropped(bed: &Bed, name: &str, reason: &str) -> u64 {
    bed.vonicd.drops(name, reason).unwrap_or_default()
}

/// Sends frames as one burst: the device hears of them when all are there.
fn burst(mock: &mut MockFrontend, frames: &[Vec<u8>]) {
    for frame in frames {
        mock.queue_frame_on(0, &VnetHeader::default(), frame).unwrap();
    }
    mock.notify_on(0).unwrap();
}

fn all_used(mock: &mut MockFrontend, count: usize) {
    for at in 0..count {
        assert!(mock.wait_used(GUEST_TO_HOST, seconds(10)).unwrap().is_some(), "{at} of {count} came back");
    }
}

/// Four on three workers: a and d share one.
#[test]
fn frames_come_whole_once_and_in_order_whichever_workers_have_their_guests() {
    let bed = Bed::start(&config(3)).unwrap();
    assert_eq!(NAMES.map(|(name, _)| worker(&bed, name)), [0, 1, 2, 0]);
    let mut mocks = NAMES.map(|(name, _)| bed.mock(name, MockConfig { posted: 256, ..MockConfig::default() }).unwrap());
    for (from, (_, number)) in NAMES.iter().enumerate() {
        for (to, (_, other)) in NAMES.iter().enumerate().filter(|(to, _)| *to != from) {
            for (sequence, size) in [0usize, 1, 63, 1400].into_iter().enumerate() {
                let frame = ping(*number, (mac(*other), *other), sequence as u16, size);
                assert_eq!(mocks[from].send_frame(&VnetHeader::default(), &frame).unwrap(), 0);
                assert_eq!(heard(&mut mocks[to]), frame);
            }
        }
        let all = ping(*number, (frames::BROADCAST, 255), 9, 100);
        mocks[from].send_frame(&VnetHeader::default(), &all).unwrap();
        for to in (0..NAMES.len()).filter(|to| *to != from) {
            assert_eq!(heard(&mut mocks[to]), all);
        }
    }
    // Bursts to all of them by turns: each gets its own, in order.
    let before = copied(&bed, "a");
    let mut expected = [const { Vec::new() }; 4];
    let mut bytes = 0;
    for round in 0..3 {
        let sequence = |at: u16| round * 100 + at;
        let to = |at: u16| usize::from(1 + at % 3);
        let frame = |at: u16| ping(2, (mac(NAMES[to(at)].1), NAMES[to(at)].1), sequence(at), 300);
        let frames: Vec<_> = (0..90).map(frame).collect();
        bytes += frames.iter().map(Vec::len).sum::<usize>() as u64;
        burst(&mut mocks[0], &frames);
        all_used(&mut mocks[0], frames.len());
        for (at, frame) in (0..).zip(frames) {
            expected[to(at)].push(frame);
        }
        for (mock, expected) in mocks.iter_mut().zip(&mut expected) {
            expected.drain(..).for_each(|frame| assert_eq!(heard(mock), frame));
        }
    }
    assert_eq!(copied(&bed, "a") - before, bytes, "one copy of each");
    for mock in &mut mocks {
        assert_eq!(mock.receive_frame(QUIET).unwrap(), None);
    }
    assert_eq!(NAMES.map(|(name, _)| dropped(&bed, name, "worker_busy")), [0; 4]);
    full_gone_and_stopped(bed, mocks);
}

/// The same guests: a destination without buffers, one whose rings stop and start, one that goes, a sender that stops in the midst.
fn full_gone_and_stopped(bed: Bed, [mut a, mut b, c, mut d]: [MockFrontend; 4]) {
    let to = |number: u8, at: u16| ping(2, (mac(number), number), at, 64);
    let many = |number: u8| (0..200).map(|at| to(number, at)).collect::<Vec<_>>();
    // More than b has posted: what finds no room is dropped there, and all comes back.
    for _ in 0..2 {
        burst(&mut a, &many(3));
        all_used(&mut a, 200);
    }
    let mut got = 0;
    while b.receive_frame(Duration::ZERO).unwrap().is_some() {
        got += 1;
    }
    assert_eq!(got + dropped(&bed, "b", "no_room"), 400);
    // b's receive ring stops and starts while frames come.
    burst(&mut a, &many(3));
    b.stop_ring(HOST_TO_GUEST).unwrap();
    all_used(&mut a, 200);
    drop(b);
    wait_until("b to be gone", seconds(10), || bed.vonicd.vm("b").unwrap()["connected"] == false).unwrap();
    let down = dropped(&bed, "b", "port_down");
    burst(&mut a, &many(3)[..100]);
    all_used(&mut a, 100);
    assert_eq!(dropped(&bed, "b", "port_down"), down + 100);
    // c's file goes in the midst of it.
    burst(&mut a, &many(4));
    fs::remove_file(bed.directory.path().join("etc/vms.d/c.toml")).unwrap();
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!((&report["removed"], &report["errors"]), (&json!(["c"]), &json!([])), "{report}");
    all_used(&mut a, 200);
    drop(c);
    let unknown = dropped(&bed, "a", "unknown_destination");
    burst(&mut a, &many(4)[..10]);
    all_used(&mut a, 10);
    wait_until("nobody", seconds(10), || dropped(&bed, "a", "unknown_destination") == unknown + 10).unwrap();
    // The sender's own ring stops: where it stands, all is done that came before.
    burst(&mut a, &many(5)[..50]);
    let stopped_at = a.stop_ring(GUEST_TO_HOST).unwrap();
    let mut used = 0;
    while a.wait_used(GUEST_TO_HOST, Duration::ZERO).unwrap().is_some() {
        used += 1;
    }
    assert!(used <= 50 && stopped_at > 0, "{used} of 50, at {stopped_at}");
    d.gateway_answers(5).unwrap();
    // Another VM comes, to the worker that has the fewest; one is moved by its file.
    let file = |number: u8, more: &str| {
        format!("mac = \"52:54:00:00:00:0{number}\"\naddress4 = \"192.0.2.{number}\"\n{more}{}", forward(number))
    };
    bed.directory.write("etc/vms.d/e.toml", file(6, "")).unwrap();
    bed.directory.write("etc/vms.d/b.toml", file(3, "worker = 2\n")).unwrap();
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!((&report["added"], &report["changed"]), (&json!(["e"]), &json!(["b"])), "{report}");
    assert_eq!((worker(&bed, "b"), worker(&bed, "e")), (2, 1));
    let [mut b, mut e] = ["b", "e"].map(|name| bed.mock(name, MockConfig::default()).unwrap());
    let there = ping(3, (mac(6), 6), 1, 1000);
    b.send_frame(&VnetHeader::default(), &there).unwrap();
    assert_eq!(heard(&mut e), there);
    let back = ping(6, (mac(3), 3), 2, 1000);
    e.send_frame(&VnetHeader::default(), &back).unwrap();
    assert_eq!(heard(&mut b), back);
    bed.vonicd.stop().unwrap();
}

/// That frame, behind whatever the gateway has to say.
fn hears(mock: &mut MockFrontend, frame: &[u8]) {
    mock.expect_frame("another guest's frame", seconds(10), |heard| heard == frame).unwrap();
}

/// Two guests of one worker each claim addresses and listen: the other's worker knows it.
#[test]
fn what_one_workers_guest_has_is_no_other_workers_guests() {
    let mut config = TestConfig::both_families();
    config.service = "workers = 2".into();
    let config = config.vm("a", 2, &forward(2)).vm("b", 3, "");
    let bed = Bed::start(&config).unwrap();
    let [mut a, mut b] = ["a", "b"].map(|name| bed.mock(name, MockConfig::default()).unwrap());
    let address: std::net::Ipv6Addr = "fe80::77".parse().unwrap();
    // Duplicate address detection (RFC 4862 §5.4.2): from nobody's address, without one's own link-layer address.
    let group: std::net::Ipv6Addr = "ff02::1:ff00:77".parse().unwrap();
    let claim = |number: u8| {
        let body = [&[0; 4][..], &address.octets()].concat();
        lies::icmp6((mac(number), [0x33, 0x33, 0xff, 0, 0, 0x77]), (std::net::Ipv6Addr::UNSPECIFIED, group), 135, &body)
    };
    let speak = |number: u8| {
        let icmp = frames::ipv6(address, "ff02::1".parse().unwrap(), 17, &[0, 9, 0, 9, 0, 8, 0, 0]);
        frames::ethernet([0x33, 0x33, 0, 0, 0, 1], mac(number), 0x86dd, &icmp)
    };
    a.send_frame(&VnetHeader::default(), &claim(2)).unwrap();
    // Whoever hears of it comes behind it.
    hears(&mut b, &claim(2));
    b.send_frame(&VnetHeader::default(), &claim(3)).unwrap();
    hears(&mut a, &claim(3));
    b.send_frame(&VnetHeader::default(), &speak(3)).unwrap();
    wait_until("b is refused", seconds(5), || dropped(&bed, "b", "spoofed_address") == 1).unwrap();
    a.send_frame(&VnetHeader::default(), &speak(2)).unwrap();
    hears(&mut b, &speak(2));
    // a's forward listens on the host's loopback, which b reaches as the gateway: but never vonic itself.
    drop(b);
    let mut b = HandGuest::start(&bed, "b", 3, feature::ALL).unwrap();
    let before = dropped(&bed, "b", "denied");
    b.send(wire::HOST, &wire::Conn::new(wire::HOST, (5000, 7002)).syn(frames::Tcp::SYN)).unwrap();
    wait_until("b is denied", seconds(5), || dropped(&bed, "b", "denied") == before + 1).unwrap();
    // The engine dies: the claim is a's as before.
    bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    a.gateway_answers(2).unwrap();
    b.mock.gateway_answers(3).unwrap();
    b.mock.send_frame(&VnetHeader::default(), &speak(3)).unwrap();
    wait_until("b is refused again", seconds(5), || dropped(&bed, "b", "spoofed_address") == 2).unwrap();
    bed.vonicd.stop().unwrap();
}

/// Where a process or a thread may run, as the kernel lists it.
fn processors(of: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap().trim().to_string()
}

/// One that never sleeps; somebody else who never does comes to where it is. One that has nothing to do is the scheduler's.
#[test]
fn a_busy_worker_stays_on_its_processor_until_it_has_to_share_it() {
    let all = processors("self");
    let is_one = |list: &str| list.parse::<u32>().is_ok();
    if is_one(&all) {
        skip!("this process may run on processor {all} alone: there is nothing to choose");
    }
    let start = |poll: &str| {
        let service = format!("poll_us = {poll}");
        Bed::start(&TestConfig { service, ..TestConfig::default() }.vm("a", 2, "")).unwrap()
    };
    let idle = start("50");
    let bed = start("\"always\"");
    let own = |bed: &Bed| processors(&thread(bed, "worker-0").to_string());
    let mut kept = String::new();
    wait_until("the worker stays somewhere", seconds(20), || {
        kept = own(&bed);
        is_one(&kept)
    })
    .unwrap();
    let mut busy = std::process::Command::new("taskset");
    let mut busy = busy.args(["-c", &kept, "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let left = wait_until("it leaves", seconds(60), || own(&bed) != kept);
    busy.kill().unwrap();
    busy.wait().unwrap();
    left.unwrap();
    // Its start may have been work.
    wait_until("an idle one may run everywhere", seconds(20), || own(&idle) == all).unwrap();
    bed.vonicd.stop().unwrap();
    idle.vonicd.stop().unwrap();
}

/// The engine's thread of this name.
fn thread(bed: &Bed, name: &str) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", bed.vonicd.engine().unwrap())).unwrap();
    let named = |path: &std::path::Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let found = tasks.map(|task| task.unwrap().path()).find(|path| named(path)).unwrap();
    found.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn kill(bed: &Bed) {
    let engine = bed.vonicd.engine().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &engine]).status().unwrap().success());
}

fn connections(bed: &Bed) -> usize {
    bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len()
}

/// Connections of both openers on both workers, through ends of engines of every kind; then one worker alone stands still.
#[test]
fn connections_of_all_workers_outlive_engines_and_a_worker_that_hangs() {
    let mut bed = Bed::start(&config(2)).unwrap();
    let mut guests = NAMES.map(|(name, number)| HandGuest::start(&bed, name, number, feature::ALL).unwrap());
    assert_eq!(NAMES.map(|(name, _)| worker(&bed, name)), [0, 1, 0, 1]);
    let mut lines = Vec::new();
    for (guest, (_, number)) in guests.iter_mut().zip(NAMES) {
        let world = ([127, 0, 0, 1], 7000 + u16::from(number)).into();
        for at in 0..5 {
            lines.push((usize::from(number) - 2, Line::guest_opens(guest, 4000 + at).unwrap()));
            lines.push((usize::from(number) - 2, Line::world_opens(guest, world, 7).unwrap()));
        }
    }
    let mut exchange = |guests: &mut [HandGuest; 4]| {
        lines.iter_mut().for_each(|(at, line)| line.exchange(&mut guests[*at]).unwrap());
    };
    exchange(&mut guests);
    let of_b = bed.vonicd.vonic(&["conns", "--vm", "b", "--json"]).unwrap();
    assert_eq!((connections(&bed), of_b.as_array().unwrap().len()), (40, 10));
    for manner in ["KILL", "KILL", "restart"] {
        match manner {
            "restart" => drop(bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap()),
            _ => kill(&bed),
        }
        exchange(&mut guests);
        assert_eq!(connections(&bed), 40, "behind {manner}");
    }
    // Frames of a's for b, whose worker stands still: the first keeps what a sends behind it waiting, for a bounded time, and the next ones
    // no more.
    let hung = hang(thread(&bed, "worker-1")).unwrap();
    let since = Instant::now();
    let a = &mut guests[0].mock;
    for _ in 0..3 {
        burst(a, &[ping(2, (mac(3), 3), 1, 64), frames::arp_request(2, ip4(1))]);
        all_used(a, 2);
        let is_answer = |frame: &[u8]| frames::arp_answer(frame, ip4(1)).is_some();
        a.expect_frame("the gateway's answer", seconds(5), is_answer).unwrap();
    }
    let waited = since.elapsed();
    assert!(waited < Duration::from_millis(450), "a waited for {waited:?}");
    hung.join().unwrap();
    exchange(&mut guests);
    let status: Value = bed.vonicd.vonic(&["engine", "status", "--json"]).unwrap();
    let reason = status["last_death"]["reason"].as_str().unwrap();
    assert!(reason.contains("its worker does not answer for 500ms (worker-1 is the last)"), "{status}");
    assert_eq!(connections(&bed), 40);
    let same = Vonicd::copy(&bed.directory).unwrap();
    bed.vonicd.upgrade(&same).unwrap();
    exchange(&mut guests);
    // The questions were for everybody, too.
    assert_eq!((connections(&bed), dropped(&bed, "a", "worker_busy")), (40, 6));
    // Nothing is spent while nothing happens.
    let (master, engine) = (bed.vonicd.master(), bed.vonicd.engine().unwrap());
    let taken = || usage::processor_time(master).unwrap() + usage::processor_time(engine).unwrap();
    let idle = wait_for("idleness", seconds(20), || {
        let before = taken();
        std::thread::sleep(seconds(2));
        let spent = taken() - before;
        Ok((spent <= Duration::from_millis(20)).then_some(spent))
    });
    idle.unwrap();
    let names: BTreeSet<String> = usage::threads(engine).unwrap().into_iter().collect();
    assert!(names.contains("worker-0") && names.contains("worker-1"), "{names:?}");
    bed.vonicd.stop().unwrap();
}

/// Two real guests, a worker each: streams between them and with the host, while engines end and VMs come and go.
#[test]
fn streams_between_guests_of_two_workers_are_whole() {
    let bed = Bed::start(&TestConfig { crash_points: true, ..config(2) }).unwrap();
    let killer = Killer::new(&bed.directory).unwrap();
    let mut guests: Vec<Guest> =
        NAMES[..2].iter().map(|(name, number)| bed.start_guest(name, *number, Vmm::Uml).unwrap()).collect();
    for guest in &mut guests {
        guest.wait_ready().unwrap();
        let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        served.wait_output(guest, "listening", seconds(10)).unwrap();
    }
    let server = bed.server().unwrap();
    let jobs = |guests: &mut Vec<Guest>, bytes: usize, seed: usize| -> Vec<(usize, Job)> {
        let host = format!("192.0.2.1:{}", server.address().port());
        let to = [["192.0.2.3:7", host.as_str()], ["192.0.2.2:7", host.as_str()]];
        let mut jobs = Vec::new();
        for (place, guest) in guests.iter_mut().enumerate() {
            for (at, to) in to[place].iter().enumerate() {
                let seed = seed + 2 * place + at;
                jobs.push((place, guest.spawn(&format!("vonic-peer both {to} {bytes} {seed} 2")).unwrap()));
            }
        }
        jobs
    };
    let whole = |guests: &mut Vec<Guest>, jobs: Vec<(usize, Job)>| {
        for (place, job) in jobs {
            let done = job.wait(&mut guests[place], seconds(180)).unwrap();
            assert_eq!(done.status, 0, "{}", done.stdout);
        }
    };
    let running = jobs(&mut guests, 20_000_017, 1);
    whole(&mut guests, running);
    let sent = copied(&bed, "a") + copied(&bed, "b");
    assert!(sent > 80_000_000, "{sent} bytes went from worker to worker");
    let running = jobs(&mut guests, 100_000_017, 11);
    for round in 0..WORKERS_POINTS.len() + 2 {
        match WORKERS_POINTS.get(round) {
            Some((point, most)) => killer.end_at(point, most / 2, Manner::Kill).unwrap(),
            None => drop(bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap()),
        }
        let name = "etc/vms.d/d.toml";
        match round {
            1 => fs::remove_file(bed.directory.path().join(name)).unwrap(),
            2 => drop(bed.directory.write(name, "mac = \"52:54:00:00:00:05\"\nworker = 0\n").unwrap()),
            _ => {}
        }
        wait_until("a reload", seconds(20), || bed.vonicd.vonic(&["reload", "--json"]).is_ok()).unwrap();
    }
    whole(&mut guests, running);
    drop(guests);
    bed.vonicd.stop().unwrap();
}
