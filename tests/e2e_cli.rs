//! Does an operator see what is: `vonic vm list`, `vm show`, `conns`, `stats`, as tables and as JSON, and `vonicd --check`?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::{Value, json};
use vonic_tests::frames::{self, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// Two VMs: a runs, with a connection each way and one spoofed frame; b waits for its VMM.
struct Shown {
    bed: Bed,
    _a: HandGuest,
    _lines: [Line; 2],
}

fn shown() -> Shown {
    let more =
        "labels = { tier = \"web\" }\nmtu = 1400\n[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7001\"\nport = 1";
    let bed = Bed::start(&TestConfig::default().vm("a", 2, more).vm("b", 3, "")).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut lines = [
        Line::guest_opens(&mut a, 4000).unwrap(),
        Line::world_opens(&mut a, ([127, 0, 0, 1], 7001).into(), 1).unwrap(),
    ];
    lines.iter_mut().for_each(|line| line.exchange(&mut a).unwrap());
    let spoofed = frames::ping((mac(9), mac(3)), ip4(2), ip4(3), 1, b"not a's");
    a.mock.send_frame(&VnetHeader::default(), &spoofed).unwrap();
    wait_until("the drop", seconds(5), || bed.vonicd.drops("a", "spoofed_mac").unwrap() == 1).unwrap();
    // The last acknowledgements have been taken in.
    wait_until("the counters", seconds(5), || {
        let rows = bed.vonicd.vonic(&["conns", "--json"]).unwrap();
        rows.as_array().unwrap().iter().all(|row| row["bytes_host_to_guest"] == 9001)
    })
    .unwrap();
    Shown { bed, _a: a, _lines: lines }
}

/// The cells of a table's row whose first cell is `first`, cut at two blanks or more.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let cells = |line: &'a str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>();
    let found = table.lines().map(cells).find(|cells| cells.first() == Some(&first));
    found.with_context(|| format!("no {first} in {table}")).unwrap()
}

#[test]
fn vms_are_listed() {
    let Shown { bed, .. } = &shown();
    let rows = bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap();
    let names: Vec<&Value> = rows.as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    let a = &rows[0];
    for (key, value) in [
        ("mac", json!("52:54:00:00:00:02")),
        ("network", json!("default")),
        ("address4", json!("192.0.2.2")),
        ("connected", json!(true)),
        ("driver_ready", json!(true)),
        ("drops", json!(1)),
        ("connections", json!(2)),
    ] {
        assert_eq!(a[key], value, "{key} in {a}");
    }
    assert_eq!((&rows[1]["connected"], &rows[1]["guest_to_host"]["frames"]), (&json!(false), &json!(0)));

    let table = bed.vonicd.vonic_text(&["vm", "list"]).unwrap();
    let headings = row(&table, "NAME");
    assert_eq!(headings[..7], ["NAME", "NETWORK", "ADDRESS", "MAC", "STATE", "GUEST TO HOST", "HOST TO GUEST"]);
    assert_eq!(headings[7..], ["DROPS", "CONNECTIONS", "AGENT"]);
    let a = row(&table, "a");
    assert_eq!(a[..5], ["a", "default", "192.0.2.2", "52:54:00:00:00:02", "running"]);
    assert_eq!(a[7..], ["1", "2", "-"]);
    assert_eq!(row(&table, "b")[3..7], ["52:54:00:00:00:03", "waiting", "0 B", "0 B"]);
}

