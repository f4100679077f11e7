//! The ground on which real programs meet: one guest, and a world of servers in the test's namespace, on the host's loopback.

pub mod clients;
pub mod servers;

use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use vonic_tests::*;

/// The programs of the lab that guests run.
const GUEST_PROGRAMS: &[&str] =
    &["curl", "wget", "ssh", "scp", "dropbear", "iperf3", "netperf", "dig", "ping", "python3"];
/// How ssh and scp go to a server that nobody has met before; ssh would send keys only every 20 ms, to hide when they were pressed.
pub const SSH: &str = "-F /dev/null -o ObscureKeystrokeTiming=no -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
/// Files of an apt-like download.
pub const PARALLEL: u64 = 16;
/// Bytes of a small file.
pub const SMALL: u64 = 10_007;
/// The guest's servers, each at its own port and for the world at another.
const FORWARDS: &[(u16, u16)] = &[(2222, 22), (8080, 80), (5301, 5201), (7007, 7)];

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Where and how a program runs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub vmm: Vmm,
    pub mtu: u16,
    pub family: Family,
    /// One packet in a hundred is lost on the network's side.
    pub loss: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { vmm, mtu, family, loss } = self;
        write!(f, "{vmm:?} {mtu:>5} {family:?} {}", if *loss { "1 % loss" } else { "no loss " })
    }
}

impl Place {
    /// The world's address for the guest.
    pub fn world(&self) -> &'static str {
        match self.family {
            Family::V4 => "192.0.2.1",
            Family::V6 => "2001:db8::1",
        }
    }

    /// The same as in a URL.
    pub fn world_url(&self) -> &'static str {
        match self.family {
            Family::V4 => "192.0.2.1",
            Family::V6 => "[2001:db8::1]",
        }
    }

    /// Where the world finds what is forwarded to the guest.
    pub fn forwards(&self) -> &'static str {
        match self.family {
            Family::V4 => "127.0.0.1",
            Family::V6 => "::1",
        }
    }

    /// The same as in a URL.
    pub fn forwards_url(&self) -> &'static str {
        match self.family {
            Family::V4 => "127.0.0.1",
            Family::V6 => "[::1]",
        }
    }
}

/// How much each program moves.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Bytes of a large file; small ones are a sixteenth of it, about.
    pub file: u64,
    /// Length of a measurement, where bytes do not say it.
    pub seconds: u32,
    /// Silence of an idle connection.
    pub idle: u32,
    /// Numbers of parallel streams.
    pub streams: &'static [u32],
}

/// The guest, the service and the world.
pub struct Ground {
    pub guest: Guest,
    pub peer: PeerServer,
    _world: Vec<Process>,
    /// Behind what has its logs in its directory.
    pub bed: Bed,
    pub amount: Amount,
    /// Bytes of each file: the first is the large one.
    pub sizes: Vec<u64>,
    _outside: Netns,
}

/// `length` bytes of 0 to 250, again and again.
pub fn ramp(length: u64) -> Vec<u8> {
    (0..=250).cycle().take(length as usize).collect()
}

/// The SHA-256 of such bytes, in hexadecimal.
pub fn digest(length: u64) -> String {
    Sha256::digest(ramp(length)).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn web_server(port: u16, folder: &str) -> String {
    let folders =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {folder}/{kind};"));
    format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{ worker_connections 512; }}\n\
         http {{ access_log off; {} server {{ listen {port}; listen [::]:{port}; root {folder}/www; }} }}\n",
        folders.concat()
    )
}

impl Ground {
    /// A service, the world's servers, and a guest with its own.
    pub fn start(vmm: Vmm, mtu: u16, amount: Amount) -> Result<Ground> {
        let forwards: Vec<String> = FORWARDS
            .iter()
            .map(|(listen, port)| format!("[[forward]]\nproto = \"tcp\"\nlisten = \"*:{listen}\"\nport = {port}\n"))
            .collect();
        let more = format!("mtu = {mtu}\nlimits = {{ new_per_second = 100000 }}\n{}", forwards.concat());
        isolate()?;
        // Some programs ask for no address of a family that the host has on its loopback only (getaddrinfo(3), AI_ADDRCONFIG).
        let outside = Netns::new()?;
        outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24")?;
        ip("addr add 2001:db8:7::1/64 dev wire nodad")?;
        let bed = Bed::start_here(&TestConfig::both_families().vm("a", 2, &more))?;
        let sizes: Vec<u64> = std::iter::once(amount.file)
            .chain((0..PARALLEL).map(|number| amount.file / PARALLEL + 251 * number * number + number))
            .collect();
        for (number, size) in sizes.iter().enumerate() {
            bed.directory.write(&format!("www/{number}"), ramp(*size))?;
        }
        bed.directory.write("apps.py", include_str!("../support/guest/apps.py"))?;
        bed.directory.write("wrk.lua", include_str!("../support/guest/wrk.lua"))?;
        bed.directory.write("world.conf", web_server(8000, "/tmp"))?;
        bed.directory.write("guest.conf", web_server(80, "/run"))?;
        run_in_world(&bed, "ssh-keygen -q -t ed25519 -N '' -f id && dropbearkey -t ed25519 -f hostkey", seconds(20))?;
        let world = start_world(&bed)?;
        let peer = PeerServer::start("checked", bed.directory.path(), "[::]:9007", None)?;
        let plain = GuestConfig::new("a", 2, &bed.socket("a")).on(vmm);
        let programs = ["apps.py", "guest.conf", "id", "id.pub", "hostkey"].map(|name| bed.directory.path().join(name));
        let lab_programs = GUEST_PROGRAMS.iter().map(ToString::to_string).collect();
        let config = GuestConfig { ip6: true, memory: 512, programs: programs.to_vec(), lab_programs, ..plain };
        let guest = bed.start_configured(&config)?;
        let mut ground = Ground { guest, bed, amount, peer, sizes, _world: world, _outside: outside };
        ground.prepare_guest(vmm)?;
        Ok(ground)
    }

