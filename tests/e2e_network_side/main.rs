//! What can somebody on the network do to guests that are reached by forwards, or by what vonic answers itself? Floods and scans that no guest
//! may see, answers that must not be larger than what asked for them, ports that nobody may guess.
//! VONIC_LONG=1 measures for longer, and with the thresholds that hold on a machine that does nothing else.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells its figures")]

mod answers;
mod server;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use server::{Seen, Server};
use vonic_peer::packet::Wire;
use vonic_tests::frames::{Mac, Tcp};
use vonic_tests::witness::Witnesses;
use vonic_tests::*;

/// The host's address towards the world, the world's, and where the flood's addresses are, of which nobody answers.
const HERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The one port that leads to the guest.
const PORT: u16 = 7007;
/// SYNs a second of the flood.
const RATE: u64 = 20_000;

fn long() -> bool {
    std::env::var_os("VONIC_LONG").is_some()
}

/// The world behind a cable, and the MACs of its two ends, the world's first.
struct World {
    netns: Netns,
    link: (Mac, Mac),
}

fn mac_of(interface: &str) -> Result<Mac> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"));
    // /sys shows the namespace that it was mounted in; ip(8) asks the thread's own.
    let text = text.or_else(|_| {
        let output = std::process::Command::new("ip").args(["-br", "link", "show", "dev", interface]).output()?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        line.split_ascii_whitespace().nth(2).map(str::to_string).ok_or_else(|| std::io::Error::other(line.clone()))
    })?;
    let bytes: Vec<u8> = text.trim().split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes.try_into().map_err(|bytes| Error::msg(format!("{bytes:?}")))
}

impl World {
    fn new() -> World {
        isolate().unwrap();
        let netns = Netns::new().unwrap();
        netns.cable("world", "198.51.100.1/24", "198.51.100.2/24").unwrap();
        // Answers to the flood go there, and nobody takes them.
        ip("route add 198.18.0.0/15 via 198.51.100.2").unwrap();
        // Each genuine connect leaves a port in TIME-WAIT for a minute.
        let ports = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").map_err(Error::from);
        netns.run(ports).unwrap();
        let far = netns.run(|| mac_of("world")).unwrap();
        World { netns, link: (far, mac_of("world").unwrap()) }
    }

    /// A segment from anywhere to a port of the host.
    fn segment(&self, number: u64, port: u16, flags: u8) -> Vec<u8> {
        let [.., b, c, d] = (number.wrapping_mul(2_654_435_761) as u32 & 0x1_ffff | 0xc612_0000).to_be_bytes();
        let from = Ipv4Addr::new(198, b & 1 | 18, c, d.max(1));
        let ports = (1024 + (number % 60_000) as u16, port);
        let options = if flags == Tcp::SYN { vec![2, 4, 5, 180] } else { Vec::new() };
        let segment = Tcp { ports, sequence: number as u32, flags, window: 9000, options, ..Tcp::default() };
        segment.frame(self.link, from, HERE)
    }

    /// Sends SYNs from everywhere at [`RATE`] until it is told to stop; how many, and how much of a processor they took.
    fn flood(&self, stop: &AtomicBool) -> Result<(u64, f64)> {
        self.netns.run(|| {
            let wire = Wire::open("world")?;
            let (began, before) = (Instant::now(), usage::thread_time()?);
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let due = (began.elapsed().as_secs_f64() * RATE as f64) as u64;
                // What is late is given up.
                for number in sent.max(due.saturating_sub(200))..due {
                    let _ = wire.send(&self.segment(number, PORT, Tcp::SYN));
                }
                sent = due;
                thread::sleep(Duration::from_micros(500));
            }
            Ok((sent, (usage::thread_time()? - before).as_secs_f64() / began.elapsed().as_secs_f64()))
        })
    }

    /// Connects, exchanges a few bytes and closes, one after the other, until it is told to stop; how often that worked, and did not.
    fn connect(&self, stop: &AtomicBool, tried: &AtomicU64) -> Result<(u64, u64)> {
        self.netns.run(|| {
            let (mut fine, mut failed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                tried.fetch_add(1, Ordering::Relaxed);
                match talk((HERE, PORT).into()) {
                    Ok(()) => fine += 1,
                    Err(error) => {
                        println!("a genuine connect: {error:#}");
                        failed += 1;
                    }
                }
                // Ports are not to run out.
                thread::sleep(Duration::from_millis(1));
            }
            Ok((fine, failed))
        })
    }
}

fn talk(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, seconds(3)).context("connecting")?;
    stream.set_read_timeout(Some(seconds(3)))?;
    stream.write_all(b"genuine")?;
    let mut got = [0; 7];
    stream.read_exact(&mut got).context("its echo")?;
    ensure!(&got == b"genuine", "{got:?}");
    Ok(())
}

fn forward() -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{HERE}:{PORT}\"\nport = 7\n")
}

