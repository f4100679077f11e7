//! Two hosts with a vonicd each, a world that the test's own namespace is, and a service address that goes with the guest.
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};
use vonic_tests::{
    Bed, Guest, GuestConfig, Lab, Netns, QemuConfig, Qmp, TempDir, TestConfig, Vmm, Vonicd, ip, isolate,
};

/// The world's end, and the guest's address in the world.
pub const WORLD: &str = "198.51.100.1";
pub const SERVICE: &str = "198.51.100.2";

/// A forward of the service's port 7007 to the guest's port 7.
pub const FORWARD: &str = "[[forward]]\nproto = \"tcp\"\nlisten = \"*:7007\"\nport = 7\n";

pub struct Hosts {
    pub beds: [Bed; 2],
    pub netns: [Netns; 2],
    pub at: usize,
    started: u32,
    limit: Duration,
}

fn hook(words: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", \"{words}\"]")
}

/// The service with hooks that take the address down and bring it up.
fn config(vm: &str) -> TestConfig {
    let route = "ip route replace 198.51.100.0/24 dev eth0";
    let depart = hook(&format!("ip addr del {SERVICE}/32 dev eth0; {route}"));
    let arrive = hook(&format!("ip addr add {SERVICE}/32 dev eth0; {route} src {SERVICE}"));
    let mut config = TestConfig::default().vm("a", 2, vm);
    config.network =
        format!("[network.default]\n{}[migration]\ndepart = {depart}\narrive = {arrive}\n", config.network);
    config.service = std::mem::take(&mut config.network);
    config
}

impl Hosts {
    /// Both hosts; the address is on the first.
    pub fn new(vm: &str) -> Result<Hosts> {
        isolate()?;
        ip("link add br0 type bridge")?;
        ip(&format!("addr add {WORLD}/24 dev br0"))?;
        ip("link set br0 up")?;
        let host = |n: usize| -> Result<(Bed, Netns)> {
            let netns = Netns::new()?;
            netns.plug(&format!("h{n}"), "eth0")?;
            ip(&format!("link set h{n} master br0"))?;
            // Whoever has the address has the same MAC: the world's neighbour table stays right.
            netns.ip("link set eth0 address 52:54:00:00:01:00")?;
            netns.ip(&format!("addr add 203.0.113.{}/32 dev eth0", 1 + n))?;
            netns.ip("route add 198.51.100.0/24 dev eth0")?;
            let directory = TempDir::new()?;
            let vonicd = Vonicd::start_with(&directory, &config(vm), Some(&netns), &[])?;
            if n == 0 {
                netns.ip(&format!("addr add {SERVICE}/32 dev eth0"))?;
                netns.ip(&format!("route replace 198.51.100.0/24 dev eth0 src {SERVICE}"))?;
            }
            Ok((Bed { vonicd, lab: Lab::open()?, directory }, netns))
        };
        let ((here, first), (there, second)) = (host(0)?, host(1)?);
        let (beds, netns) = ([here, there], [first, second]);
        Ok(Hosts { beds, netns, at: 0, started: 0, limit: Duration::from_secs(60) })
    }

    pub fn here(&self) -> &Bed {
        &self.beds[self.at]
    }

    pub fn there(&self) -> &Bed {
        &self.beds[1 - self.at]
    }

    /// A guest on the VM of a host, or a VMM that waits for one.
    pub fn guest(&mut self, at: usize, incoming: bool) -> Result<(Guest, String)> {
        let name = format!("g{}", self.started);
        self.started += 1;
        let bed = &self.beds[at];
        let config = GuestConfig::new("a", 2, &bed.socket("a")).on(Vmm::Qemu);
        let qemu = QemuConfig { incoming, ..QemuConfig::default() };
        Ok((bed.start_configured(&GuestConfig { name: name.clone(), memory: 128, qemu, ..config })?, name))
    }

    pub fn monitor(&self, at: usize, name: &str) -> Result<Qmp> {
        Qmp::connect(&self.beds[at].directory.path().join(format!("{name}.qmp")))
    }

    /// The guest goes to the other host; its VMM there, and how long it stood still by the VMM's account.
    pub fn cross(&mut self, guest: Guest, name: &str) -> Result<(Guest, String, Duration)> {
        let there = 1 - self.at;
        let (arrived, new_name) = self.guest(there, true)?;
        let mut source = self.monitor(self.at, name)?;
        let mut target = self.monitor(there, &new_name)?;
        let begun = Instant::now();
        // The guest's pages change faster than a translated guest's are copied: it may stand still for as long as it takes.
        source.execute(
            "migrate-set-parameters",
            &json!({ "downtime-limit": 2000, "max-bandwidth": 4_000_000_000_u64 }),
        )?;
        source.migrate(&mut target, self.limit)?;
        let state = source.execute("query-migrate", &json!({}))?;
        let downtime = Duration::from_millis(state["downtime"].as_u64().unwrap_or_default());
        drop(source);
        drop(guest);
        self.at = there;
        println!("crossed in {:.1?}, standing still for {downtime:?}", begun.elapsed());
        Ok((arrived, new_name, downtime))
    }
}
