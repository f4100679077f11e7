//! The guest's programs as clients of the world's servers.

use std::collections::BTreeSet;

use serde_json::Value;
use vonic_tests::*;

use super::{Ground, PARALLEL, Place, SSH, check, digest};

/// How a row of the table ends: what the program moved or measured.
pub type Figure = Result<String>;

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| text.to_string())
}

/// A number of a report.
pub fn number(report: &Value, name: &str) -> Result<f64> {
    report[name].as_f64().with_context(|| format!("{name} in {report}"))
}

fn limit(place: &Place) -> std::time::Duration {
    seconds(if place.loss || place.vmm == Vmm::Qemu { 120 } else { 60 })
}

/// A large file down, checked, and up again, of which the server says the SHA-256.
pub fn curl(ground: &mut Ground, place: &Place) -> Figure {
    let (to, wanted) = (place.world_url(), digest(ground.sizes[0]));
    let command = format!(
        "curl -sS -o /run/got -w '%{{speed_download}} ' http://{to}:8000/0 && sha256sum </run/got && \
         curl -sS -T /run/got -w ' %{{speed_upload}}' http://{to}:8001/put; rm /run/got"
    );
    let said = ground.guest.must(&command, limit(place))?;
    check(said.matches(&wanted).count() == 2, || format!("not twice {wanted}: {said}"))?;
    let rate = |word: Option<&str>| word.and_then(|word| word.parse::<f64>().ok()).map_or(0.0, |rate| rate * 8e-6);
    let mut words = said.split_ascii_whitespace();
    Ok(format!("down {:.0}, up {:.0} Mbit/s", rate(words.next()), rate(words.last())))
}

/// A large file down.
pub fn wget(ground: &mut Ground, place: &Place) -> Figure {
    let said =
        ground.guest.must(&format!("wget -q -O - http://{}:8000/0 | sha256sum", place.world_url()), limit(place))?;
    check(said.starts_with(&digest(ground.sizes[0])), || said.clone())?;
    Ok(format!("{} bytes", ground.sizes[0]))
}

/// Sixteen files at once, as a package manager's.
pub fn parallel_downloads(ground: &mut Ground, place: &Place) -> Figure {
    let to = place.world_url();
    let command = format!(
        "mkdir /run/got && cd /run/got && curl -sS -Z --parallel-immediate --parallel-max {PARALLEL} -O http://{to}:8000/[1-{PARALLEL}] && \
         for n in $(seq 1 {PARALLEL}); do sha256sum <$n; done; rm -r /run/got"
    );
    let said = ground.guest.must(&command, limit(place))?;
    let got: Vec<String> = said.lines().map(|line| line.split(' ').next().unwrap_or_default().to_string()).collect();
    let wanted: Vec<String> = ground.sizes[1..].iter().map(|size| digest(*size)).collect();
    check(got == wanted, || said.clone())?;
    Ok(format!("{PARALLEL} files, {} bytes", ground.sizes[1..].iter().sum::<u64>()))
}

/// What a session's keys said.
pub fn typed(text: &str, place: &Place) -> Figure {
    let report = json(text)?;
    let (median, worst) = (number(&report, "median_ms")?, number(&report, "worst_ms")?);
    // A key that waits for a delayed acknowledgement is 40 ms late.
    check(place.loss || place.vmm == Vmm::Qemu || median < 35.0, || format!("slow echoes: {report}"))?;
    Ok(format!("echo {median:.2} ms, worst {worst:.1}"))
}

/// A command fed through ssh, a session at a terminal, and files by scp both ways.
pub fn ssh(ground: &mut Ground, place: &Place) -> Figure {
    let (to, url, wanted) = (place.world(), place.world_url(), digest(ground.sizes[0]));
    let keys = format!("-i /run/id {SSH}");
    let fed = format!("ssh {keys} -p 2022 root@{to} sha256sum </run/www/0");
    let said = ground.guest.must(&fed, limit(place))?;
    check(said.starts_with(&wanted), || said.clone())?;
    let session = format!("python3 /tmp/apps.py type_keys 100 ssh {keys} -tt -p 2022 root@{to} 'tty && cat'");
    let echoes = typed(&ground.guest.must(&session, limit(place))?, place)?;
    let copies = format!(
        "cd /run && scp -q -O {keys} -P 2022 root@{url}:/tmp/www/0 got && cmp got www/0 && \
         scp -q -O {keys} -P 2022 got root@{url}:/tmp/copy && rm got"
    );
    ground.guest.must(&copies, limit(place))?;
    ground.world("cmp copy www/0 && rm copy", seconds(10))?;
    Ok(format!("{echoes}; scp {} bytes each way", ground.sizes[0]))
}

