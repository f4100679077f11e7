//! What engines die under: guests whose connections of all kinds open, talk and end, both openers, by both families, with every byte
//! checked; and the look at all of it afterwards.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::crash::{Holdings, Killer};
use crate::guest::{Guest, GuestConfig, Job, Vmm};
use crate::netns::isolate;
use crate::process::Process;
use crate::server::PeerServer;
use crate::vonicd::TestConfig;
use crate::{lab, seconds};

/// Seconds that one wait on a client's socket may take, and on a server's in a guest.
const PATIENCE: u32 = 60;
const SERVERS_PATIENCE: u32 = 120;
/// The host's server for connections that are held.
const ECHO: &str = "[::]:6999";

/// How much goes on.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Of each guest. There are two at most.
    pub vmms: &'static [Vmm],
    /// Sessions at a time in each of the four ways: by the guest and by the world, over IPv4 and IPv6.
    pub sessions: u64,
    /// Connections that stay open all the time and exchange a few bytes again and again, half of them opened by either side.
    pub held: usize,
    /// One of a hundred of the host's TCP segments is lost, but for resets.
    pub loss: bool,
    /// The host's sockets have little memory: segments are taken in part, windows close.
    pub cramped: bool,
}

/// One guest's.
struct Churn {
    guest: Guest,
    served: Job,
    jobs: Vec<Job>,
    into: Vec<Process>,
    carrier: String,
}

/// A bed whose vonicd has its crash points, with all that on it.
pub struct Scene {
    /// Of its engines.
    pub killer: Killer,
    server: PeerServer,
    before: Holdings,
    churns: Vec<Churn>,
    _echo: Process,
    /// The service and its directory, in which the others have their logs.
    pub bed: Bed,
}

/// The port of the host at which forwards of the guest with this number listen; a hundred further is the one of what is held.
fn port(number: u8) -> u16 {
    7000 + u16::from(number)
}

/// VMs with these names and numbers on a vonicd with its crash points, with forwards to port 7 of each.
pub fn config(names: &[(&str, u8)]) -> TestConfig {
    let forward = |host: &str, from: u16, to: u16| {
        format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{host}:{from}\"\nport = {to}\n")
    };
    // Engines die of their VMs' frames here by order, again and again.
    let service = "quarantine = false".to_string();
    let config = TestConfig { service, crash_points: true, ..TestConfig::both_families() };
    names.iter().fold(config, |config, &(name, number)| {
        let port = port(number);
        let forwards = [forward("127.0.0.1", port, 7), forward("[::1]", port, 7), forward("127.0.0.1", port + 100, 8)];
        config.vm(name, number, &forwards.concat())
    })
}

/// A guest of [`config`], with IPv6 on.
///
/// # Errors
/// If it cannot be started.
pub fn start_guest(bed: &Bed, (name, number): (&str, u8), vmm: Vmm) -> Result<Guest> {
    let plain = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    bed.start_configured(&GuestConfig { ip6: true, ..plain })
}

/// How often a guest's link went away or came, and the driver's own view of it.
fn carrier(guest: &mut Guest) -> Result<String> {
    guest.must("cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier", seconds(10))
}

/// `vonic-peer` on the host.
fn on_host(bed: &Bed, name: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(lab::peer_program()?);
    command.args(arguments).env("VONIC_PEER_TIMEOUT", PATIENCE.to_string());
    Process::start(name, &mut command, None, &bed.directory.path().join(format!("{name}.log")))
}