/// The guest behind the forward, and the established flows of others.
#[test]
fn a_syn_flood_at_a_forward_reaches_no_guest() {
    let world = World::new();
    let bed = Bed::start_here(&Witnesses::vms(TestConfig::default().vm("a", 2, &forward()))).unwrap();
    let mut witnesses = Witnesses::start(&bed).unwrap();
    let mut server = Server::start(&bed, "a", 2).unwrap();
    let (time, pairs) = if long() { (seconds(10), 3) } else { (seconds(2), 4) };
    let mut kept = Vec::new();
    for _ in 0..pairs {
        let mut run = |flooded: bool, share: f64| {
            let (seen, stop, over, tried) =
                (Seen::default(), AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
            let outcome = thread::scope(|scope| {
                scope.spawn(|| server.serve(&seen, &over).unwrap());
                let connects = scope.spawn(|| world.connect(&stop, &tried).unwrap());
                let load = scope.spawn(|| if flooded { world.flood(&stop).unwrap() } else { burn(&stop, share) });
                let score = witnesses.talk(time);
                stop.store(true, Ordering::Relaxed);
                let (fine, failed) = connects.join().unwrap();
                let (sent, share) = load.join().unwrap();
                // What the last connects have left arrives.
                thread::sleep(Duration::from_millis(200));
                over.store(true, Ordering::Relaxed);
                (score.unwrap(), fine, failed, sent, share)
            });
            (outcome, seen)
        };
        let ((flooded, fine, failed, sent, cost), seen) = run(true, 0.0);
        let ((calm, ..), _) = run(false, cost);
        let ratio = flooded.rate / calm.rate;
        let rate = sent as f64 / time.as_secs_f64();
        println!(
            "{rate:.0} SYN/s ({:.0} % of a processor): {fine} of {} connects, flows at {ratio:.3} of {:.1} MB/s, longest {:?}",
            100.0 * cost,
            fine + failed,
            calm.rate / 1e6,
            flooded.longest,
        );
        assert!(rate > 0.8 * RATE as f64, "{rate:.0} SYNs a second are no flood of {RATE}");
        let enough = if long() { 1000 } else { 20 };
        assert!(fine >= enough, "{fine} connects are too few");
        assert!(failed * 1000 <= fine + failed, "{failed} of {} genuine connects failed", fine + failed);
        // The guest sees whoever has finished a handshake, and nothing of anybody else.
        assert_eq!(seen.opened.into_inner(), fine + failed);
        assert_eq!(seen.strays.into_inner(), 0);
        kept.push(ratio);
        if !long() && ratio >= 0.7 {
            break;
        }
    }
    kept.sort_by(f64::total_cmp);
    // The best of some short runs on a busy machine, the median of long ones.
    let (value, wanted) = if long() { (kept[kept.len() / 2], 0.95) } else { (kept[kept.len() - 1], 0.7) };
    assert!(value >= wanted, "{kept:.3?} of what established flows have without the flood");
    drop(witnesses);
    bed.vonicd.stop().unwrap();
}

/// As much processor time, on nothing.
fn burn(stop: &AtomicBool, share: f64) -> (u64, f64) {
    let (began, before) = (Instant::now(), usage::thread_time().unwrap());
    while !stop.load(Ordering::Relaxed) {
        while usage::thread_time().unwrap() - before < began.elapsed().mul_f64(share) {}
        thread::sleep(Duration::from_micros(500));
    }
    (0, share)
}

/// Every port, by every kind of segment that scanners send: of the forward's port, too, the guest hears nothing.
#[test]
fn scans_reach_no_guest() {
    let world = World::new();
    let bed = Bed::start_here(&TestConfig::default().vm("a", 2, &forward())).unwrap();
    let mut server = Server::start(&bed, "a", 2).unwrap();
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let before = usage::settled_descriptors(bed.vonicd.engine().unwrap()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| server.serve(&seen, &over).unwrap());
        let fin = Tcp::FIN | Tcp::PSH | 0x20;
        for (kind, flags) in [("SYN", Tcp::SYN), ("ACK", Tcp::ACK), ("FIN", Tcp::FIN), ("none", 0), ("XMAS", fin)] {
            let ports: Vec<u16> = if kind == "SYN" { (1..=u16::MAX).collect() } else { (6000..9000).collect() };
            world
                .netns
                .run(|| {
                    let wire = Wire::open("world")?;
                    for port in ports {
                        let _ = wire.send(&world.segment(port.into(), port, flags));
                    }
                    Ok(())
                })
                .with_context(|| kind.to_string())
                .unwrap();
        }
        // A source scan: the same port from everywhere.
        world
            .netns
            .run(|| {
                let wire = Wire::open("world")?;
                (0..20_000).for_each(|number| drop(wire.send(&world.segment(number, PORT, Tcp::SYN))));
                Ok(())
            })
            .unwrap();
        // And one who means it, afterwards.
        world.netns.run(|| talk((HERE, PORT).into())).unwrap();
        thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!((seen.opened.into_inner(), seen.strays.into_inner()), (1, 0));
    wait_until("no descriptor more than before", seconds(10), || {
        usage::settled_descriptors(bed.vonicd.engine().unwrap()).unwrap() <= before
    })
    .unwrap();
    bed.vonicd.stop().unwrap();
}
