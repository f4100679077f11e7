//! Egress rules as the worker takes them, and their counters, which a rule keeps for as long as it is in its VM's file.
use crate::config::{Action, EgressRule, Protocol, Vm};
use std::collections::BTreeMap;
use std::sync::Arc;
use vonic_datapath::Counter;
use vonic_frame::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};

/// A rule and how often it has decided.
pub(super) type Counted = (EgressRule, Arc<Counter>);

/// Every VM's rules, by the VM's name.
#[derive(Default)]
pub(super) struct Egress(BTreeMap<String, Vec<Counted>>);

impl Egress {
    /// A VM's rules for the worker. One that was there before keeps its counter, wherever it stands now.
    pub fn rules(&mut self, vm: &Vm) -> Vec<vonic_datapath::EgressRule> {
        let mut before = self.0.remove(&vm.name).unwrap_or_default();
        let mut counter = |rule: &EgressRule| match before.iter().position(|(old, _)| old == rule) {
            Some(place) => before.remove(place).1,
            None => Arc::default(),
        };
        let rules: Vec<Counted> = vm.egress.iter().map(|rule| (rule.clone(), counter(rule))).collect();
        let of_worker = rules.iter().map(spec).collect();
        self.0.insert(vm.name.clone(), rules);
        of_worker
    }

    /// A VM's rules in their order.
    pub fn of(&self, vm: &str) -> &[Counted] {
        self.0.get(vm).map_or(&[], Vec::as_slice)
    }

    /// The VM is gone.
    pub fn forget(&mut self, vm: &str) {
        self.0.remove(vm);
    }
}

fn spec((rule, decided): &Counted) -> vonic_datapath::EgressRule {
    vonic_datapath::EgressRule {
        action: match rule.action {
            Action::Allow => vonic_datapath::Action::Allow,
            Action::Deny => vonic_datapath::Action::Deny,
        },
        to: rule.to,
        protocol: rule.proto.map(|p| match p {
            Protocol::Tcp => PROTOCOL_TCP,
            Protocol::Udp => PROTOCOL_UDP,
            Protocol::Icmp => PROTOCOL_ICMP,
        }),
        ports: rule.ports.as_ref().map(|p| (*p.start(), *p.end())),
        decided: Arc::clone(decided),
    }
}
