use super::*;
use crate::api::types::{AgentRow, BothCounts, Histogram, NicCounters, TakeoverRow, Tcp, Traffic, VmStats};

fn snapshot() -> Snapshot {
    let count = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).to_string(), *n)).collect();
    let mut vm = VmStats {
        guest_to_host: Traffic { frames: 3, bytes: 180 },
        host_to_guest: Traffic { frames: 2, bytes: 120 },
        tcp: count(&[("open", 4), ("reset", 1)]),
        udp: count(&[("open", 0), ("evicted", 7)]),
        copied_bytes: count(&[("guest_to_guest", 60)]),
        limits: count(&[("pending", 2)]),
        coalesced: count(&[("aggregates", 3)]),
        coalesced_bytes: Histogram::new([(Some(512), 1), (Some(1024), 2), (Some(2048), 4), (None, 0)], 5000),
        latency_us: Histogram::new([(Some(1), 0), (Some(2), 3), (Some(4), 4), (None, 2)], 1500),
        ..VmStats::default()
    };
    vm.drops_by_reason.insert("spoofed_mac".into(), count(&[("guest_to_host", 5), ("host_to_guest", 0)]));
    let row = VmRow {
        name: "web1".into(),
        mac: "52:54:00:00:00:02".into(),
        network: "default".into(),
        connected: true,
        agent: Some(AgentRow::default()),
        ..VmRow::default()
    };
    let tcp = Tcp { retransmitted: Some(9), ..Tcp::default() };
    let sent = BothCounts { guest: Traffic { frames: 3, bytes: 180 }, ..BothCounts::default() };
    let nic = NicCounters { guest_to_host: sent, interface: "eth0\"\n".into(), ..NicCounters::default() };
    let hostname = "a\"\\\nvonic_vms 31337".to_string();
    let guest = GuestReport { hostname, tcp: Some(tcp), nic: Some(nic), ..GuestReport::default() };
    let last_takeover = Some(TakeoverRow { microseconds: 12_500, ..TakeoverRow::default() });
    Snapshot {
        engine: EngineStatus { version: "0.1.0".into(), deaths: 1, standby: true, last_takeover, ..Default::default() },
        stats: Stats { vms: [("web1".to_string(), vm)].into(), ..Stats::default() },
        vms: vec![row],
        guests: [("web1".to_string(), guest)].into(),
        hints: 0,
    }
}

#[test]
fn what_is_counted_stands_under_its_name() {
    let text = snapshot().text().unwrap();
    for line in [
        "# TYPE vonic_vm_frames counter",
        "vonic_build_info{version=\"0.1.0\"} 1",
        "vonic_engine_deaths_total 1",
        "vonic_engine_standby 1",
        "vonic_engine_last_takeover_seconds 0.0125",
        "vonic_vm_info{vm=\"web1\",mac=\"52:54:00:00:00:02\",network=\"default\"} 1",
        "vonic_vm_connected{vm=\"web1\"} 1",
        "vonic_vm_frames_total{vm=\"web1\",direction=\"guest_to_host\"} 3",
        "vonic_vm_bytes_total{vm=\"web1\",direction=\"host_to_guest\"} 120",
        "vonic_vm_drops_total{vm=\"web1\",direction=\"guest_to_host\",reason=\"spoofed_mac\"} 5",
        "vonic_vm_copied_bytes_total{vm=\"web1\",path=\"guest_to_guest\"} 60",
        "vonic_vm_limit_reached_total{vm=\"web1\",limit=\"pending\"} 2",
        "# TYPE vonic_vm_latency_seconds histogram",
        "vonic_vm_latency_seconds_bucket{le=\"0.000002\",vm=\"web1\"} 3",
        "vonic_vm_latency_seconds_bucket{le=\"+Inf\",vm=\"web1\"} 9",
        "vonic_vm_latency_seconds_count{vm=\"web1\"} 9",
        "vonic_vm_latency_seconds_sum{vm=\"web1\"} 0.0015",
        "vonic_vm_coalesced_bytes_bucket{le=\"1024.0\",vm=\"web1\"} 3",
        "vonic_vm_coalesced_bytes_bucket{le=\"2048.0\",vm=\"web1\"} 7",
        "vonic_vm_coalesced_bytes_sum{vm=\"web1\"} 5000.0",
        "vonic_vm_coalesced_total{vm=\"web1\",event=\"aggregates\"} 3",
        "vonic_vm_tcp_open{vm=\"web1\"} 4",
        "vonic_vm_tcp_total{vm=\"web1\",event=\"reset\"} 1",
        "vonic_vm_udp_total{vm=\"web1\",event=\"evicted\"} 7",
        "vonic_guest_tcp_retransmitted_total{vm=\"web1\",source=\"guest\"} 9",
        "vonic_guest_frames_total{vm=\"web1\",direction=\"guest_to_host\",source=\"guest\"} 3",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    // What a guest calls itself is nobody's line.
    assert!(!text.contains("31337"), "{text}");
    assert!(!text.contains("event=\"open\""));
}

#[test]
fn each_family_is_told_once_with_a_help_and_a_type() {
    let text = snapshot().text().unwrap();
    let of = |what: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(what));
        lines.map(|rest| rest.split(' ').next().unwrap().to_string()).collect()
    };
    let (mut helps, types) = (of("# HELP "), of("# TYPE "));
    assert_eq!(helps, types);
    let count = helps.len();
    helps.sort();
    helps.dedup();
    assert_eq!(helps.len(), count);
    assert!(count > 40, "{count}");
}