    fn prepare_guest(&mut self, vmm: Vmm) -> Result<()> {
        self.guest.wait_ready()?;
        let large = self.sizes[0];
        // No time is spent on duplicate address detection; busybox's ip has no word for it.
        let steps = [
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 2001:db8::2/64 dev eth0".to_string(),
            "ip -6 route add default via 2001:db8::1 dev eth0 metric 100".to_string(),
            "mkdir -p /dev/pts /run/ssh /run/www && mount -t devpts devpts /dev/pts && chmod 700 /run /run/ssh"
                .to_string(),
            "cp /tmp/id /run/id && chmod 600 /run/id && cp /tmp/id.pub /run/ssh/authorized_keys".to_string(),
            format!(
                "python3 /tmp/apps.py write /run/www/0 {large} && python3 /tmp/apps.py write /run/www/small {SMALL}"
            ),
        ];
        for step in steps {
            self.guest.must(&step, seconds(30))?;
        }
        let web = match vmm {
            Vmm::Uml => "nginx -c /tmp/guest.conf",
            Vmm::Qemu => "busybox httpd -f -p [::]:80 -h /run/www",
        };
        let servers = [
            web,
            "dropbear -F -E -p 22 -r /tmp/hostkey -D /run/ssh -P /run/dropbear.pid",
            "TMPDIR=/run iperf3 -s",
            "vonic-peer serve [::]:7",
        ];
        for server in servers {
            self.guest.spawn(server)?;
        }
        for port in [22, 80, 5201, 7] {
            let listens = format!("grep -qi ':{port:04x} 0*:0000 0A' /proc/net/tcp /proc/net/tcp6");
            wait_until(&format!("the guest's port {port}"), seconds(20), || {
                self.guest.run(&listens, seconds(5)).is_ok_and(|output| output.status == 0)
            })?;
        }
        Ok(())
    }

    /// Runs a shell command in the world; what it printed.
    pub fn world(&self, command: &str, limit: Duration) -> Result<String> {
        run_in_world(&self.bed, command, limit)
    }
}

fn start_world(bed: &Bed) -> Result<Vec<Process>> {
    let servers = [
        ("nginx", "exec nginx -c /tmp/world.conf"),
        // It trusts keys only where nobody else can write; the mount is the process's own.
        (
            "dropbear",
            "mount -t tmpfs -o mode=700 none /mnt && cp /tmp/id.pub /mnt/authorized_keys && \
             exec dropbear -F -E -p 2022 -r /tmp/hostkey -D /mnt -P /mnt/pid",
        ),
        ("iperf3", "exec iperf3 -s"),
        ("netserver4", "exec netserver -D -4 -L 127.0.0.1"),
        ("netserver6", "exec netserver -D -6 -L ::1"),
        ("apps", "exec python3 /tmp/apps.py world"),
    ];
    let mut started = Vec::new();
    for (name, words) in servers {
        started.push(bed.lab.start(
            name,
            &bed.directory,
            Command::new("sh").args(["-c", words]).env("TMPDIR", "/tmp"),
        )?);
    }
    for port in [8000, 2022, 5201, 12865, 8001] {
        for address in ["127.0.0.1", "::1"] {
            wait_until(&format!("the world's port {port} of {address}"), seconds(20), || {
                std::net::TcpStream::connect((address, port)).is_ok()
            })?;
        }
    }
    Ok(started)
}

fn run_in_world(bed: &Bed, command: &str, limit: Duration) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("world-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("cd /tmp && {command}")])
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp");
    let mut process = bed.lab.start(&name, &bed.directory, &mut shell)?;
    let status = process.wait(limit).with_context(|| format!("`{command}`: {}", process.log()))?;
    check(status.success(), || format!("`{command}` in the world ended with {status}: {}", process.log()))?;
    Ok(process.log().trim_end().to_string())
}

/// An error unless `good`.
pub fn check(good: bool, message: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(Error::msg(message())) }
}