#[test]
fn one_vm_is_shown() {
    let Shown { bed, .. } = &shown();
    let a = bed.vonicd.vm("a").unwrap();
    assert_eq!((&a["mtu"], &a["labels"], &a["last_error"]), (&json!(1400), &json!({ "tier": "web" }), &json!(null)));
    assert_eq!(a["drops_by_reason"]["spoofed_mac"], json!({ "guest_to_host": 1, "host_to_guest": 0 }));
    assert_eq!(a["forwards"].as_array().unwrap().len(), 1);
    assert_eq!(a["tcp"]["open"], 2);
    let ring = |index: u16, direction: &str| json!({ "index": index, "direction": direction, "size": 256, "enabled": true, "state": "running" });
    assert_eq!(a["rings"], json!([ring(0, "host_to_guest"), ring(1, "guest_to_host")]));
    for feature in ["mrg_rxbuf", "event_idx", "version_1"] {
        let has = |key: &str| {
            a[key].as_array().unwrap().iter().any(|name| name.as_str().unwrap().eq_ignore_ascii_case(feature))
        };
        assert!(has("features_offered") && has("features_negotiated"), "{feature}: {a}");
    }

    let text = bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap();
    for (name, value) in [
        ("state", "running"),
        ("mac", "52:54:00:00:00:02"),
        ("mtu", "1400"),
        ("labels", "tier=web"),
        ("connections", "2"),
        ("last error", "none"),
    ] {
        assert_eq!(row(&text, name)[1..], [value], "{text}");
    }
    assert!(row(&text, "forward")[1].contains("127.0.0.1:7001"), "{text}");
    assert_eq!(row(&text, "RING"), ["RING", "DIRECTION", "SIZE", "ENABLED", "STATE"]);
    assert_eq!(row(&text, "1"), ["1", "guest to host", "256", "yes", "running"]);
    assert_eq!(row(&text, "spoofed mac"), ["spoofed mac", "guest to host", "1"]);

    let b = bed.vonicd.vm("b").unwrap();
    assert_eq!((&b["rings"], &b["features_negotiated"]), (&json!([]), &json!([])));
    let output = bed.vonicd.vonic_output(&["vm", "show", "nobody"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("'nobody'"));
}

#[test]
fn connections_are_shown() {
    let Shown { bed, .. } = &shown();
    let rows = bed.vonicd.vonic(&["conns", "--json"]).unwrap();
    let of =
        |direction: &str| rows.as_array().unwrap().iter().find(|row| row["direction"] == direction).unwrap().clone();
    for (direction, port) in [("guest_opens", 4000), ("world_opens", 1)] {
        let row = of(direction);
        assert_eq!((&row["vm"], &row["state"]), (&json!("a"), &json!("ESTABLISHED")));
        assert_eq!(row["guest"], format!("192.0.2.2:{port}"));
        assert!(row["remote"].as_str().unwrap().starts_with("192.0.2.1:"), "{row}");
        assert_eq!((&row["bytes_guest_to_host"], &row["bytes_host_to_guest"]), (&json!(4211), &json!(9001)));
    }
    assert_eq!(bed.vonicd.vonic(&["conns", "--vm", "b", "--json"]).unwrap(), json!([]));

    let table = bed.vonicd.vonic_text(&["conns", "--vm", "a"]).unwrap();
    assert_eq!(
        row(&table, "VM"),
        ["VM", "PROTOCOL", "OPENED BY", "GUEST", "REMOTE", "STATE", "GUEST TO HOST", "HOST TO GUEST", "AGE"]
    );
    for (who, guest) in [("guest", "192.0.2.2:4000"), ("world", "192.0.2.2:1")] {
        let line = table.lines().find(|line| line.contains(&format!("{who} "))).unwrap();
        assert!(line.contains(guest) && line.contains("ESTABLISHED") && line.contains("4.1 KiB"), "{table}");
    }
    assert_eq!(bed.vonicd.vonic_text(&["conns", "--vm", "b"]).unwrap(), "no connections\n");
}

#[test]
fn counters_are_shown() {
    let Shown { bed, .. } = &shown();
    let stats = bed.vonicd.stats().unwrap();
    let a = &stats["vms"]["a"];
    let listed = bed.vonicd.vm("a").unwrap();
    for key in ["guest_to_host", "host_to_guest", "drops_by_reason", "connections"] {
        assert_eq!(a[key], listed[key], "{key}");
    }
    assert!(a["guest_to_host"]["frames"].as_u64().unwrap() > 10);
    for path in ["guest_to_host", "host_to_guest", "guest_to_guest"] {
        assert_eq!(stats["copied_bytes"][path], 0, "{stats}");
    }

    let table = bed.vonicd.vonic_text(&["stats"]).unwrap();
    assert!(table.starts_with("up for "), "{table}");
    let frames = a["guest_to_host"]["frames"].to_string();
    let cells = row(&table, "a");
    assert_eq!((cells[1], cells[5], cells[6]), (frames.as_str(), "1", "2"), "{table}");
    assert_eq!(row(&table, "guest to guest"), ["guest to guest", "0"]);

    let one = bed.vonicd.vonic_text(&["stats", "a"]).unwrap();
    assert_eq!(row(&one, "guest to host")[1], frames, "{one}");
    assert_eq!(row(&one, "spoofed mac"), ["spoofed mac", "guest to host", "1"]);
    assert_eq!(bed.vonicd.vonic(&["stats", "a", "--json"]).unwrap()["connections"], 2);
}

#[test]
fn check_tells_all_mistakes_at_once_and_where() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join("etc").join(name).display().to_string();
    directory.write("etc/vonic.toml", "runtime_dir = \"/run/vonic\"\nworkers = 20\n").unwrap();
    directory.write("etc/vms.d/a.toml", "mac = \"52:54:00:00:00:02\"\nmtu = 100\n\ncolour = \"red\"\n").unwrap();
    directory.write("etc/vms.d/b.toml", "mac = \"01:54:00:00:00:02\"\naddress4 = \"203.0.113.1\"\n").unwrap();
    let good = "mac = \"52:54:00:00:00:05\"\naddress4 = \"192.0.2.5\"\n";
    directory.write("etc/vms.d/c.toml", good).unwrap();
    let output = Vonicd::check(&directory.path().join("etc")).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let wrong = [
        format!("{}:2: workers", path("vonic.toml")),
        format!("{}:2: mtu: 100", path("vms.d/a.toml")),
        format!("{}:4: ", path("vms.d/a.toml")),
        format!("{}:1: mac", path("vms.d/b.toml")),
        format!("{}:2: address4", path("vms.d/b.toml")),
    ];
    for place in &wrong {
        assert_eq!(said.lines().filter(|line| line.starts_with(place.as_str())).count(), 1, "{place} in\n{said}");
    }
    assert_eq!(said.lines().count(), wrong.len(), "{said}");

    directory.write("etc/vonic.toml", "runtime_dir = \"/run/vonic\"\n").unwrap();
    directory.write("etc/vms.d/a.toml", "mac = \"52:54:00:00:00:02\"\nmtu = 9000\n").unwrap();
    directory.write("etc/vms.d/b.toml", "mac = \"52:54:00:00:00:03\"\naddress4 = \"192.0.2.3\"\n").unwrap();
    let output = Vonicd::check(&directory.path().join("etc")).unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("3 VMs"));
}
