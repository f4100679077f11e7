//! Engines die at every labelled point and at random times, in every manner, while guests' connections open, talk and end: is a byte
//! lost, doubled or changed, is a connection lost, does anything stay behind? And would these tests notice if recovery were wrong?
#![allow(clippy::unwrap_used, reason = "test code")]

use vonic_tests::crash::{Killer, Manner, Random};
use vonic_tests::*;

/// Every labelled point; after how many passages at most an engine dies there.
const POINTS: &[(&str, u64)] = &[
    ("before-sendmsg", 200),
    ("after-sendmsg", 200),
    ("segment-half-taken", 3),
    ("published-to-guest", 500),
    ("before-publishing", 500),
    ("used-before-call", 500),
    ("before-discard", 200),
    ("after-discard", 200),
    ("after-peek", 200),
    ("frame-completed", 200),
    ("connect-begun", 5),
    ("connect-recorded", 5),
    ("after-connect", 5),
    ("after-accept", 5),
    ("accept-recorded", 5),
    ("before-synchronized", 5),
    ("after-synchronized", 5),
    ("before-established", 5),
    ("guest-fin-recorded", 5),
    ("after-shutdown", 5),
    ("host-failed", 2),
    ("before-conclusion", 2),
    ("after-conclusion", 2),
    ("before-close", 5),
    ("after-close", 5),
    ("record-freed", 5),
];
/// Those that engines pass when they take over.
const TAKEOVER_POINTS: &[(&str, u64)] = &[("before-resumption", 5), ("after-resumption", 5), ("command-applied", 6)];

/// A guest with IPv4 and IPv6, and connections of all kinds between it and the host, both openers, by both families.
struct Churn {
    guest: Guest,
    served: Job,
    jobs: Vec<Job>,
    into: Vec<Process>,
    carrier: String,
}

/// The port of the host at which forwards of the guest with this number listen.
fn port(number: u8) -> u16 {
    7000 + u16::from(number)
}

fn config(names: &[(&str, u8)]) -> TestConfig {
    let forward =
        |host: &str, number| format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{host}:{}\"\nport = 7\n", port(number));
    let config = TestConfig { crash_points: true, ..TestConfig::both_families() };
    names.iter().fold(config, |config, &(name, number)| {
        config.vm(name, number, &[forward("127.0.0.1", number), forward("[::1]", number)].concat())
    })
}

fn start_guest(bed: &Bed, (name, number): (&str, u8), vmm: Vmm) -> Guest {
    let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    bed.start_configured(&GuestConfig { ip6: true, ..plain }).unwrap()
}

/// How often a guest's link went away or came, and the driver's own view of it.
fn carrier(guest: &mut Guest) -> String {
    guest.must("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier", seconds(10)).unwrap()
}

impl Churn {
    /// With so many connections at a time in each of the four ways.
    fn start(bed: &Bed, mut guest: Guest, number: u8, (threads, seed): (u64, u64), server: &PeerServer) -> Churn {
        guest.wait_ready().unwrap();
        let address = format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
             ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
        );
        guest.must(&address, seconds(10)).unwrap();
        let served = guest.spawn("vonic-peer serve [::]:7").unwrap();
        served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
        let carrier = carrier(&mut guest);
        let (mut jobs, mut into) = (Vec::new(), Vec::new());
        for (way, host, remote) in [(1, "127.0.0.1", "192.0.2.1"), (2, "[::1]", "[2001:db8::1]")] {
            let seed = seed + way * 1_000_000;
            let to = format!("{remote}:{}", server.address().port());
            jobs.push(guest.spawn(&format!("vonic-peer churn {to} {threads} {seed} /run/stop")).unwrap());
            let (name, stop) = (format!("churn-{number}-{way}"), bed.directory.path().join("stop"));
            let mut command = std::process::Command::new(peer_program().unwrap());
            command.args([
                "churn",
                &format!("{host}:{}", port(number)),
                &threads.to_string(),
                &(seed + 500_000).to_string(),
            ]);
            let log = bed.directory.path().join(format!("{name}.log"));
            into.push(Process::start(&name, command.arg(stop), None, &log).unwrap());
        }
        Churn { guest, served, jobs, into, carrier }
    }

    /// Ends the sessions that run, and looks at all of them; how many there were.
    fn finish(mut self, bed: &Bed) -> u64 {
        bed.directory.write("stop", "").unwrap();
        self.guest.must("touch /run/stop", seconds(20)).unwrap();
        let mut results = Vec::new();
        for job in &self.jobs {
            results.push(job.wait(&mut self.guest, seconds(90)).unwrap().stdout);
        }
        for process in &mut self.into {
            process.wait(seconds(90)).unwrap();
            results.push(process.log());
        }
        let mut sessions = 0;
        for result in &results {
            let summary: serde_json::Value = serde_json::from_str(result).context(result.clone()).unwrap();
            assert_eq!(summary["failures"], serde_json::json!([]), "{results:#?}");
            sessions += summary["connections"].as_u64().unwrap();
        }
        let served = self.served.output(&mut self.guest).unwrap();
        let failed: Vec<&str> = served.lines().skip(1).filter(|line| !line.contains("\"error\":null")).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(carrier(&mut self.guest), self.carrier);
        self.served.kill(&mut self.guest).unwrap();
        sessions
    }
}

