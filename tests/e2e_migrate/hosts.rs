//! Two hosts with a vonicd each, a world that the test's own namespace is, and a service address that goes with the guest.
use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use vonic_tests::{
    Bed, Guest, GuestConfig, Lab, Netns, QemuConfig, Qmp, TempDir, TestConfig, Vmm, Vonicd, agent_program, ip, isolate,
    wait_for,
};

/// The world's end, and the guest's address in the world.
pub const WORLD: &str = "198.51.100.1";
pub const SERVICE: &str = "198.51.100.2";
pub const WORLD6: &str = "2001:db8:9::1";
pub const SERVICE6: &str = "2001:db8:9::2";

/// Forwards of the service's ports 7007 and 7009 to the guest's ports 7 and 9.
pub const FORWARD: &str = "[[forward]]\nproto = \"tcp\"\nlisten = \"*:7007\"\nport = 7\n\
    [[forward]]\nproto = \"tcp\"\nlisten = \"*:7009\"\nport = 9\n";

/// Bytes in a second: as fast as it goes.
const FAST: u64 = 4_000_000_000;

pub struct Hosts {
    pub beds: [Bed; 2],
    pub netns: [Netns; 2],
    pub at: usize,
    started: u32,
    limit: Duration,
}

/// What the two hosts are like.
#[derive(Default)]
pub struct Kind<'a> {
    /// More for the VM's file.
    pub vm: &'a str,
    /// They may not do without this what they may as root; and then nothing is run when a guest leaves or comes.
    pub lacks: [Option<&'a str>; 2],
}

fn hook(words: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", \"{words}\"]")
}

/// The service with hooks that take the addresses down and bring them up.
fn config(vm: &str, hooks: bool) -> TestConfig {
    let routes = |source: &str, source6: &str| {
        format!(
            "ip route replace 198.51.100.0/24 dev eth0{source}; ip -6 route replace 2001:db8:9::/64 dev eth0{source6}"
        )
    };
    let address = |what: &str, more: &str| {
        format!("ip addr {what} {SERVICE}/32 dev eth0; ip addr {what} {SERVICE6}/128 dev eth0{more}")
    };
    let depart = hook(&format!("{}; {}", address("del", ""), routes("", "")));
    let sources = (format!(" src {SERVICE}"), format!(" src {SERVICE6}"));
    let arrive = hook(&format!("{}; {}", address("add", " nodad"), routes(&sources.0, &sources.1)));
    let mut config = TestConfig::both_families().vm("a", 2, vm);
    let hooks = if hooks { format!("[migration]\ndepart = {depart}\narrive = {arrive}\n") } else { String::new() };
    config.service = format!("[network.default]\n{}{hooks}", std::mem::take(&mut config.network));
    config
}

impl Hosts {
    /// Both hosts; the addresses are on the first.
    pub fn new(vm: &str) -> Result<Hosts> {
        Hosts::of_kind(&Kind { vm, ..Kind::default() })
    }