impl Churn {
    fn start(bed: &Bed, mut guest: Guest, number: u8, (load, seed): (Load, u64), server: &PeerServer) -> Result<Churn> {
        let address = format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::{number}/64 dev eth0 && \
             ip -6 route add default via 2001:db8::1 dev eth0 metric 100"
        );
        guest.must(&address, seconds(10))?;
        let served = guest.spawn(&format!("VONIC_PEER_TIMEOUT={SERVERS_PATIENCE} vonic-peer serve [::]:7"))?;
        served.wait_output(&mut guest, "listening", seconds(10))?;
        let carrier = carrier(&mut guest)?;
        let mut churn = Churn { guest, served, jobs: Vec::new(), into: Vec::new(), carrier };
        let stop = bed.directory.path().join("stop").display().to_string();
        let threads = load.sessions.to_string();
        for (way, host, remote) in [(1, "127.0.0.1", "192.0.2.1"), (2, "[::1]", "[2001:db8::1]")] {
            let seed = seed.wrapping_add(way * 1_000_000);
            let to = format!("{remote}:{}", server.address().port());
            churn.in_guest(&format!("churn {to} {threads} {seed} /run/stop"))?;
            let (from, seed) = (format!("{host}:{}", port(number)), seed.wrapping_add(500_000).to_string());
            churn.into.push(on_host(bed, &format!("churn-{number}-{way}"), &["churn", &from, &threads, &seed, &stop])?);
        }
        if load.cramped {
            churn.press(server)?;
        }
        if load.held > 0 {
            churn.hold(bed, number, load.held / 2, &stop)?;
        }
        Ok(churn)
    }

    /// The guest's traffic tool, in the background.
    fn in_guest(&mut self, arguments: &str) -> Result<()> {
        self.jobs.push(self.guest.spawn(&format!("VONIC_PEER_TIMEOUT={PATIENCE} vonic-peer {arguments}"))?);
        Ok(())
    }

    /// Streams to a receiver that sleeps first: more than its memory holds.
    fn press(&mut self, server: &PeerServer) -> Result<()> {
        let send = format!("vonic-peer send 192.0.2.1:{} 3000017 7 3", server.address().port());
        let again = "until [ -e /run/stop ]; do";
        let press =
            format!("{again} VONIC_PEER_TIMEOUT={PATIENCE} VONIC_PEER_PAUSE=30 {send} >/run/press || break; done");
        self.jobs.push(self.guest.spawn(&format!("{press}; cat /run/press; [ -e /run/stop ]"))?);
        Ok(())
    }

    /// So many connections each way.
    fn hold(&mut self, bed: &Bed, number: u8, count: usize, stop: &str) -> Result<()> {
        let echo = self.guest.spawn("vonic-peer echo [::]:8")?;
        echo.wait_output(&mut self.guest, "listening", seconds(10))?;
        self.in_guest(&format!("busy 192.0.2.1:6999 {count} /run/stop"))?;
        let (from, count) = (format!("127.0.0.1:{}", port(number) + 100), count.to_string());
        self.into.push(on_host(bed, &format!("busy-{number}"), &["busy", &from, &count, stop])?);
        let open = |text: String| text.contains("\"stage\":\"open\"");
        let Churn { guest, jobs, into, .. } = self;
        let (Some(job), Some(process)) = (jobs.last(), into.last()) else { return Ok(()) };
        crate::wait_for("connections that are held", seconds(60), || {
            Ok((open(job.output(guest)?) && open(process.log())).then_some(()))
        })
    }

    /// Ends the sessions that run, and looks at all of them; how many there were.
    fn finish(&mut self, bed: &Bed) -> Result<u64> {
        bed.directory.write("stop", "")?;
        self.guest.must("touch /run/stop", seconds(20))?;
        let soon = self.jobs.iter().all(|job| job.wait(&mut self.guest, seconds(10)).is_ok());
        let hangs = if soon { String::new() } else { state(bed, &mut self.guest)? };
        let mut results = Vec::new();
        for job in &self.jobs {
            results.push(job.wait(&mut self.guest, seconds(120))?);
        }
        let mut told: Vec<String> = results.iter().map(|result| result.stdout.clone()).collect();
        let mut well = results.iter().all(|result| result.status == 0);
        for process in &mut self.into {
            well &= process.wait(seconds(120))?.success();
            told.push(process.log());
        }
        ensure!(well, "{told:#?}{hangs}");
        let served = self.served.output(&mut self.guest)?;
        let failed: Vec<&str> = served.lines().skip(1).filter(|line| !line.contains("\"error\":null")).collect();
        ensure!(failed.is_empty(), "the guest's server: {failed:#?}");
        let now = carrier(&mut self.guest)?;
        ensure!(now == self.carrier, "carrier changes and carrier were {:?} and are {now:?}", self.carrier);
        told.iter().map(|told| sessions(told).with_context(|| told.clone())).sum()
    }
}

