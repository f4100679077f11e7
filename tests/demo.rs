//! `make demo`: two guests on one vonicd, each promise shown once, the numbers in one table. Exit code 0 if all of it held.
//!
//! The configuration is `qemu-configs/demo`; guests run under user-mode Linux, or under QEMU with `DEMO_VMM=qemu`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::{
    Context, Guest, GuestConfig, Lab, Result, TempDir, TestConfig, Vmm, Vonicd, isolate, seconds, wait_for,
};

const MIB: usize = 1 << 20;
const FETCHED: usize = 256 * MIB;
const SERVED: usize = 64 * MIB;
const SPOOFED: u64 = 10;
/// Generous, since QEMU without KVM is slow.
const TRANSFER: Duration = seconds(120);

fn main() -> ExitCode {
    let start = Instant::now();
    match demo(&|line: &str| println!("{:6.1} s  {line}", start.elapsed().as_secs_f64())) {
        Ok(()) => {
            println!("{:6.1} s  everything held; nothing is left behind", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{:6.1} s  FAILED: {error:#}", start.elapsed().as_secs_f64());
            ExitCode::FAILURE
        }
    }
}

fn demo(say: &dyn Fn(&str)) -> Result<()> {
    let vmm = if std::env::var("DEMO_VMM").is_ok_and(|name| name == "qemu") { Vmm::Qemu } else { Vmm::Uml };
    isolate()?;
    let lab = Lab::open()?;
    let directory = TempDir::new()?;
    let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-configs/demo");
    let config = TestConfig::from_dir(&configuration)?;
    let vonicd = Vonicd::start(&directory, &config)?;
    say("vonicd runs with the VMs a and b");
    show(run(say, &vonicd, &lab, &directory, vmm), &vonicd)?;
    vonicd.stop().context("stopping vonicd")
}

/// Adds vonicd's log to a failure.
fn show<T>(result: Result<T>, vonicd: &Vonicd) -> Result<T> {
    result.with_context(|| format!("vonicd's log:\n{}\n", vonicd.log()))
}

/// What was measured by the demo itself, in bytes per second.
struct Measured {
    ping: String,
    guest_fetches: f64,
    host_fetches: f64,
}

fn run(say: &dyn Fn(&str), vonicd: &Vonicd, lab: &Lab, directory: &TempDir, vmm: Vmm) -> Result<()> {
    let guest = |name: &str, number| {
        let config = GuestConfig { memory: 768, ..GuestConfig::new(name, number, &vonicd.socket(name)).on(vmm) };
        Guest::start(lab, directory, &config)
    };
    let (mut a, mut b) = (guest("a", 2)?, guest("b", 3)?);
    a.wait_ready()?;
    b.wait_ready()?;
    say(&format!("two guests have booted ({vmm:?}): {} and {}", kernel(&mut a)?, kernel(&mut b)?));

    let ping = ping(&mut a)?;
    say(&format!("a pings b: {ping}"));
    let guest_fetches = fetch_from_host(&mut a)?;
    say(&format!("a has fetched 256 MiB from the host's web server, SHA-256 right: {}", rate(guest_fetches)));
    let host_fetches = fetch_from_guest(&mut b)?;
    say(&format!("the host has fetched 64 MiB from b's web server, SHA-256 right: {}", rate(host_fetches)));
    spoof(vonicd, &mut a)?;
    say(&format!(
        "a has sent {SPOOFED} frames with b's MAC and {SPOOFED} ARP answers for b's address: dropped and counted"
    ));

    let stats = vonicd.stats()?;
    table(&stats, &Measured { ping, guest_fetches, host_fetches });
    check(&stats)?;
    a.power_off()?;
    b.power_off()
}

fn kernel(guest: &mut Guest) -> Result<String> {
    Ok(format!("Linux {}", guest.must("uname -r", seconds(10))?))
}

fn rate(bytes_per_second: f64) -> String {
    format!("{:.2} Gbit/s", bytes_per_second * 8.0 / 1e9)
}

fn ping(a: &mut Guest) -> Result<String> {
    let output = a.must("ping -c 5 -i 0.2 -W 2 192.0.2.3", seconds(20))?;
    let summary = output.lines().find(|line| line.contains("packet loss")).context("ping's summary")?;
    anyhow::ensure!(summary.contains(" 0% packet loss"), "{output}");
    let times = output.lines().last().and_then(|line| line.split_once("= ")).context("ping's times")?;
    Ok(format!("0 % lost, round trip min/avg/max {}", times.1))
}

/// A web server for one request of one file, on the host's loopback.
fn serve_once(listener: &TcpListener, content: &[u8]) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(TRANSFER))?;
    stream.set_write_timeout(Some(TRANSFER))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::from("x");
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", content.len())?;
    stream.write_all(content)?;
    Ok(())
}

