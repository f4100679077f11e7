//! Does vonic's own service hold out against guests that mean no good, and do the others notice nothing?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::Value;
use vonic_tests::*;

const CLIENTS: &str = include_str!("support/guest/clients.py");

/// KiB that the engine has written to: pages of its program and libraries are not held against a guest.
fn written(bed: &Bed) -> u64 {
    usage::private_dirty(bed.vonicd.engine().unwrap()).unwrap() / 1024
}

fn descriptors(bed: &Bed) -> usize {
    usage::settled_descriptors(bed.vonicd.engine().unwrap()).unwrap()
}

/// Runs one of the clients in the guest `a`; b's agent is heard all the time.
fn run(bed: &Bed, guest: &mut Guest, client: &str) -> Value {
    let job = guest.spawn(&format!("python3 /tmp/clients.py {client}; echo ended")).unwrap();
    let said = wait_for(client, seconds(90), || {
        let b = bed.vonicd.vm("b")?;
        let heard = b["agent"]["seen_seconds"].as_u64().is_some_and(|seconds| seconds <= 2);
        assert!(heard, "b's agent is not heard beside {client}: {b}");
        guest.must("sleep 0.2", seconds(5))?;
        Ok(job.output(guest)?.strip_suffix("ended").map(ToString::to_string))
    })
    .unwrap();
    serde_json::from_str(said.trim()).with_context(|| said.clone()).unwrap()
}

#[test]
fn hostile_clients_cost_themselves_only() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "").vm("b", 3, "")).unwrap();
    bed.directory.write("clients.py", CLIENTS).unwrap();
    let programs = vec![agent_program().unwrap()];
    let config =
        |name, number| GuestConfig { programs: programs.clone(), ..GuestConfig::new(name, number, &bed.socket(name)) };
    let mut a = bed.start_configured(&config("a", 2)).unwrap();
    let mut b = bed.start_configured(&config("b", 3)).unwrap();
    a.wait_ready().unwrap();
    b.wait_ready().unwrap();
    b.spawn("vonic-agent").unwrap();
    a.must("vonic-agent --once", seconds(10)).unwrap();
    wait_until("b's first message", seconds(20), || !bed.vonicd.vm("b").unwrap()["agent"].is_null()).unwrap();
    // The first answer of each kind brings its code and its buffers.
    run(&bed, &mut a, "garbage");
    let before = (written(&bed), descriptors(&bed));
    run(&bed, &mut a, "garbage");
    assert_eq!(run(&bed, &mut a, "head")["status"], "431");
    let reports = run(&bed, &mut a, "reports");
    let statuses: Vec<u64> = serde_json::from_value(reports["statuses"].clone()).unwrap();
    let (taken, refused) = statuses.split_at(2);
    assert!(taken == [204, 204] && refused.iter().all(|status| [400, 413].contains(status)), "{statuses:?}");
    // What was taken last is at every limit, and is shown all the same; of the rest nothing is.
    let table = bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap();
    assert!(table.contains("tcp [::]:65535") && table.contains(&u64::MAX.to_string()), "{table}");
    assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
    let many = run(&bed, &mut a, "many");
    assert_eq!((&many["held"], &many["refused"]), (&Value::from(8), &Value::from(92)), "{many}");
    assert!(many["longest"].as_f64().unwrap() < 15.0, "{many}");
    // Small segments fill a socket sooner than their bytes; what it refuses is asked for again, and nothing is lost.
    let pipeline = run(&bed, &mut a, "pipeline");
    assert_eq!((&pipeline["answers"], &pipeline["whole"]), (&Value::from(600), &Value::from(600)), "{pipeline}");
    let never = run(&bed, &mut a, "never");
    assert!(["ConnectionResetError", "BrokenPipeError"].contains(&never["end"].as_str().unwrap()), "{never}");
    assert!(never["seconds"].as_f64().unwrap() < 40.0, "{never}");
    let server = bed.server().unwrap();
    let lists = run(&bed, &mut a, "lists");
    assert_eq!((&lists["lists"], &lists["refused"]), (&Value::from(80), &Value::from(8)), "{lists}");
    let listeners = run(&bed, &mut a, &format!("listeners {}", server.address().port()));
    assert!(listeners["seconds"].as_f64().unwrap() < 30.0, "{listeners}");
    // Nothing of it stays, and the guest's own agent is as welcome as before.
    a.must("vonic-agent --once", seconds(10)).unwrap();
    wait_until("the end of a's connections", seconds(90), || {
        let rows = bed.vonicd.vonic(&["conns", "--vm", "a", "--json"]).unwrap();
        rows.as_array().unwrap().iter().all(|row| row["state"] == "TIME-WAIT")
    })
    .unwrap();
    // vonic's own ends of connections that were given up close at deadlines of their own.
    wait_until("the end of what they cost", seconds(60), || descriptors(&bed) <= before.1 + 2)
        .with_context(|| format!("{} descriptors and then {}", before.1, descriptors(&bed)))
        .unwrap();
    let after = written(&bed);
    assert!(after < before.0 + 2048, "the engine grew from {} to {after} KiB", before.0);
    assert_eq!(bed.vonicd.log().matches("WARN").count(), 2, "one line for each VMM's memory:\n{}", bed.vonicd.log());
}
