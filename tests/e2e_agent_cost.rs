//! What does the agent cost its guest at one report a second? `VONIC_LONG=1` looks for longer.
//!
//! A busy host must not look like a busy agent. What a user-mode Linux takes of the host's processors the host knows to the nanosecond, and
//! it knows when it did not run: the difference that the agent makes to it is an upper bound, with everything that the kernel does for it.
//! QEMU translates, and so takes many times as much: there the guest's own account counts, by how much longer than they should the loops
//! of a shell took in the same seconds.
#![allow(clippy::print_stdout, reason = "figures")]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Command;
use std::time::{Duration, Instant};

use vonic_tests::usage::processor_time_of_group;
use vonic_tests::*;

/// The share of a core that it may take.
const BOUND: f64 = 0.005;
/// Connections that the guest has open meanwhile.
const SOCKETS: usize = 100;
/// How often it is looked at before the share is held to be what it takes.
const LOOKS: usize = 6;

/// What a group of processes takes of a processor, over an interval.
fn share(group: u32, interval: Duration) -> f64 {
    let (before, began) = (processor_time_of_group(group).unwrap(), Instant::now());
    // The measure itself: nothing is waited for.
    std::thread::sleep(interval);
    let spent = processor_time_of_group(group).unwrap().saturating_sub(before);
    spent.as_secs_f64() / began.elapsed().as_secs_f64()
}

/// Prints nanoseconds that the agent took, the guest's hundredths of a second around that, and those of a loop in each of its seconds
/// (proc_pid_schedstat).
fn command(interval: usize) -> String {
    let clock = "read u x </proc/uptime; u=${u%.*}${u#*.}";
    let spent = |process: &str| format!("read c x </proc/{process}/schedstat");
    let (agent, own) = (spent("$p"), spent("$$"));
    format!(
        "p=$(pidof vonic-agent); {clock}; a=$u; {agent}; b=$c; n=0; while [ $n -lt {interval} ]; do n=$((n+1)); sleep 1; {own}; d=$c; \
         i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; {own}; echo loop $((c-d)); done; {agent}; {clock}; echo all $((c-b)) $((u-a))"
    )
}

/// The agent's share by the guest's account, and what is left of it without the time in which the guest did not run.
fn own_account(guest: &mut Guest, job: &Job, interval: usize) -> (f64, f64) {
    let done = job.wait(guest, seconds(interval as u64 + 60)).unwrap();
    let numbers = |name: &str| -> Vec<f64> {
        let lines = done.stdout.lines().filter_map(|line| line.trim().strip_prefix(name));
        lines.flat_map(str::split_ascii_whitespace).map(|word| word.parse().unwrap()).collect()
    };
    let (loops, all) = (numbers("loop "), numbers("all "));
    assert_eq!((done.status, loops.len(), all.len()), (0, interval, 2), "{}", done.stdout);
    let shortest = loops.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = loops.iter().sum::<f64>() / loops.len() as f64;
    assert!(shortest > 0.0 && all[0] > 0.0, "nothing was measured: {}", done.stdout);
    let share = all[0] / (all[1] * 1e7);
    (share, share * shortest / mean)
}

fn boot(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Guest {
    let config = GuestConfig::new(name, number, &bed.socket(name)).on(vmm);
    let programs = vec![agent_program().unwrap()];
    bed.start_configured(&GuestConfig { programs, ..config }).unwrap()
}

#[test]
fn one_report_a_second_takes_less_than_half_a_percent_of_a_core() {
    let interval = if std::env::var_os("VONIC_LONG").is_some() { 60 } else { 20 };
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    let mut echo = Command::new(peer_program().unwrap());
    let log = bed.directory.path().join("echo.log");
    let echo = Process::start("echo", echo.args(["echo", "127.0.0.1:7009"]), None, &log).unwrap();
    wait_until("the echo", seconds(10), || echo.log().contains("listening")).unwrap();
    let (mut uml, mut qemu) = (boot(&bed, "a", 2, Vmm::Uml), boot(&bed, "b", 3, Vmm::Qemu));
    for guest in [&mut uml, &mut qemu] {
        guest.wait_ready().unwrap();
        let held = guest.spawn(&format!("vonic-peer hold 192.0.2.1:7009 {SOCKETS} /run/end")).unwrap();
        held.wait_output(guest, "open", seconds(30)).unwrap();
        // It looks every twentieth of a second whether it is to end.
        guest.must("kill -STOP $(pidof vonic-peer)", seconds(10)).unwrap();
    }
    let group = uml.process().pid();
    let idle = share(group, seconds(5));
    for (guest, name) in [(&mut uml, "a"), (&mut qemu, "b")] {
        guest.spawn("vonic-agent").unwrap();
        let told = || bed.vonicd.vm(name).unwrap()["guest"]["tcp"]["established"].as_u64() >= Some(SOCKETS as u64);
        wait_until("the first report", seconds(30), told).unwrap();
    }
    let uptime = |name: &str| bed.vonicd.vm(name).unwrap()["guest"]["uptime_seconds"].as_u64().unwrap();
    let mut best = [f64::INFINITY; 2];
    for _ in 0..LOOKS {
        let began = ["a", "b"].map(uptime);
        let job = qemu.spawn(&command(interval)).unwrap();
        let busy = share(group, seconds(interval as u64));
        let (accounted, own) = own_account(&mut qemu, &job, interval);
        println!(
            "user-mode Linux: {:.3} % of a core ({:.3} % without the agent); QEMU: {:.3} %, accounted as {:.3} %",
            (busy - idle) * 1e2,
            idle * 1e2,
            own * 1e2,
            accounted * 1e2
        );
        // Both have done their work meanwhile, all but what a slow machine may have left out.
        for (name, began) in ["a", "b"].into_iter().zip(began) {
            assert!(uptime(name) >= began + interval as u64 * 3 / 4, "{name} has not reported each second");
        }
        assert!(busy > 0.0, "nothing was measured");
        best = [best[0].min(busy - idle), best[1].min(own)];
        if best.iter().all(|share| *share < BOUND) {
            return;
        }
    }
    panic!("it costs {best:?} of a core at best");
}
