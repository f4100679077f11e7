//! Answers to what guests ask of vonic's own service.
use super::answers::{counters, drops, limits};
use super::registry::{Entry, Registry};
use crate::config::{Family, Network, feature_names};
use crate::guest::{Guest, Question};
use std::net::IpAddr;
use std::sync::Arc;
use vonic_agent::metadata::{self, Addresses, Metadata};
use vonic_agent::nic::{self, Nic, Offload, Offloads, Traffic};
use vonic_datapath::{Command, Negotiated, Way};
use vonic_frame::Offloads as Frames;

impl Registry {
    /// Answers a question of a guest's; of one that is gone, by letting go of it.
    pub(super) fn answer_guest(&mut self, guest: &Arc<Guest>, question: Question) {
        let Some(entry) = self.vms.get(guest.name()).filter(|entry| Arc::ptr_eq(&entry.guest, guest)) else { return };
        let port = entry.port;
        match question {
            // Whoever asked may be gone, too.
            Question::Metadata(answer) => drop(answer.send(self.metadata(entry))),
            Question::Nic(answer) => drop(answer.send(nic(entry))),
            Question::Connections(from, reply) => self.order(Command::Connections { port: Some(port), from, reply }),
            Question::Notify(notifier) => self.order(Command::Notify { port, notifier }),
        }
    }

    fn metadata(&self, entry: &Entry) -> Metadata {
        let vm = &entry.vm;
        let network = self.config.networks.get(&vm.network);
        let addresses = |family| match network {
            Some(network) => addresses(network, family, vm.address(family)),
            None => Addresses::default(),
        };
        let (ipv4, ipv6) = (addresses(Family::V4), addresses(Family::V6));
        // The gateway asks the host's resolvers for its guests.
        let serves_names = network.is_some_and(|network| self.resolvers.of(network).is_some());
        Metadata {
            version: metadata::VERSION,
            name: vm.name.clone(),
            mac: vm.mac.to_string(),
            mtu: vm.mtu,
            network: vm.network.clone(),
            hostname: vm.hostname.clone(),
            resolvers: if serves_names { resolvers(&ipv4, &ipv6) } else { Vec::new() },
            search: network.map(|network| network.search.clone()).unwrap_or_default(),
            labels: vm.labels.clone(),
            ipv4,
            ipv6,
        }
    }
}

fn addresses(network: &Network, family: Family, own: Option<IpAddr>) -> Addresses {
    let of = network.addresses(family);
    Addresses {
        address: own.map(|address| address.to_string()),
        prefix_len: of.subnet.map(|subnet| subnet.prefix),
        gateway: of.gateway.map(|address| address.to_string()),
    }
}

/// By which addresses a guest asks for names. By IPv4 it needs an address of its file; of IPv6 it has one, or makes it itself.
fn resolvers(ipv4: &Addresses, ipv6: &Addresses) -> Vec<String> {
    let ipv4 = ipv4.gateway.iter().filter(|_| ipv4.address.is_some());
    ipv4.chain(&ipv6.gateway).cloned().collect()
}

fn nic(entry: &Entry) -> Nic {
    let stats = &entry.stats;
    let traffic = |way| {
        let (frames, bytes) = stats.traffic(way);
        Traffic { frames, bytes }
    };
    let negotiated = entry.session.as_ref().and_then(|session| session.features).unwrap_or_default();
    let offloads = Negotiated::new(negotiated);
    let offload = |of: Frames| Offload { checksum: of.csum, tso4: of.tso4, tso6: of.tso6 };
    let limit = |row: crate::api::types::LimitRow| nic::Limit { name: row.name, most: row.most, reached: row.reached };
    Nic {
        version: metadata::VERSION,
        name: entry.vm.name.clone(),
        guest_to_host: traffic(Way::GuestToHost),
        host_to_guest: traffic(Way::HostToGuest),
        rates: None,
        drops: drops(stats),
        offloads: Offloads { guest_to_host: offload(offloads.from_guest), host_to_guest: offload(offloads.to_guest) },
        features_offered: feature_names(entry.vm.virtio_bits()),
        features_negotiated: feature_names(negotiated),
        queue_pairs: entry.vm.queue_pairs,
        connections: stats.tcp.open.get(),
        limits: limits(entry).into_iter().map(limit).collect(),
        tcp: counters(stats.tcp.all()),
        udp: counters(stats.udp.all()),
        icmp: counters(stats.icmp.all()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_of_resolvers_that_it_can_ask() {
        let family = |address: Option<&str>, gateway: Option<&str>| Addresses {
            address: address.map(str::to_string),
            prefix_len: None,
            gateway: gateway.map(str::to_string),
        };
        let (four, six) = (Some("192.0.2.1"), Some("2001:db8::1"));
        assert_eq!(
            resolvers(&family(Some("192.0.2.2"), four), &family(Some("2001:db8::2"), six)),
            ["192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(resolvers(&family(None, four), &family(Some("2001:db8::2"), six)), ["2001:db8::1"]);
        // It makes its own, of which the file knows nothing.
        assert_eq!(resolvers(&family(None, four), &family(None, six)), ["2001:db8::1"]);
        assert_eq!(resolvers(&family(Some("192.0.2.2"), four), &family(None, None)), ["192.0.2.1"]);
        assert!(resolvers(&family(None, four), &family(None, None)).is_empty());
    }
}
