//! Seven guests mind their own business while the eighth, or its VMM, does its worst: are their bytes whole, what is left of their throughput
//! and of their latency, and does vonic hold more afterwards than before?
//!
//! Each attack is measured in pairs with a run in which as much processor time is burnt by somebody who leaves his NIC alone. With
//! VONIC_LONG=1, on a released build, the medians must keep nine tenths of the throughput and stay below twice the 99th percentile. Without it
//! the runs are short and the machine may be busy: the best of some pairs must keep half the throughput and stay below [`SLACK`] times the
//! percentile, and nobody may ever wait [`STOPPED`], which is what a neighbour that is stopped shows in.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code, which tells its figures")]

mod guest;
mod stage;
mod vmm;

use stage::{Attack, Stage};
use vonic_tests::corpus::corpus;
use vonic_tests::frames::mac;
use vonic_tests::seconds;

/// Without VONIC_LONG.
const SLACK: f64 = 8.0;
const STOPPED: std::time::Duration = seconds(1);

/// VONIC_ATTACK: those whose names contain it, alone.
fn all_of(attacks: &[Attack]) {
    let chosen = std::env::var("VONIC_ATTACK").unwrap_or_default();
    let mut stage = Stage::start();
    let failures: Vec<String> = attacks
        .iter()
        .filter(|attack| attack.name.contains(&chosen))
        .filter_map(|attack| stage.suffer(attack).err().map(|error| format!("{}: {error:#}", attack.name)))
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
    stage.end();
}

#[test]
fn a_hostile_guest_costs_its_neighbours_nothing() {
    all_of(guest::ATTACKS);
}

#[test]
fn a_hostile_vmm_costs_its_neighbours_nothing() {
    all_of(vmm::ATTACKS);
}

/// How many malformed packets there are; a change of the rules that make them shows here.
const CORPUS: usize = 15_339;

#[test]
fn the_corpus_has_as_many_packets_as_are_told_of() {
    assert_eq!(corpus(2, mac(1)).len(), CORPUS);
}
