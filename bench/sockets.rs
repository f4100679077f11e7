//! Terminated traffic and the switch, on user-mode Linux guests, beside passt.

use vonic_tests::{Bed, Guest, GuestConfig, Netns, Process, Result, TempDir, TestConfig, isolate, seconds};

use crate::book::{Book, Stage};
use crate::passt::Passt;
use crate::plan::Sample;
use crate::row::{Case, Target};
use crate::traffic::{HOST, Streams, Way, stream_server, transaction_server, transactions};

/// What a guest does for a row.
#[derive(Clone, Copy)]
enum Load {
    Streams(Streams),
    Transactions(&'static str),
    /// vonic's guest sends another of its guests a stream; passt's takes one from the host.
    Neighbour,
}

type Rows = &'static [(Case, Load)];

const fn ratio(id: &'static str, load: &'static str, unit: &'static str, floor: f64, aim: f64) -> Case {
    Case { id, load, unit, peer: "passt", target: Target::Ratio { floor, aim } }
}

const fn stream(way: Way) -> Load {
    Load::Streams(Streams::one(way))
}

static SMALL: [(Case, Load); 6] = [
    (ratio("stream-1500-to-host", "one TCP stream, MTU 1500, guest to host", "Gbit/s", 2.0, 3.0), stream(Way::ToHost)),
    (
        ratio("stream-1500-to-guest", "one TCP stream, MTU 1500, host to guest", "Gbit/s", 2.0, 3.0),
        stream(Way::FromHost),
    ),
    (
        ratio("streams-8-both", "8 TCP streams, MTU 1500, both directions at once", "Gbit/s", 1.5, 2.5),
        Load::Streams(Streams { count: 8, way: Way::Both }),
    ),
    (ratio("tcp-rr", "netperf TCP_RR", "/s", 1.3, 2.0), Load::Transactions("TCP_RR")),
    (ratio("udp-rr", "netperf UDP_RR", "/s", 1.3, 2.0), Load::Transactions("UDP_RR")),
    (ratio("tcp-crr", "netperf TCP_CRR", "/s", 2.0, 5.0), Load::Transactions("TCP_CRR")),
];

static LARGE: [(Case, Load); 3] = [
    (
        ratio("stream-65520-to-host", "one TCP stream, MTU 65520, guest to host", "Gbit/s", 1.3, 2.0),
        stream(Way::ToHost),
    ),
    (
        ratio("stream-65520-to-guest", "one TCP stream, MTU 65520, host to guest", "Gbit/s", 1.3, 2.0),
        stream(Way::FromHost),
    ),
    (
        ratio(
            "stream-65520-neighbour",
            "one TCP stream between two guests through the switch; passt: host to guest; MTU 65520",
            "Gbit/s",
            1.0,
            1.5,
        ),
        Load::Neighbour,
    ),
];

static ALWAYS: [(Case, Load); 3] = [
    (ratio("tcp-rr-always", "netperf TCP_RR, poll_us = \"always\"", "/s", 1.3, 2.0), Load::Transactions("TCP_RR")),
    (ratio("udp-rr-always", "netperf UDP_RR, poll_us = \"always\"", "/s", 1.3, 2.0), Load::Transactions("UDP_RR")),
    (ratio("tcp-crr-always", "netperf TCP_CRR, poll_us = \"always\"", "/s", 2.0, 5.0), Load::Transactions("TCP_CRR")),
];

/// Rows that need the same packets and the same polling share their guests.
pub static STAGES: [Stage; 3] = [
    Stage { name: "MTU 1500", cases: || cases(&SMALL), run: |book| run(book, &SMALL, 1500, None) },
    Stage { name: "MTU 65520", cases: || cases(&LARGE), run: |book| run(book, &LARGE, 65520, None) },
    Stage { name: "always polling", cases: || cases(&ALWAYS), run: |book| run(book, &ALWAYS, 1500, Some("always")) },
];

fn cases(rows: Rows) -> Vec<&'static Case> {
    rows.iter().map(|(case, _)| case).collect()
}

/// vonic's side: `a` at 192.0.2.2, `b` at .3, who has an iperf3 server, too; and the host's servers for both sides.
struct Side {
    bed: Bed,
    a: Guest,
    _b: Option<Guest>,
    _servers: [Process; 2],
}

/// The host's servers of streams: passt's guest has its own, so that neither side waits for the other's last stream.
const PORTS: [u16; 2] = [5201, 5202];

fn side(mtu: u16, poll: Option<&str>, neighbour: bool) -> Result<Side> {
    // netperf opens more connections a second than a VM may by default.
    let more = format!("mtu = {mtu}\nlimits = {{ new_per_second = 1000000 }}");
    let config = TestConfig {
        service: poll.map_or(String::new(), |poll| format!("poll_us = \"{poll}\"")),
        ..TestConfig::default()
    };
    let bed = Bed::start_here(&config.vm("a", 2, &more).vm("b", 3, &more))?;
    let start = |name: &str, number| {
        bed.start_configured(&GuestConfig { memory: 512, ..GuestConfig::new(name, number, &bed.socket(name)) })
    };
    let (a, b) = (start("a", 2)?, neighbour.then(|| start("b", 3)).transpose()?);
    a.wait_ready()?;
    let server = |mut guest: Guest| {
        guest.wait_ready()?;
        guest.must("TMPDIR=/run iperf3 -s -D", seconds(10))?;
        Ok::<_, vonic_tests::Error>(guest)
    };
    let b = b.map(server).transpose()?;
    let servers = [stream_server(&bed.lab, &bed.directory, PORTS[0])?, transaction_server(&bed.lab, &bed.directory)?];
    Ok(Side { bed, a, _b: b, _servers: servers })
}

fn run(book: &mut Book<'_>, rows: Rows, mtu: u16, poll: Option<&str>) -> Result<()> {
    isolate()?;
    let outside = Netns::new()?;
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24")?;
    let neighbour = rows.iter().any(|(case, load)| matches!(load, Load::Neighbour) && book.wants(case));
    let mut ours = side(mtu, poll, neighbour)?;
    let directory = TempDir::new()?;
    let mut theirs = Passt::start(&ours.bed.lab, &directory, mtu)?;
    let _server = stream_server(&ours.bed.lab, &directory, PORTS[1])?;
    for (case, load) in rows {
        book.row(case, |plan| {
            let Side { bed, a, .. } = &mut ours;
            let mine = || vonic(*load, a, plan.seconds);
            // One that never sleeps would take passt's guest half of the machine.
            let frozen = poll == Some("always");
            let peer = || {
                if frozen {
                    bed.vonicd.freeze()?;
                }
                let sample = passt(*load, &mut theirs.guest, plan.seconds);
                if frozen {
                    bed.vonicd.thaw()?;
                }
                sample
            };
            plan.pairs("passt", mine, peer)
        });
    }
    Ok(())
}

fn vonic(load: Load, guest: &mut Guest, time: u64) -> Result<Sample> {
    match load {
        Load::Streams(streams) => streams.run(guest, HOST, PORTS[0], time),
        Load::Transactions(test) => transactions(guest, test, time),
        Load::Neighbour => Streams::one(Way::ToHost).run(guest, "192.0.2.3", 5201, time),
    }
}

fn passt(load: Load, guest: &mut Guest, time: u64) -> Result<Sample> {
    match load {
        Load::Streams(streams) => streams.run(guest, HOST, PORTS[1], time),
        Load::Transactions(test) => transactions(guest, test, time),
        Load::Neighbour => Streams::one(Way::FromHost).run(guest, HOST, PORTS[1], time),
    }
}