    /// Both hosts, of that kind.
    pub fn of_kind(kind: &Kind<'_>) -> Result<Hosts> {
        isolate()?;
        ip("link add br0 type bridge")?;
        ip(&format!("addr add {WORLD}/24 dev br0"))?;
        ip(&format!("addr add {WORLD6}/64 dev br0 nodad"))?;
        ip("link set br0 up")?;
        let host = |n: usize| -> Result<(Bed, Netns)> {
            let netns = Netns::new()?;
            netns.plug(&format!("h{n}"), "eth0")?;
            // Whoever has the address has the same MAC: the world's neighbour table stays right. Where a MAC was last seen says nothing then:
            // one host's neighbour discovery would draw the other's frames.
            ip(&format!("link set h{n} master br0"))?;
            ip(&format!("link set h{n} type bridge_slave learning off"))?;
            netns.ip("link set eth0 address 52:54:00:00:01:00")?;
            netns.run(|| Ok(std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")?))?;
            netns.ip(&format!("addr add 203.0.113.{}/32 dev eth0", 1 + n))?;
            netns.ip("route add 198.51.100.0/24 dev eth0")?;
            netns.ip("-6 route add 2001:db8:9::/64 dev eth0")?;
            let directory = TempDir::new()?;
            let (bounds, inherited);
            let mut wrapper = Vec::new();
            if let Some(lacks) = kind.lacks[n] {
                (bounds, inherited) = (format!("--bounding-set=-{lacks}"), format!("--inh-caps=-{lacks}"));
                wrapper = vec!["setpriv", &bounds, &inherited, "--pdeathsig=SIGKILL"];
            }
            let hooks = kind.lacks.iter().all(Option::is_none);
            let vonicd = Vonicd::start_with(&directory, &config(kind.vm, hooks), Some(&netns), &wrapper)?;
            if n == 0 {
                netns.ip(&format!("addr add {SERVICE}/32 dev eth0"))?;
                netns.ip(&format!("addr add {SERVICE6}/128 dev eth0 nodad"))?;
                netns.ip(&format!("route replace 198.51.100.0/24 dev eth0 src {SERVICE}"))?;
                netns.ip(&format!("-6 route replace 2001:db8:9::/64 dev eth0 src {SERVICE6}"))?;
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
        let programs = vec![agent_program()?];
        let config = GuestConfig { name: name.clone(), memory: 128, ip6: true, programs, qemu, ..config };
        Ok((bed.start_configured(&config)?, name))
    }

    /// A guest's shell is there: it gets its IPv6 address.
    pub fn settle(guest: &mut Guest) -> Result<()> {
        guest.wait_ready()?;
        let address = "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::2/64 dev eth0 && \
            ip -6 route add default via 2001:db8::1 dev eth0 metric 100";
        guest.must(address, Duration::from_secs(20)).map(drop)
    }

    pub fn monitor(&self, at: usize, name: &str) -> Result<Qmp> {
        Qmp::connect(&self.beds[at].directory.path().join(format!("{name}.qmp")))
    }

    /// Begins to move the guest, whose VMM is `name`, to the other host; its VMM there.
    fn begin(&mut self, name: &str, parameters: &Value) -> Result<(Guest, String, [Qmp; 2])> {
        let there = 1 - self.at;
        let (arrived, new_name) = self.guest(there, true)?;
        // A monitor has one listener at a time.
        let mut source = self.monitor(self.at, name)?;
        let mut target = self.monitor(there, &new_name)?;
        source.execute("migrate-set-parameters", parameters)?;
        // The source hears whether the target has taken everything, and only then gives the guest up.
        let capabilities = json!({ "capabilities": [{ "capability": "return-path", "state": true }] });
        source.execute("migrate-set-capabilities", &capabilities)?;
        target.execute("migrate-set-capabilities", &capabilities)?;
        Ok((arrived, new_name, [source, target]))
    }

    /// The guest goes to the other host; its VMM there, and how long it stood still by the VMM's account.
    pub fn cross(&mut self, guest: Guest, name: &str) -> Result<(Guest, String, Duration)> {
        // The guest's pages change faster than a translated guest's are copied: it may stand still for as long as it takes.
        let parameters = json!({ "downtime-limit": 2000, "max-bandwidth": FAST });
        let (mut arrived, new_name, [mut source, mut target]) = self.begin(name, &parameters)?;
        source.migrate(&mut target, self.limit)?;
        let state = source.execute("query-migrate", &json!({}))?;
        let downtime = Duration::from_millis(state["downtime"].as_u64().unwrap_or_default());
        arrived.arrive(guest);
        self.at = 1 - self.at;
        Ok((arrived, new_name, downtime))
    }

    /// What there is of connections, for whoever wants to know which stands still and why: by vonic, by the guest's host, by the world
    /// and by the guest.
    pub fn describe(&self, guest: &mut Guest) -> Result<String> {
        let sockets = || {
            let output = Command::new("ss").args(["-tinoem"]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let parts = [
            self.here().vonicd.vonic_text(&["conns"])?,
            self.netns[self.at].run(sockets)?,
            sockets()?,
            guest.run("busybox netstat -tn", Duration::from_secs(20))?.stdout,
        ];
        Ok(parts.join("\n----\n"))
    }

    /// The other host does not take the guest.
    pub fn fail_to_cross(&mut self, name: &str) -> Result<String> {
        let parameters = json!({ "downtime-limit": 2000, "max-bandwidth": FAST });
        let (_arrived, _, [mut source, mut target]) = self.begin(name, &parameters)?;
        match source.migrate(&mut target, self.limit) {
            Ok(()) => anyhow::bail!("it has taken the guest"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// The operator thinks better of it while the guest's memory is copied.
    pub fn cancel(&mut self, name: &str) -> Result<()> {
        let slow = json!({ "downtime-limit": 1, "max-bandwidth": 1_000_000 });
        let (_arrived, _, [mut source, mut target]) = self.begin(name, &slow)?;
        target.execute("migrate-incoming", &json!({ "uri": "tcp:127.0.0.1:0" }))?;
        let listening = target.execute("query-migrate", &json!({}))?;
        let port = listening["socket-address"][0]["port"].as_str().unwrap_or_default().to_string();
        source.execute("migrate", &json!({ "uri": format!("tcp:127.0.0.1:{port}") }))?;
        wait_status(&mut source, "active", self.limit)?;
        source.execute("migrate_cancel", &json!({}))?;
        wait_status(&mut source, "cancelled", self.limit)
    }
}

fn wait_status(source: &mut Qmp, wanted: &str, limit: Duration) -> Result<()> {
    wait_for(wanted, limit, || {
        let state = source.execute("query-migrate", &json!({}))?;
        Ok((state["status"] == wanted).then_some(()))
    })
}
