//! Does what the guest's agent says arrive, beside what the host counts, and is vonic's own service safe from its guests?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::time::{Duration, Instant};

use serde_json::Value;
use vonic_tests::*;

/// A guest with the agent in its /tmp.
fn guest_with_agent(bed: &Bed, name: &str, number: u8, vmm: Vmm) -> Guest {
    let programs = vec![agent_program().unwrap()];
    let config = GuestConfig { programs, reconnect: true, ..GuestConfig::new(name, number, &bed.socket(name)).on(vmm) };
    let guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    guest
}

/// Waits for a message of the VM's agent that `wanted` accepts; what `vm show` says of it.
fn expect(bed: &Bed, name: &str, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, limit, || {
        let vm = bed.vonicd.vm(name)?;
        Ok((!vm["agent"].is_null() && wanted(&vm)).then_some(vm))
    })
    .with_context(|| bed.vonicd.vm(name).map(|vm| vm.to_string()).unwrap_or_default())
    .unwrap()
}

fn counters_arrive_every_second_and_match(vmm: Vmm) {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut guest = guest_with_agent(&bed, "a", 2, vmm);
    let agent = guest.spawn("vonic-agent").unwrap();
    let vm = expect(&bed, "a", "first message", seconds(20), |_| true);
    println!("{vm}");
    println!("{}", agent.output(&mut guest).unwrap());
    println!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    println!("{}", bed.vonicd.vonic_text(&["vm", "list"]).unwrap());
    std::thread::sleep(Duration::from_secs(3));
    println!("{}", bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap());
    println!("{}", bed.vonicd.vonic_text(&["conns"]).unwrap());
    println!("{}", bed.vonicd.log());
}

#[test]
fn user_mode_linux_counters_arrive_every_second_and_match() {
    counters_arrive_every_second_and_match(Vmm::Uml);
}