/// What there is of connections when some do not come to an end: as vonic, the host and the guest see them.
fn state(bed: &Bed, guest: &mut Guest) -> Result<String> {
    let conns = bed.vonicd.vonic_text(&["conns"])?;
    let host = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    let [host4, host6] = host;
    let guest = guest.must("cat /proc/net/tcp /proc/net/tcp6", seconds(10))?;
    // With the kernel's view of each, where there is the program.
    let sockets = Command::new("ss").arg("-tinom").output().map(|output| output.stdout).unwrap_or_default();
    let sockets = String::from_utf8_lossy(&sockets);
    Ok(format!("\nvonic:\n{conns}\nhost:\n{}{}\n{sockets}\nguest:\n{guest}", host4?, host6?))
}

/// The sessions that a tool has told of.
fn sessions(told: &str) -> Result<u64> {
    let last: Value = serde_json::from_str(told.lines().next_back().unwrap_or_default())?;
    last["connections"].as_u64().context("connections")
}

impl Scene {
    /// In a network of its own.
    ///
    /// # Errors
    /// If a part is missing or does not start.
    pub fn start(load: Load, seed: u64) -> Result<Scene> {
        Scene::start_with(load, seed, |config| config)
    }

    /// The same on a configuration that is changed before.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn start_with(load: Load, seed: u64, change: impl FnOnce(TestConfig) -> TestConfig) -> Result<Scene> {
        isolate()?;
        if load.cramped {
            std::fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 8192 32768")?;
        }
        if load.loss {
            // A reset goes once, and whom it does not reach waits for ever, on any network.
            let rules = "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; \
                         add rule inet loss in tcp flags & rst == 0 numgen random mod 100 < 1 drop";
            ensure!(Command::new("nft").arg(rules).status()?.success(), "nft {rules}");
        }
        let names = [("a", 2), ("b", 3)];
        let mut bed = Bed::start_here(&change(config(&names[..load.vmms.len()])))?;
        let server = PeerServer::start("server", bed.directory.path(), "[::]:0", None)?;
        let echo = on_host(&bed, "echo", &["echo", ECHO])?;
        let start = |(name, vmm): (_, &Vmm)| start_guest(&bed, name, *vmm);
        let guests: Vec<Guest> = names.into_iter().zip(load.vmms).map(start).collect::<Result<_>>()?;
        guests.iter().try_for_each(Guest::wait_ready)?;
        let before = bed.vonicd.holdings()?;
        let start = |((_, number), guest)| Churn::start(&bed, guest, number, (load, seed), &server);
        let churns = names.into_iter().zip(guests).map(start).collect::<Result<_>>()?;
        let killer = Killer::new(&bed.directory)?;
        Ok(Scene { bed, killer, server, before, churns, _echo: echo })
    }

    /// Ends all that goes on, and vonicd; how many sessions there were.
    ///
    /// # Errors
    /// If one did not end well, a guest's link changed, or vonic has kept descriptors or records.
    pub fn finish(mut self) -> Result<u64> {
        let mut sessions = 0;
        for churn in &mut self.churns {
            let failures = || format!("the host's server: {:#?}", self.server.failures());
            sessions += churn.finish(&self.bed).with_context(failures)?;
        }
        let failures = self.server.failures();
        ensure!(failures.is_empty(), "the host's server: {failures:#?}");
        // The guests are still there. A connection in FIN-WAIT-2 or TIME-WAIT may have its record for a minute.
        self.bed.vonicd.holds_again(self.before, seconds(70))?;
        self.bed.vonicd.stop()?;
        Ok(sessions)
    }
}
