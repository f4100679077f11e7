//! What guests say of themselves, beside what the host counts.
use crate::api::types::{AgentRow, BothCounts, Counters, GuestReport, NicCounters, Traffic};
use crate::guest::Report;
use std::time::Duration;
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
    let (mac, message) = (mac.to_string(), report.message);
    let both = |way: Way, guest: Counters| {
        let (frames, bytes) = report.host[way as usize];
        BothCounts { host: Traffic { frames, bytes }, guest: Traffic { frames: guest.packets, bytes: guest.bytes } }
    };
    let own = message.interfaces.iter().find(|interface| interface.mac.as_ref() == Some(&mac));
    let nic = own.map(|interface| NicCounters {
        interface: interface.name.clone(),
        guest_to_host: both(Way::GuestToHost, interface.sent),
        host_to_guest: both(Way::HostToGuest, interface.received),
    });
    GuestReport {
        hostname: message.hostname,
        kernel: message.kernel,
        uptime_seconds: message.uptime_seconds,
        nic,
        interfaces: message.interfaces,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use vonic_agent::message::{Interface, Message};

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
