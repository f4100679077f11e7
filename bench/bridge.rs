//! A guest on a bridge of the host by its tap, beside passt's guest, whose host is as near.

use vonic_tests::{Bed, GuestConfig, Result, TempDir, ip, isolate, lan};

use crate::book::{Book, Stage};
use crate::passt::Passt;
use crate::row::{Case, Target};
use crate::traffic::{HOST, Streams, Way, stream_server};

const MTU: u16 = 1500;
/// The bridge's own address: the host's, for the guest.
const BRIDGE: &str = "192.0.2.10";
/// The host's servers, of vonic's guest and of passt's.
const PORTS: [u16; 2] = [5201, 5202];

const fn case(id: &'static str, load: &'static str) -> Case {
    Case { id, load, unit: "Gbit/s", peer: "passt", target: Target::Ratio { floor: 2.0, aim: 3.0 } }
}

static CASES: [(Case, Way); 2] = [
    (case("tap-to-host", "one TCP stream by `tap:` to a host bridge, MTU 1500, guest to host"), Way::ToHost),
    (case("tap-to-guest", "one TCP stream by `tap:` to a host bridge, MTU 1500, host to guest"), Way::FromHost),
];

pub static STAGE: Stage = Stage { name: "bridge", cases: || CASES.iter().map(|(case, _)| case).collect(), run };

fn run(book: &mut Book<'_>) -> Result<()> {
    isolate()?;
    lan::bridge(MTU)?;
    ip(&format!("addr add {BRIDGE}/24 dev {}", lan::BRIDGE))?;
    let bed = Bed::start_here(&lan::bridged().vm("a", 2, &format!("mtu = {MTU}")))?;
    let plain = GuestConfig::new("a", 2, &bed.socket("a"));
    let mut guest = bed.start_configured(&GuestConfig { memory: 512, ..plain })?;
    guest.wait_ready()?;
    let directory = TempDir::new()?;
    let mut passt = Passt::start(&bed.lab, &directory, MTU)?;
    let _servers = [stream_server(&bed.lab, &bed.directory, PORTS[0])?, stream_server(&bed.lab, &directory, PORTS[1])?];
    for (case, way) in &CASES {
        book.row(case, |plan| {
            let streams = Streams::one(*way);
            plan.pairs(
                "passt",
                || streams.run(&mut guest, BRIDGE, PORTS[0], plan.seconds),
                || streams.run(&mut passt.guest, HOST, PORTS[1], plan.seconds),
            )
        });
    }
    Ok(())
}
