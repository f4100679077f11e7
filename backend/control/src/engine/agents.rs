//! What guests say of themselves, beside what the host counts.
use crate::api::types::{AgentRow, BothCounts, Counters, GuestReport, Interface, NicCounters, Traffic};
use crate::guest::Report;
use std::time::Duration;
use vonic_agent::message::Message;
use vonic_datapath::Way;
use vonic_frame::MacAddr;

/// An agent that has said nothing for longer is called silent: it speaks once a second.
const SILENCE: Duration = Duration::from_secs(10);

/// The agent, in short.
pub(super) fn row(report: &Report) -> AgentRow {
    let age = report.at.elapsed();
    AgentRow { version: report.message.agent.clone(), seen_seconds: age.as_secs(), silent: age > SILENCE }
}

/// Everything that it said last.
pub(super) fn detail(report: Report, mac: MacAddr) -> GuestReport {
    let Report { message, host, at: _ } = report;
    let nic = nic(&message.interfaces, host, mac);
    let Message {
        version,
        agent: _,
        hostname,
        kernel,
        uptime_seconds,
        interfaces,
        tcp,
        cpu,
        memory,
        conntrack,
        listening,
    } = message;
    GuestReport {
        source: "guest".into(),
        message_version: version,
        hostname,
        kernel,
        uptime_seconds,
        nic,
        interfaces,
        tcp,
        cpu,
        memory,
        conntrack,
        listening,
    }
}

/// The guest's own NIC, by its MAC, beside what the `host` had counted.
fn nic(interfaces: &[Interface], host: [(u64, u64); 2], mac: MacAddr) -> Option<NicCounters> {
    let mac = mac.to_string();
    let both = |way: Way, guest: Counters| {
        let (frames, bytes) = host[way as usize];
        BothCounts { host: Traffic { frames, bytes }, guest: Traffic { frames: guest.packets, bytes: guest.bytes } }
    };
    let own = interfaces.iter().find(|interface| interface.mac.as_ref() == Some(&mac))?;
    Some(NicCounters {
        interface: own.name.clone(),
        guest_to_host: both(Way::GuestToHost, own.sent),
        host_to_guest: both(Way::HostToGuest, own.received),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_guests_own_nic_is_found_by_its_mac_and_set_beside_the_host() {
        let counted = |packets, bytes| Counters { packets, bytes, ..Counters::default() };
        let interface = |name: &str, mac: &str| Interface {
            name: name.into(),
            mac: Some(mac.into()),
            received: counted(3, 30),
            sent: counted(4, 40),
            ..Interface::default()
        };
        let interfaces = vec![interface("eth1", "52:54:00:00:00:09"), interface("eth0", "52:54:00:00:00:02")];
        let message = Message { interfaces, ..Message::default() };
        let report = Report { message, at: Instant::now(), host: [(5, 50), (6, 60)] };
        assert!(!row(&report).silent);
        let nic = detail(report.clone(), MacAddr([0x52, 0x54, 0, 0, 0, 2])).nic.unwrap();
        let both = |frames, bytes, guest: (u64, u64)| BothCounts {
            host: Traffic { frames, bytes },
            guest: Traffic { frames: guest.0, bytes: guest.1 },
        };
        assert_eq!((nic.guest_to_host, nic.host_to_guest), (both(5, 50, (4, 40)), both(6, 60, (3, 30))));
        assert_eq!(nic.interface, "eth0");
        assert_eq!(detail(report.clone(), MacAddr([2, 0, 0, 0, 0, 1])).nic, None);
        let old = Report { at: Instant::now().checked_sub(Duration::from_secs(11)).unwrap(), ..report };
        assert_eq!((row(&old).silent, row(&old).seen_seconds), (true, 11));
    }
}