fn fetch_from_host(a: &mut Guest) -> Result<f64> {
    let mut content = vec![0; FETCHED];
    vonic_peer::pattern::fill(&mut content, 1, 0);
    let digest = hex(&Sha256::digest(&content));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let elapsed = std::thread::scope(|scope| {
        let server = scope.spawn(|| serve_once(&listener, &content));
        let start = Instant::now();
        let fetched = a.must(&format!("busybox wget -q -O /run/file http://192.0.2.1:{port}/file"), TRANSFER);
        let elapsed = start.elapsed();
        // A server that was never reached must not keep the demo waiting.
        drop(TcpStream::connect(("127.0.0.1", port)));
        let served = server.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the web server died")));
        fetched?;
        served.map(|()| elapsed)
    })?;
    let found = a.must("sha256sum /run/file; rm /run/file", TRANSFER)?;
    anyhow::ensure!(found.starts_with(&digest), "a has {found}, the file's is {digest}");
    Ok(FETCHED as f64 / elapsed.as_secs_f64())
}

fn fetch_from_guest(b: &mut Guest) -> Result<f64> {
    let count = SERVED / MIB;
    b.must(&format!("mkdir /run/www; dd if=/dev/urandom of=/run/www/file bs=1M count={count}"), TRANSFER)?;
    let digest = b.must("sha256sum /run/www/file", TRANSFER)?;
    b.must("busybox httpd -p 80 -h /run/www", seconds(10))?;
    let start = Instant::now();
    let content = get("127.0.0.1:8080", "/file")?;
    let elapsed = start.elapsed();
    let found = hex(&Sha256::digest(&content));
    anyhow::ensure!(digest.starts_with(&found), "the host has {found}, b's file has {digest}");
    Ok(content.len() as f64 / elapsed.as_secs_f64())
}

/// One HTTP/1.0 request; the body.
fn get(address: &str, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to the forward {address}"))?;
    stream.set_read_timeout(Some(TRANSFER))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::with_capacity(SERVED + 4096);
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("an HTTP answer")?;
    anyhow::ensure!(
        answer.starts_with(b"HTTP/1.") && answer[9..12] == *b"200",
        "{}",
        String::from_utf8_lossy(&answer[..head])
    );
    Ok(answer.split_off(head + 4))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// a sends under b's name: with b's MAC, and ARP answers that claim b's address.
fn spoof(vonicd: &Vonicd, a: &mut Guest) -> Result<()> {
    let before = [vonicd.drops("a", "spoofed_mac")?, vonicd.drops("a", "spoofed_arp")?];
    let as_b = frames::ping((mac(3), frames::BROADCAST), ip4(2), ip4(3), 1, b"not b");
    let claim = frames::arp(mac(2), 2, (mac(2), ip4(3)), (frames::BROADCAST, ip4(3)));
    for frame in [as_b, claim] {
        a.must(&format!("vonic-peer inject eth0 {} {SPOOFED}", frames::hex(&frame)), seconds(20))?;
    }
    wait_for("the drop counters", seconds(10), || {
        let now = [vonicd.drops("a", "spoofed_mac")?, vonicd.drops("a", "spoofed_arp")?];
        Ok((now == before.map(|count| count + SPOOFED)).then_some(()))
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// `vonic stats --json` for people.
fn table(stats: &Value, measured: &Measured) {
    let row = |what: &str, value: &str| println!("  {what:<44} {value}");
    let line = || println!("  {}", "-".repeat(78));
    println!();
    line();
    row("a to b, ping", &measured.ping);
    row("host to a, TCP terminated, 256 MiB", &rate(measured.guest_fetches));
    row("b to host, forward, 64 MiB", &rate(measured.host_fetches));
    line();
    for (path, bytes) in stats["copied_bytes"].as_object().into_iter().flatten() {
        row(&format!("bytes copied by vonic, {path}"), &number(bytes).to_string());
    }
    for (name, vm) in stats["vms"].as_object().into_iter().flatten() {
        line();
        for direction in ["guest_to_host", "host_to_guest"] {
            let traffic = &vm[direction];
            let text = format!("{} frames, {} bytes", number(&traffic["frames"]), number(&traffic["bytes"]));
            row(&format!("{name}, {direction}"), &text);
        }
        row(&format!("{name}, open connections"), &number(&vm["connections"]).to_string());
        for (counter, value) in vm["tcp"].as_object().into_iter().flatten().filter(|(_, value)| number(value) > 0) {
            row(&format!("{name}, tcp {counter}"), &number(value).to_string());
        }
        for (reason, counts) in vm["drops_by_reason"].as_object().into_iter().flatten() {
            let sum: u64 = counts.as_object().into_iter().flatten().map(|(_, count)| number(count)).sum();
            if sum > 0 {
                row(&format!("{name}, dropped: {reason}"), &sum.to_string());
            }
        }
    }
    line();
    println!();
}

/// The promise about copies: none between a guest and the host's sockets.
fn check(stats: &Value) -> Result<()> {
    for path in ["guest_to_host", "host_to_guest"] {
        anyhow::ensure!(stats["copied_bytes"][path] == 0, "copied_bytes.{path} should be 0: {}", stats["copied_bytes"]);
    }
    Ok(())
}
