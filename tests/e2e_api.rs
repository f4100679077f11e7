//! VMs that the API puts and deletes, events as they happen, connections by what they are like, reloads that only tell, and files that are
//! followed: does each do what it says, whatever becomes of the engine?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};
use vonic_tests::http;
use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::usage::processor_time;
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// A user that no system has by name.
const OTHER: u32 = 65_532;

fn text(number: u8, more: &str) -> String {
    format!("mac = \"52:54:00:00:00:{number:02x}\"\naddress4 = \"192.0.2.{number}\"\n{more}\n")
}

fn start(config: TestConfig) -> Bed {
    Bed::start(&config.vm("a", 2, "")).unwrap()
}

fn socket(bed: &Bed) -> std::path::PathBuf {
    bed.directory.path().join("run/api.sock")
}

/// `vonic vm add` of this text, and its report.
fn add(bed: &Bed, name: &str, text: &str) -> Value {
    let file = bed.directory.write(&format!("new/{name}.toml"), text).unwrap();
    bed.vonicd.vonic(&["vm", "add", &file.display().to_string(), "--json"]).unwrap()
}

fn names(bed: &Bed) -> Vec<String> {
    let rows = bed.vonicd.vonic(&["vm", "list", "--json"]).unwrap();
    rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_string()).collect()
}

fn is_served(bed: &Bed, name: &str) -> bool {
    std::os::unix::net::UnixStream::connect(bed.socket(name)).is_ok()
}

/// Kills the engine, and waits for the next one.
fn kill_engine(bed: &Bed) {
    let old = bed.vonicd.engine().unwrap();
    assert!(Command::new("kill").args(["-KILL", &old.to_string()]).status().unwrap().success());
    next_engine(bed, old);
}

fn next_engine(bed: &Bed, old: u32) {
    wait_until("another engine", seconds(20), || bed.vonicd.engine().is_ok_and(|engine| engine != old)).unwrap();
    wait_until("its API", seconds(20), || bed.vonicd.vonic(&["engine", "status", "--json"]).is_ok()).unwrap();
}