/// What a client of iperf3 prints of its report: the sums.
pub const IPERF3_SUMS: &str = "-J | sed -n '/\"sum_\\(sent\\|received\\)/,/}/p; /\"error\"/p'";

/// Runs a client of iperf3 by `run`. Between two tests its server closes its listening socket, and whoever has connected by then is reset,
/// on a plain loopback too: such a client goes again.
pub fn iperf3_report(mut run: impl FnMut() -> Result<String>) -> Figure {
    const TOO_EARLY: &str = "unable to receive control message";
    let first = run()?;
    let said = if first.contains(TOO_EARLY) {
        std::thread::sleep(seconds(1));
        run()?
    } else {
        first
    };
    iperf3_rates(&said)
}

/// Received Mbit/s of each direction, and segments that the senders sent again.
fn iperf3_rates(said: &str) -> Figure {
    let report = json(&format!("{{{}}}", said.trim().trim_end_matches(',')))?;
    let sums = |what: &str, member: &str| -> Vec<f64> {
        let sums = report.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with(what));
        sums.filter_map(|(_, sum)| sum[member].as_f64()).collect()
    };
    let rates: Vec<f64> = sums("sum_received", "bits_per_second").iter().map(|rate| rate / 1e6).collect();
    check(!rates.is_empty() && rates.iter().all(|rate| *rate > 0.1), || report.to_string())?;
    let again: f64 = sums("sum_sent", "retransmits").iter().sum();
    let again = if again > 0.0 { format!(" ({again} again)") } else { String::new() };
    let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    Ok(format!("{}{again}", rates.join("+")))
}

/// Every direction and number of streams under iperf3, and the same number of checked streams both ways at once.
pub fn iperf3(ground: &mut Ground, place: &Place) -> Figure {
    let (to, time) = (place.world(), ground.amount.seconds);
    let mut figures = Vec::new();
    for streams in ground.amount.streams {
        for direction in ["", "-R", "--bidir"] {
            let command = format!("TMPDIR=/run iperf3 -c {to} -t {time} -P {streams} {direction} {IPERF3_SUMS}");
            let figure = iperf3_report(|| ground.guest.must(&command, limit(place)))?;
            figures.push(format!("{streams}{direction} {figure}"));
        }
        checked_streams(ground, place, *streams)?;
    }
    Ok(format!("Mbit/s {}", figures.join(", ")))
}

fn checked_streams(ground: &mut Ground, place: &Place, streams: u32) -> Result<()> {
    let bytes = ground.amount.file / u64::from(streams);
    let command = format!("vonic-peer both {}:9007 {bytes} {streams} {streams}", place.world_url());
    let said = ground.guest.must(&command, limit(place))?;
    good_sessions(ground, &said, streams)
}

/// What the guest says of checked streams, and what the world's server says of each.
fn good_sessions(ground: &mut Ground, said: &str, sessions: u32) -> Result<()> {
    check(said.contains("\"failures\":[]"), || said.to_string())?;
    for _ in 0..sessions {
        let report = ground.peer.report(seconds(20))?;
        check(report["error"].is_null(), || report.to_string())?;
    }
    Ok(())
}

/// Connections one after the other, each with checked bytes.
pub fn short_connections(ground: &mut Ground, place: &Place) -> Figure {
    let count = 40 * ground.amount.seconds;
    let said =
        ground.guest.must(&format!("vonic-peer connections {}:9007 {count}", place.world_url()), limit(place))?;
    good_sessions(ground, &said, count)?;
    Ok(format!("{count} in {:.2} s", number(&json(&said)?, "seconds")?))
}

/// Transactions a second on one connection, with a connection each, and of datagrams. Under loss only the first: netperf never asks again
/// after a datagram that was lost, and mostly gives up a connection that the world still waits for when its time is over.
pub fn netperf(ground: &mut Ground, place: &Place) -> Figure {
    let tests: &[&str] = if place.loss { &["TCP_RR"] } else { &["TCP_RR", "TCP_CRR", "UDP_RR"] };
    transactions(ground, place, tests)
}