/// A bed whose vonicd has its crash points, with the guests' churn on it.
struct Scene {
    bed: Bed,
    killer: Killer,
    server: PeerServer,
    before: crash::Holdings,
    churns: Vec<Churn>,
}

impl Scene {
    fn start(vmms: &[Vmm], threads: u64, seed: u64) -> Scene {
        let names = [("a", 2), ("b", 3)];
        let mut bed = Bed::start_here(&config(&names[..vmms.len()])).unwrap();
        let server = PeerServer::start("server", bed.directory.path(), "[::]:0", None).unwrap();
        let guests: Vec<_> = names.into_iter().zip(vmms).map(|(name, vmm)| start_guest(&bed, name, *vmm)).collect();
        guests.iter().for_each(|guest| guest.wait_ready().unwrap());
        let before = bed.vonicd.holdings().unwrap();
        let start = |((_, number), guest)| Churn::start(&bed, guest, number, (threads, seed), &server);
        let churns = names.into_iter().zip(guests).map(start).collect();
        let killer = Killer::new(&bed.directory).unwrap();
        Scene { bed, killer, server, before, churns }
    }

    fn finish(mut self) -> u64 {
        let sessions = self.churns.into_iter().map(|churn| churn.finish(&self.bed)).sum();
        assert_eq!(self.server.failures(), [""; 0]);
        self.bed.vonicd.holds_again(self.before, seconds(70)).unwrap();
        self.bed.vonicd.stop().unwrap();
        sessions
    }
}

#[test]
fn engines_end_at_every_point_and_nobody_notices() {
    let seed = seed();
    // So little memory per socket that segments are taken in part, and windows close.
    isolate().unwrap();
    std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 8192 32768").unwrap();
    let scene = Scene::start(&[Vmm::Uml], 4, seed);
    let mut random = Random(seed);
    for (i, (point, most)) in POINTS.iter().enumerate() {
        let began = std::time::Instant::now();
        scene.killer.end_at(point, 1 + random.below(*most), Manner::ALL[i % 3]).unwrap();
        println!("{point} {:?}", began.elapsed());
    }
    for (point, most) in TAKEOVER_POINTS {
        scene.killer.arm(point, 1 + random.below(*most), Manner::Kill).unwrap();
        // Some are passed by an engine that runs, too: it may be gone already.
        drop(scene.killer.signal(libc::SIGKILL));
        wait_until(point, seconds(10), || scene.killer.has_fired()).unwrap();
    }
    println!("{} sessions", scene.finish());
}

#[test]
fn engines_end_at_random_times_and_nobody_notices() {
    let seed = seed();
    isolate().unwrap();
    let scene = Scene::start(&[Vmm::Uml], 4, seed);
    let mut random = Random(seed);
    for _ in 0..30 {
        std::thread::sleep(std::time::Duration::from_millis(random.below(150)));
        scene.killer.kill().unwrap();
    }
    println!("{} sessions", scene.finish());
}

/// VONIC_SEED, or one of the clock's; printed, so that a run can be repeated.
fn seed() -> u64 {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = std::env::var("VONIC_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
    println!("VONIC_SEED={seed}");
    seed
}
