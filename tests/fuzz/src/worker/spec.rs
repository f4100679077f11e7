//! The network and the ports, as the control side would tell a worker of them.
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use vonic_datapath::{
    AckPolicy, Action, CallPolicy, Coalesce, EgressRule, Family, Limits, Names, NetworkSpec, PortId, PortSpec, Uplink,
    feature,
};
use vonic_frame::Subnet;
use vonic_record::Shared;

use crate::server::Ports;
use crate::template::{GATEWAY, GATEWAY_MAC, GATEWAY6, HOST, address, address6, mac};

/// What drivers negotiate.
pub(super) const FEATURES: [u64; 4] = [
    feature::VERSION_1,
    feature::VERSION_1 | feature::MRG_RXBUF,
    feature::VERSION_1
        | feature::MRG_RXBUF
        | feature::CSUM
        | feature::GUEST_CSUM
        | feature::GUEST_TSO4
        | feature::GUEST_TSO6
        | feature::HOST_TSO4
        | feature::HOST_TSO6
        | feature::CTRL_VQ
        | feature::CTRL_RX
        | feature::CTRL_VLAN
        | feature::CTRL_RX_EXTRA
        | feature::GUEST_ANNOUNCE
        | feature::CTRL_MAC_ADDR,
    feature::VERSION_1 | feature::MRG_RXBUF | feature::CSUM | feature::HOST_TSO4 | feature::HOST_ECN | feature::CTRL_VQ,
];

/// The network that all are in.
pub(super) fn network(resolver: u16, isolated: bool) -> Option<NetworkSpec> {
    let subnet = |text: &str| text.parse::<Subnet>().ok();
    let v4 = Family {
        subnet: Some(subnet("192.0.2.0/24")?),
        gateway: Some(GATEWAY.into()),
        host_loopback: Some(HOST.into()),
    };
    let v6 = Family { subnet: Some(subnet("2001:db8::/64")?), gateway: Some(GATEWAY6.into()), host_loopback: None };
    let names = Names {
        resolvers: Some(Arc::new([(Ipv4Addr::LOCALHOST, resolver).into()])),
        domain: "example.org".into(),
        search: vonic_frame::encode_domains(["example.org"]),
    };
    Some(NetworkSpec {
        network: 0,
        gateway_mac: GATEWAY_MAC,
        v4,
        v6,
        reach_host: true,
        isolated,
        uplink: Uplink::Sockets,
        names,
        slaac: true,
        coalesce: Coalesce { on: true, us: 0 },
    })
}

/// A port.
pub(super) fn port(id: PortId, host: Ports, own_address6: bool) -> PortSpec {
    let rule = |action, to: Subnet, protocol, port: Option<u16>| EgressRule {
        action,
        to,
        protocol,
        ports: port.map(|port| (port, port)),
        decided: Shared::default(),
    };
    let own = Subnet::of(HOST.into());
    // Nothing leaves this process but to the host of its own.
    let egress = vec![
        rule(Action::Allow, own, Some(6), Some(host.tcp)),
        rule(Action::Allow, own, Some(17), Some(host.udp)),
        rule(Action::Deny, Subnet { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 }, None, None),
        rule(Action::Deny, Subnet { address: Ipv6Addr::UNSPECIFIED.into(), prefix: 0 }, None, None),
    ];
    PortSpec {
        port: id,
        vm: u64::from(id) + 1,
        failover: true,
        quarantined: false,
        mac: mac(id as u8),
        network: 0,
        address4: Some(address(id as u8)),
        address6: own_address6.then(|| address6(id as u8)),
        hostname: Some("guest".into()),
        queue_pairs: 1,
        mtu: 1500,
        ack: if id == 0 { AckPolicy::Kernel } else { AckPolicy::Peer },
        coalesce: None,
        calls: CallPolicy { us: 0, frames: 1 },
        limits: Limits {
            connections: 16,
            pending: 8,
            pending_per_destination: 8,
            udp_flows: 8,
            new_per_second: 100_000,
            groups_per_second: 100_000,
        },
        egress,
        forwards: Vec::new(),
        tap: None,
        stats: Shared::default(),
    }
}