fn transactions(ground: &mut Ground, place: &Place, tests: &[&str]) -> Figure {
    let time = ground.amount.seconds;
    let mut figures = Vec::new();
    for test in tests {
        // A fixed data port, as through every address translation.
        let more = "-- -P ,12866 -r 251,251";
        let said = vonic_tests::netperf(&mut ground.guest, test, place.world(), time.into(), more, seconds(30))?;
        let rate: f64 = said
            .lines()
            .find_map(|line| line.split_ascii_whitespace().nth(5)?.parse().ok())
            .with_context(|| said.clone())?;
        check(rate > 1.0, || said.clone())?;
        figures.push(format!("{test} {rate:.0}/s"));
    }
    Ok(figures.join(", "))
}

/// Names over TCP, of answers of one segment and of many.
pub fn dig_tcp(ground: &mut Ground, place: &Place) -> Figure {
    dig(ground, place, &[(1, "+tcp"), (60, "+tcp")])
}

/// Names over UDP: a small answer, one that fills a packet, one that fits no packet and is asked for again by TCP.
pub fn dig_udp(ground: &mut Ground, place: &Place) -> Figure {
    dig(ground, place, &[(1, "+notcp"), (4, "+notcp"), (40, "+notcp")])
}

fn dig(ground: &mut Ground, place: &Place, questions: &[(usize, &str)]) -> Figure {
    for (strings, how) in questions {
        let command = format!("dig +short -p 5353 @{} TXT t{strings}.test {how}", place.world());
        let said = ground.guest.must(&command, limit(place))?;
        // It says so if it has to ask again, as it may where packets are lost.
        let answers = said.lines().filter(|line| !(place.loss && line.starts_with(";;")));
        let got: BTreeSet<&str> = answers.map(|line| line.trim_matches('"')).collect();
        let wanted: Vec<String> = (0..*strings).map(name_text).collect();
        check(got == wanted.iter().map(String::as_str).collect(), || said.clone())?;
    }
    Ok(format!("{} questions", questions.len()))
}

/// A string of the world's answers about names: apps.py has the same.
fn name_text(number: usize) -> String {
    ('a'..='z').chain('A'..='Z').chain('0'..='9').cycle().skip(number).take(251).collect()
}

/// Echoes of every kind of size, whose bytes ping compares.
pub fn ping(ground: &mut Ground, place: &Place) -> Figure {
    let mut lost = 0;
    for size in [56, 1399] {
        let command = format!("ping -i 0.02 -c 25 -W 2 -s {size} {}", place.world());
        let said = ground.guest.run(&command, seconds(20))?.stdout;
        check(!said.contains("wrong data"), || said.clone())?;
        let (_, rest) = said.split_once("transmitted, ").with_context(|| said.clone())?;
        let came: u32 = rest.split(' ').next().and_then(|word| word.parse().ok()).with_context(|| said.clone())?;
        lost += 25 - came;
        check(came == 25 || (place.loss && came >= 20), || said.clone())?;
    }
    Ok(format!("{} of 50 echoes", 50 - lost))
}

/// An HTTP answer that takes its time.
pub fn long_poll(ground: &mut Ground, place: &Place) -> Figure {
    let said =
        ground.guest.must(&format!("curl -sS http://{}:8001/long?3 | sha256sum", place.world_url()), limit(place))?;
    check(said.starts_with(&digest(100_003)), || said.clone())?;
    Ok("3 s".to_string())
}

/// Starts a WebSocket's client in the guest's background.
pub fn start_idle(ground: &mut Ground, place: &Place) -> Result<Job> {
    let idle = ground.amount.idle;
    ground.guest.spawn(&format!("python3 /tmp/apps.py idle {} 8001 {idle}", place.world()))
}

/// The client's end: the connection still worked after its silence.
pub fn end_idle(ground: &mut Ground, job: &Job) -> Figure {
    let output = job.wait(&mut ground.guest, seconds(u64::from(ground.amount.idle) + 30))?;
    check(output.status == 0, || format!("{output:?}"))?;
    let report = json(output.stdout.lines().last().unwrap_or_default())?;
    let first = |name: &str| report[name][0].as_f64().unwrap_or(f64::MAX);
    Ok(format!(
        "silent for {} s; echo {:.1} ms before, {:.1} after",
        ground.amount.idle,
        first("before_ms"),
        first("after_ms")
    ))
}