#[test]
fn vms_that_were_put_are_there_whatever_becomes_of_the_engine() {
    let mut bed = start(TestConfig::default());
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut line = Line::guest_opens(&mut a, 4000).unwrap();
    let report = add(&bed, "b", &text(3, "labels = { tier = \"web\" }"));
    assert_eq!((&report["added"], &report["errors"], &report["unchanged"]), (&json!(["b"]), &json!([]), &json!(1)));
    // It is served when the answer is there.
    assert!(is_served(&bed, "b"));
    let mut b = HandGuest::start(&bed, "b", 3, feature::ALL).unwrap();
    let mut line_b = Line::guest_opens(&mut b, 4001).unwrap();
    let file = bed.vonicd.config_dir().join("vms.d/b.toml");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text(3, "labels = { tier = \"web\" }"));

    // Changed without another NIC: its VMM stays, and the difference is told.
    let report = add(&bed, "b", &text(3, "labels = { tier = \"db\" }"));
    assert_eq!((&report["changed"], &report["reconnects"]), (&json!(["b"]), &json!([])));
    let difference =
        json!([{ "of": "vm b", "key": "labels", "before": "{\"tier\":\"web\"}", "after": "{\"tier\":\"db\"}" }]);
    assert_eq!(report["differences"], difference);

    // Nothing bad changes anything, be it of the file or in the running of it.
    let before = std::fs::read_to_string(&file).unwrap();
    for (bad, field, words) in [
        (text(3, "mtu = 100"), "mtu", "write a number from 576 to 65520"),
        (text(3, "colour = 1"), "colour", "keys"),
        (text(2, ""), "mac", "a"),
        ("mac".into(), "body", "toml"),
    ] {
        let answer = http::ask(&socket(&bed), "PUT", "/v1/vms/b", Some(("application/toml", bad.as_bytes()))).unwrap();
        let error = answer.json().unwrap()["error"].clone();
        assert_eq!((answer.status, &error["field"]), (400, &json!(field)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
    [(&mut line, &mut a), (&mut line_b, &mut b)].into_iter().for_each(|(line, guest)| line.exchange(guest).unwrap());

    // An engine that dies, one that is replaced, another vonicd, and a reload.
    kill_engine(&bed);
    assert_eq!(names(&bed), ["a", "b"]);
    bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    let program = Vonicd::program(false).unwrap();
    bed.vonicd.upgrade(&program).unwrap();
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!((&report["unchanged"], &report["differences"]), (&json!(2), &json!([])));
    assert_eq!(bed.vonicd.vm("b").unwrap()["labels"]["tier"], "db");
    [(&mut line, &mut a), (&mut line_b, &mut b)].into_iter().for_each(|(line, guest)| line.exchange(guest).unwrap());

    // Removed: its file, its socket, its connection.
    let report = bed.vonicd.vonic(&["vm", "rm", "b", "--json"]).unwrap();
    assert_eq!((&report["removed"], file.exists()), (&json!(["b"]), false));
    line_b.host_sees_reset().unwrap();
    let output = bed.vonicd.vonic_output(&["vm", "rm", "b"]).unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("there is no VM 'b'"));
    kill_engine(&bed);
    assert_eq!(names(&bed), ["a"]);
    line.exchange(&mut a).unwrap();
    drop((a, b));
    bed.vonicd.stop().unwrap();
}

#[test]
fn json_does_as_well_as_toml() {
    let bed = start(TestConfig::default());
    let forward = json!({ "proto": "tcp", "listen": "127.0.0.1:7011", "port": 7 });
    let body = json!({ "mac": "52:54:00:00:00:03", "mtu": 1400, "forward": [forward], "limits": { "pending": 7 },
        "address4": "192.0.2.3", "address6": null });
    let file = bed.directory.write("new/vm.json", body.to_string()).unwrap().display().to_string();
    bed.vonicd.vonic(&["vm", "add", &file, "--name", "c", "--json"]).unwrap();
    let vm = bed.vonicd.vm("c").unwrap();
    assert_eq!(
        (&vm["mtu"], &vm["address4"], &vm["forwards"]),
        (&json!(1400), &json!("192.0.2.3"), &json!(["tcp 127.0.0.1:7011 -> 7"]))
    );
    std::net::TcpStream::connect("127.0.0.1:7011").unwrap();
    // The file is as good as one that somebody wrote.
    let output = Vonicd::check(&bed.vonicd.config_dir()).unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!((&report["unchanged"], &report["differences"]), (&json!(2), &json!([])));
    bed.vonicd.stop().unwrap();
}

#[test]
fn connections_are_found_by_what_they_are_like() {
    let bed = start(TestConfig::default().vm(
        "b",
        3,
        "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7012\"\nport = 7\n",
    ));
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut b = HandGuest::start(&bed, "b", 3, feature::ALL).unwrap();
    let mut lines = [
        Line::guest_opens(&mut a, 4000).unwrap(),
        Line::guest_opens(&mut a, 4001).unwrap(),
        Line::world_opens(&mut b, ([127, 0, 0, 1], 7012).into(), 7).unwrap(),
    ];
    let found = |arguments: &[&str]| {
        let rows = bed.vonicd.vonic(&[&["conns", "--json"], arguments].concat()).unwrap();
        let mut ends: Vec<String> =
            rows.as_array().unwrap().iter().map(|row| row["guest"].as_str().unwrap().to_string()).collect();
        ends.sort();
        ends
    };
    let all = ["192.0.2.2:4000", "192.0.2.2:4001", "192.0.2.3:7"];
    for (arguments, wanted) in [
        (vec![], &all[..]),
        (vec!["--state", "established"], &all),
        (vec!["--state", "FIN-WAIT-1"], &[]),
        (vec!["--protocol", "udp"], &[]),
        (vec!["--vm", "a"], &all[..2]),
        (vec!["--vm", "a", "--port", "4001"], &all[1..2]),
        (vec!["--address", "192.0.2.3"], &all[2..]),
        (vec!["--address", "192.0.2.0/30", "--port", "7"], &all[2..]),
        (vec!["--address", "192.0.2.2", "--port", "7"], &[]),
        (vec!["--max-age", "600"], &all),
        (vec!["--min-age", "600"], &[]),
    ] {
        assert_eq!(found(&arguments), wanted, "{arguments:?}");
    }
    let output = bed.vonicd.vonic_output(&["conns", "--state", "open"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("give one of SYN-SENT"), "{said}");
    lines[0].exchange(&mut a).unwrap();
    bed.vonicd.vonic(&["stats", "--over", "1", "--json"]).unwrap();
    drop((a, b));
    bed.vonicd.stop().unwrap();
}

/// `vonic events`, which goes on by itself.
struct Listener(Process);

impl Listener {
    fn start(bed: &Bed, arguments: &[&str]) -> Listener {
        let log = bed.directory.path().join(format!("events{}.log", arguments.len()));
        let mut command = Command::new(Vonicd::client().unwrap());
        command.arg("--socket").arg(socket(bed)).args(["events", "--json"]).args(arguments);
        let mut listener = Listener(Process::start("events", &mut command, None, &log).unwrap());
        listener.heard("begun");
        listener
    }

    fn events(&self) -> Vec<Value> {
        self.0.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event of this kind, and gives the last one.
    fn heard(&mut self, kind: &str) -> Value {
        wait_for(kind, seconds(20), || {
            assert!(self.0.ended().is_none(), "it ended: {}", self.0.log());
            Ok(self.events().into_iter().rfind(|event| event["event"] == kind))
        })
        .unwrap()
    }
}

#[test]
fn events_are_told_as_they_happen_over_engines() {
    let mut bed = start(TestConfig::default());
    let mut all = Listener::start(&bed, &[]);
    let mut of_b = Listener::start(&bed, &["--vm", "b"]);
    let a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    assert_eq!(all.heard("vm_connected")["vm"], "a");
    add(&bed, "b", &text(3, ""));
    assert_eq!((&all.heard("vm_added")["vm"], &of_b.heard("vm_added")["vm"]), (&json!("b"), &json!("b")));
    add(&bed, "b", &text(3, "labels = { x = \"1\" }"));
    assert_eq!(all.heard("vm_changed")["vm"], "b");
    bed.directory.write("etc/vms.d/c.toml", "mtu = 1").unwrap();
    bed.vonicd.vonic_output(&["reload"]).unwrap();
    assert!(all.heard("configuration_refused")["errors"].to_string().contains("c.toml"));
    assert_eq!(all.heard("configuration_reloaded")["unchanged"], 2);

    // What ends the stream is told by whoever goes on with it.
    kill_engine(&bed);
    let took_over = all.heard("engine_took_over");
    assert_eq!(took_over["pid"], bed.vonicd.engine().unwrap());
    assert!(all.heard("engine_died")["reason"].as_str().unwrap().contains("signal 9"));
    bed.vonicd.vonic(&["engine", "restart", "--json"]).unwrap();
    all.heard("engine_replaced");
    bed.vonicd.upgrade(&Vonicd::program(false).unwrap()).unwrap();
    assert_eq!(all.heard("upgraded")["process"], bed.vonicd.master());
    let refused = bed.vonicd.vonic_output(&["upgrade", "/nowhere/vonicd"]).unwrap();
    assert!(!refused.status.success());
    all.heard("upgrade_failed");

    bed.vonicd.vonic(&["vm", "rm", "b", "--json"]).unwrap();
    assert_eq!((&all.heard("vm_removed")["vm"], &of_b.heard("vm_removed")["vm"]), (&json!("b"), &json!("b")));
    drop(a);
    assert_eq!(all.heard("vm_disconnected")["vm"], "a");
    // Each once: what one engine has told the next one does not tell again.
    let count = |kind: &str| all.events().iter().filter(|event| event["event"] == kind).count();
    for (kind, times) in [("vm_added", 1), ("engine_died", 1), ("upgraded", 1), ("upgrade_failed", 1), ("lost", 0)] {
        assert_eq!(count(kind), times, "{kind} in {:#?}", all.events());
    }
    assert!(of_b.events().iter().all(|event| event["vm"].is_null() || event["vm"] == "b"));

    // Nothing happens: neither listening nor being listened to costs anything.
    let engine = bed.vonicd.engine().unwrap();
    let before = [engine, all.0.pid()].map(|pid| processor_time(pid).unwrap());
    std::thread::sleep(seconds(2));
    let after = [engine, all.0.pid()].map(|pid| processor_time(pid).unwrap());
    let spent = [after[0] - before[0], after[1] - before[1]];
    assert!(spent.iter().all(|spent| spent.as_millis() < 10), "{spent:?} in two seconds");
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_dry_run_changes_nothing_and_tells_everything() {
    let bed = start(TestConfig::default().vm("b", 3, "").vm("c", 4, ""));
    bed.directory.write("etc/vms.d/b.toml", text(3, "mtu = 1400")).unwrap();
    bed.directory.write("etc/vms.d/d.toml", text(5, "")).unwrap();
    bed.directory.write("etc/vms.d/e.toml", "mtu = 1").unwrap();
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/c.toml")).unwrap();
    let output = bed.vonicd.vonic_output(&["reload", "--dry-run"]).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected = "would be added: d\nwould be changed: b\nwould be removed: c\n  vm b: mtu: 1500 -> 1400\n  \
        another NIC, so the VMM would connect again: b\nunchanged: 1\n";
    assert_eq!(said, expected);
    assert!(output.status.code() == Some(1) && String::from_utf8(output.stderr).unwrap().contains("e.toml:1: mtu"));
    assert_eq!(
        (names(&bed), &bed.vonicd.vm("b").unwrap()["mtu"]),
        (vec!["a".into(), "b".into(), "c".into()], &json!(1500))
    );
    let output = bed.vonicd.vonic_output(&["reload"]).unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .starts_with("added: d\nchanged: b\nremoved: c\n  vm b: mtu: 1500 -> 1400\n")
    );
    assert_eq!(
        (names(&bed), &bed.vonicd.vm("b").unwrap()["mtu"]),
        (vec!["a".into(), "b".into(), "d".into()], &json!(1400))
    );
    bed.vonicd.stop().unwrap();
}

#[test]
fn files_are_followed_if_the_configuration_says_so() {
    let bed = start(TestConfig { service: "reload_on_change = true\n".into(), ..TestConfig::default() });
    let path = |name: &str| bed.vonicd.config_dir().join(format!("vms.d/{name}.toml"));
    let is_there = |name: &str| names(&bed).contains(&name.to_string());
    bed.directory.write("etc/vms.d/b.toml", text(3, "")).unwrap();
    wait_until("b", seconds(20), || is_there("b")).unwrap();
    // As editors write: beside, and then in its place.
    bed.directory.write("etc/vms.d/.b.new", text(3, "mtu = 1400")).unwrap();
    std::fs::rename(bed.vonicd.config_dir().join("vms.d/.b.new"), path("b")).unwrap();
    wait_until("its change", seconds(20), || bed.vonicd.vm("b").is_ok_and(|vm| vm["mtu"] == 1400)).unwrap();
    bed.directory.write("etc/vms.d/b.toml", "mtu = 1").unwrap();
    wait_until("a complaint", seconds(20), || bed.vonicd.log().contains("b.toml:1: mtu: 1 is out of range")).unwrap();
    assert_eq!(bed.vonicd.vm("b").unwrap()["mtu"], 1400);
    // Over engines, too.
    kill_engine(&bed);
    std::fs::remove_file(path("b")).unwrap();
    wait_until("its end", seconds(20), || !is_there("b")).unwrap();
    // Off again: a reload finds what nobody has looked for.
    let service = std::fs::read_to_string(bed.vonicd.config_dir().join("vonic.toml")).unwrap();
    bed.directory.write("etc/vonic.toml", service.replace("reload_on_change = true", "")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    bed.directory.write("etc/vms.d/c.toml", text(4, "")).unwrap();
    std::thread::sleep(seconds(1));
    assert!(!is_there("c"));
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(is_there("c"));
    bed.vonicd.stop().unwrap();
}

#[test]
fn who_is_let_in_by_the_socket_alone_may_look_and_change_nothing() {
    let bed = start(TestConfig::default());
    std::fs::set_permissions(socket(&bed), PermissionsExt::from_mode(0o666)).unwrap();
    let looked = bed.vonicd.vonic_as(OTHER, &["vm", "list"]).unwrap();
    assert!(looked.status.success(), "{looked:?}");
    for command in [
        &["reload"][..],
        &["vm", "rm", "a"],
        &["engine", "restart"],
        &["upgrade", "/nowhere"],
        &["migrate", "save", "a", "-"],
    ] {
        let output = bed.vonicd.vonic_as(OTHER, command).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("user 65532 may look, and change nothing"),
            "{command:?}: {said}"
        );
    }
    assert_eq!(names(&bed), ["a"]);
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(bed.vonicd.log().contains("user 0, process "), "{}", bed.vonicd.log());
    bed.vonicd.stop().unwrap();
}

/// They say nothing, which is noticed after five seconds only.
#[test]
fn who_may_only_look_takes_no_operators_place() {
    let bed = start(TestConfig::default());
    std::fs::set_permissions(socket(&bed), PermissionsExt::from_mode(0o666)).unwrap();
    let silent: Vec<_> = (0..100).map(|_| vonic_tests::connect_as(OTHER, &socket(&bed)).unwrap()).collect();
    let before = std::time::Instant::now();
    assert_eq!(names(&bed), ["a"]);
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(before.elapsed() < seconds(4), "an operator waits for others: {:?}", before.elapsed());
    // Those that found no place have been told.
    let told = |mut stream: std::os::unix::net::UnixStream| {
        let mut text = String::new();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let _ = std::io::Read::read_to_string(&mut stream, &mut text);
        text.starts_with("HTTP/1.1 503") && text.contains("48 clients that may only look are here already")
    };
    assert_eq!(silent.into_iter().map(told).filter(|told| *told).count(), 52);
    wait_until("a place", seconds(10), || {
        bed.vonicd.vonic_as(OTHER, &["vm", "list"]).is_ok_and(|output| output.status.success())
    })
    .unwrap();
    bed.vonicd.stop().unwrap();
}

#[test]
fn health_tells_what_does_not_work() {
    let bed = start(TestConfig::default());
    assert!(bed.vonicd.vonic_text(&["health"]).unwrap().starts_with("ok: vonic "));
    let taken = std::net::TcpListener::bind("127.0.0.1:7013").unwrap();
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7013\"\nport = 7\n";
    bed.directory.write("etc/vms.d/a.toml", text(2, forward)).unwrap();
    bed.vonicd.vonic_output(&["reload"]).unwrap();
    let output = bed.vonicd.vonic_output(&["health", "--json"]).unwrap();
    let health: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &health["status"]), (Some(1), &json!("degraded")));
    assert!(health["problems"][0].as_str().unwrap().starts_with("a: forward 127.0.0.1:7013"), "{health}");
    drop(taken);
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert!(bed.vonicd.vonic_text(&["health"]).unwrap().starts_with("ok: "));
    bed.vonicd.stop().unwrap();
}
