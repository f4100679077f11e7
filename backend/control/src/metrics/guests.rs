//! What the agents in guests say of them: nothing in it is certain, which the label `source` tells. Only numbers are taken over.
use std::fmt;

use super::Snapshot;
use super::families::Families;
use crate::api::types::{BothCounts, GuestReport, NicCounters};

/// One figure of a guest's: its name, its meaning, whether it only grows, and where it stands.
struct Figure {
    name: &'static str,
    help: &'static str,
    grows: bool,
    of: fn(&GuestReport) -> Option<u64>,
}

const fn counter(name: &'static str, help: &'static str, of: fn(&GuestReport) -> Option<u64>) -> Figure {
    Figure { name, help, grows: true, of }
}

const fn gauge(name: &'static str, help: &'static str, of: fn(&GuestReport) -> Option<u64>) -> Figure {
    Figure { name, help, grows: false, of }
}

static FIGURES: &[Figure] = &[
    gauge("vonic_guest_uptime_seconds", "Seconds since the guest booted", |guest| Some(guest.uptime_seconds)),
    gauge("vonic_guest_tcp_established", "Its established connections", |guest| guest.tcp?.established),
    counter("vonic_guest_tcp_segments_sent", "Segments sent, without those sent again", |guest| {
        guest.tcp?.segments_sent
    }),
    counter("vonic_guest_tcp_retransmitted", "Segments sent again", |guest| guest.tcp?.retransmitted),
    counter("vonic_guest_tcp_timeouts", "Retransmission timeouts", |guest| guest.tcp?.timeouts),
    counter("vonic_guest_tcp_listen_drops", "Connections that its listeners dropped", |guest| guest.tcp?.listen_drops),
    gauge("vonic_guest_tcp_rtt_median_us", "The median of its connections' round-trip times", |guest| {
        guest.tcp?.sockets?.rtt_median_us
    }),
    gauge("vonic_guest_tcp_rtt_p99_us", "The 99th percentile of them", |guest| guest.tcp?.sockets?.rtt_p99_us),
    counter("vonic_guest_cpu_busy_ms", "Processor time", |guest| guest.cpu?.busy_ms),
    counter("vonic_guest_cpu_softirq_ms", "Processor time in software interrupts", |guest| guest.cpu?.softirq_ms),
    counter("vonic_guest_cpu_steal_ms", "Time that the hypervisor gave to others", |guest| guest.cpu?.steal_ms),
    counter("vonic_guest_backlog_dropped", "Frames dropped by a full backlog", |guest| guest.cpu?.backlog_dropped),
    gauge("vonic_guest_memory_bytes", "Its memory", |guest| guest.memory?.total),
    gauge("vonic_guest_memory_available_bytes", "What programs could get", |guest| guest.memory?.available),
    gauge("vonic_guest_conntrack", "Tracked connections", |guest| guest.conntrack?.count),
    gauge("vonic_guest_conntrack_most", "How many there may be", |guest| guest.conntrack?.most),
];

/// Whose word it is.
const SOURCE: (&str, &str) = ("source", "guest");

/// Tells all of them.
pub(super) fn tell(all: &Snapshot, families: &mut Families<'_>) -> fmt::Result {
    for figure in FIGURES {
        let guests = all.guests.iter();
        let values = guests.filter_map(|(vm, guest)| Some(([("vm", vm.as_str()), SOURCE], (figure.of)(guest)?)));
        if figure.grows {
            families.counter(figure.name, figure.help, values)?;
        } else {
            families.gauge(figure.name, figure.help, values)?;
        }
    }
    families.counter("vonic_guest_frames", "Frames by the guest's own count", nics(all, |nic| nic.guest.frames))?;
    families.counter("vonic_guest_bytes", "Bytes by the guest's own count", nics(all, |nic| nic.guest.bytes))
}

/// Something that the guests count of their NICs, each way.
fn nics(all: &Snapshot, of: fn(&BothCounts) -> u64) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
    all.guests.iter().filter_map(|(vm, guest)| Some((vm.as_str(), guest.nic.as_ref()?))).flat_map(move |(vm, nic)| {
        let NicCounters { guest_to_host, host_to_guest, .. } = nic;
        let label = |way| [("vm", vm), ("direction", way), SOURCE];
        [(label("guest_to_host"), of(guest_to_host)), (label("host_to_guest"), of(host_to_guest))]
    })
}
