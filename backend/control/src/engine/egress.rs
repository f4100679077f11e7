//! Egress rules as the worker takes them, and their counters, which a rule keeps for as long as it is in its VM's file.
use super::succession;
use crate::config::{Action, EgressRule, Protocol, Vm};
use std::collections::BTreeMap;
use vonic_datapath::Counter;
use vonic_frame::{PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use vonic_record::{Ledger, Shared, name};

/// A rule and how often it has decided.
pub(super) type Counted = (EgressRule, Shared<Counter>);

/// Every VM's rules, by the VM's name.
#[derive(Default)]
pub(super) struct Egress(BTreeMap<String, Vec<Counted>>);

impl Egress {
    /// A VM's rules for the worker. One that was there before keeps its counter, wherever it stands now.
    /// Of a new one the ledger says what it has counted with an engine before, which knew it by its words.
    pub fn rules(&mut self, vm: &Vm, ledger: &mut Ledger) -> Vec<vonic_datapath::EgressRule> {
        let mut before = self.0.remove(&vm.name).unwrap_or_default();
        let mut counter = |rule: &EgressRule| match before.iter().position(|(old, _)| old == rule) {
            Some(place) => before.remove(place).1,
            None => ledger.open(succession::number(&vm.name), name(&format!("egress {rule}"))),
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
        decided: decided.clone(),
    }
}
