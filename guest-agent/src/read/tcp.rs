//! TCP's counters (/proc/net/snmp, /proc/net/netstat).
use super::known;
use vonic_agent::message::Tcp;

/// TCP as `snmp` and `netstat` have it; each of the two may be absent.
pub fn tcp(snmp: Option<String>, netstat: Option<String>) -> Option<Tcp> {
    let (snmp, netstat) = (snmp.unwrap_or_default(), netstat.unwrap_or_default());
    let mib = |name| counter(&snmp, "Tcp:", name);
    let own = |name| counter(&netstat, "TcpExt:", name);
    known(Tcp {
        established: mib("CurrEstab"),
        opened: mib("ActiveOpens"),
        accepted: mib("PassiveOpens"),
        failed: mib("AttemptFails"),
        reset: mib("EstabResets"),
        segments_received: mib("InSegs"),
        segments_sent: mib("OutSegs"),
        retransmitted: mib("RetransSegs"),
        bad: mib("InErrs"),
        resets_sent: mib("OutRsts"),
        timeouts: own("TCPTimeouts"),
        fast_retransmits: own("TCPFastRetrans"),
        lost_retransmits: own("TCPLostRetransmit"),
        syn_retransmits: own("TCPSynRetrans"),
        listen_overflows: own("ListenOverflows"),
        listen_drops: own("ListenDrops"),
        sockets: None,
    })
}

/// A counter of a group: two lines that begin with its name, the first with names, the second with numbers.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_ascii_whitespace().next() == Some(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let place = names.split_ascii_whitespace().position(|word| word == name)?;
    numbers.split_ascii_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = "\
Icmp: InMsgs InErrors
Icmp: 1 2
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs
Tcp: 1 200 120000 -1 11 12 13 14 15 16 18446744073709551615 18 19
";
    const NETSTAT: &str = "TcpExt: ListenDrops TCPTimeouts\nTcpExt: 3 4\nIpExt: InOctets\nIpExt: 5\n";

    #[test]
    fn counters_are_found_by_name_and_missing_ones_are_absent() {
        let tcp = tcp(Some(SNMP.into()), Some(NETSTAT.into())).unwrap();
        assert_eq!((tcp.opened, tcp.established, tcp.segments_sent), (Some(11), Some(15), Some(u64::MAX)));
        assert_eq!((tcp.retransmitted, tcp.bad, tcp.resets_sent), (Some(18), Some(19), None));
        assert_eq!((tcp.listen_drops, tcp.timeouts, tcp.fast_retransmits), (Some(3), Some(4), None));
    }

    #[test]
    fn nothing_is_no_group_and_garbage_is_nothing() {
        assert_eq!(tcp(None, None), None);
        for text in ["Tcp:", "Tcp: CurrEstab", "Tcp: CurrEstab\nTcp:", "Tcp: CurrEstab\nTcp: -1", "\u{0}"] {
            assert_eq!(tcp(Some(text.into()), Some(text.into())), None, "{text:?}");
        }
    }
}
