//! Is a guest told what it is and what its NIC sees of it, by curl and by the agent's own commands, and of its own only?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::{Value, json};
use vonic_tests::*;

/// Asks the service by curl; the status and the body.
fn get(guest: &mut Guest, arguments: &str) -> (u16, String) {
    let curl = format!("curl -sS -m 10 -w '\\n%{{http_code}}' {arguments}");
    let said = guest.must(&curl.replace(" /", " http://169.254.169.254/"), seconds(15)).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.trim_end_matches('\r').replace("\r\n", "\n"))
}

fn text(guest: &mut Guest, path: &str) -> String {
    let (status, body) = get(guest, path);
    assert_eq!(status, 200, "{path}: {body}");
    body.trim_end().to_string()
}

fn json(guest: &mut Guest, path: &str) -> Value {
    serde_json::from_str(&text(guest, path)).unwrap()
}

fn agent(guest: &mut Guest, arguments: &str) -> String {
    guest.must(&format!("vonic-agent {arguments}"), seconds(20)).unwrap().replace("\r\n", "\n")
}

fn agent_json(guest: &mut Guest, arguments: &str) -> Value {
    let said = agent(guest, arguments);
    serde_json::from_str(&said).with_context(|| said.clone()).unwrap()
}

const LABELS: &str = "labels = { tier = \"web\", \"two words\" = \"x/y\" }\nmtu = 1400";

#[test]
fn a_guest_is_told_of_itself_and_of_its_nic() {
    let config = TestConfig::both_families().vm("a", 2, LABELS).vm("b", 3, "labels = { tier = \"secret\" }");
    let bed = Bed::start(&config).unwrap();
    let programs = vec![agent_program().unwrap()];
    let config = GuestConfig { programs, ip6: true, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    metadata(&mut guest);
    refusals(&mut guest);
    nic(&bed, &mut guest);
    connections(&bed, &mut guest);
    commands(&mut guest);
    // A reload changes what is told, and nothing else.
    let vm = TestConfig::both_families().vm("a", 2, &LABELS.replace("web", "db")).vms["a"].clone();
    bed.directory.write("etc/vms.d/a.toml", vm).unwrap();
    bed.vonicd.vonic_text(&["reload"]).unwrap();
    assert_eq!(text(&mut guest, "/v1/labels/tier"), "db");
    let vm = bed.vonicd.vm("a").unwrap();
    assert_eq!((&vm["labels"]["tier"], &vm["tcp"]["reset"]), (&json!("db"), &json!(0)), "{vm}");
}

fn metadata(guest: &mut Guest) {
    let told = json(guest, "/v1/");
    assert_eq!(told, json(guest, "/v1"));
    for (name, value) in [
        ("version", json!(1)),
        ("name", json!("a")),
        ("mac", json!("52:54:00:00:00:02")),
        ("mtu", json!(1400)),
        ("network", json!("default")),
        ("ipv4", json!({ "address": "192.0.2.2", "prefix_len": 24, "gateway": "192.0.2.1" })),
        ("labels", json!({ "tier": "web", "two words": "x/y" })),
    ] {
        assert_eq!(told[name], value, "{name} in {told}");
    }
    assert!(!told.to_string().contains("secret"), "another VM's: {told}");
    assert_eq!(text(guest, "/v1/mtu"), "1400");
    assert_eq!(text(guest, "/v1/labels"), "tier\ntwo words");
    assert_eq!(text(guest, "/v1/labels/two%20words"), "x/y");
    assert_eq!(text(guest, "/v1/ipv4/gateway"), "192.0.2.1");
    // IPv6 has the same service, on the link.
    let six = "vonic-agent status --address fe80::a9fe:a9fe%eth0 --json || ip -6 addr";
    let mut last = String::new();
    // Its own address is tentative at first (RFC 4862 §5.4).
    wait_for("an answer over IPv6", seconds(15), || {
        last = guest.must(six, seconds(10))?;
        Ok(last.starts_with("{\"answers\":true").then_some(()))
    })
    .with_context(|| last.clone())
    .unwrap();
    let (status, head) = get(guest, "-I /v1/labels/tier");
    assert!(
        status == 200 && head.to_ascii_lowercase().contains("content-length: 3") && !head.contains("web"),
        "{head}"
    );
}

fn refusals(guest: &mut Guest) {
    for (arguments, expected, part) in [
        ("/v1/nothing", 404, "/v1/labels/"),
        ("/v1/labels/none", 404, "/v1/connections"),
        ("/latest/meta-data/", 404, "/v1/"),
        ("-X POST -d x /v1/", 405, "use GET, HEAD"),
        ("-X DELETE /v1/labels/tier", 405, "use GET, HEAD"),
        ("/v1/stats", 405, "use POST"),
        ("'/v1/connections?from=x'", 400, "use the next of the last page"),
        ("'/v1/events?batch=0'", 400, "use one from 1 to 1024"),
        ("'/v1/events?after=x'", 400, "use the cursor of the last batch"),
        ("'/v1/nic?verbose'", 400, "use nothing"),
    ] {
        let arguments = arguments.replace("'/", "'http://169.254.169.254/");
        let (status, body) = get(guest, &arguments);
        assert!(status == expected && body.contains(part), "{arguments}: {status} {body}");
    }
}

fn nic(bed: &Bed, guest: &mut Guest) {
    json(guest, "/v1/nic");
    guest.must("vonic-peer send 198.51.100.9:9 1 1 || true", seconds(30)).unwrap();
    guest.must("sleep 1.1", seconds(5)).unwrap();
    let nic = json(guest, "/v1/nic");
    let vm = bed.vonicd.vm("a").unwrap();
    assert_eq!(nic["features_negotiated"], vm["features_negotiated"]);
    assert_eq!(nic["tcp"]["connect_failed"], vm["tcp"]["connect_failed"]);
    assert_eq!(nic["offloads"]["guest_to_host"], json!({ "checksum": true, "tso4": true, "tso6": true }));
    assert!(nic["rates"]["seconds"].as_f64().unwrap() >= 1.0 && nic["guest_to_host"]["frames"].as_u64() > Some(10));
    assert!(nic["limits"].as_array().unwrap().iter().any(|limit| limit["name"] == "connections"), "{nic}");
}

fn connections(bed: &Bed, guest: &mut Guest) {
    let server = bed.server().unwrap();
    let port = server.address().port();
    let client = format!("import socket,time; s=socket.create_connection(('192.0.2.1',{port})); time.sleep(60)");
    let job = guest.spawn(&format!("exec python3 -c \"{client}\"")).unwrap();
    let rows = wait_for("the connection", seconds(10), || {
        let page = json(guest, "/v1/connections");
        let tcp = page["connections"].as_array().context("rows")?.iter().filter(|row| row["protocol"] == "tcp");
        Ok(Some(tcp.cloned().collect::<Vec<_>>()).filter(|rows| !rows.is_empty()))
    })
    .unwrap();
    // The connection that asks is none of them.
    let row = &rows[0];
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&row["direction"], &row["state"]), (&json!("guest_opens"), &json!("ESTABLISHED")), "{row}");
    assert_eq!(row["remote"], json!(format!("192.0.2.1:{port}")));
    let table = agent(guest, "connections");
    assert!(table.starts_with("proto") && table.contains("ESTABLISHED"), "{table}");
    assert_eq!(agent_json(guest, "connections --json")["connections"][0]["id"], row["id"]);
    job.kill(guest).unwrap();
}

fn commands(guest: &mut Guest) {
    let status = agent(guest, "status");
    assert!(status.starts_with("vonic      answers\nname       a\ninterface  eth0, "), "{status}");
    let status = agent_json(guest, "status --json");
    assert_eq!((&status["answers"], &status["metadata"]["mtu"]), (&json!(true), &json!(1400)), "{status}");
    assert_eq!(status["interface"]["name"], "eth0");
    let stats = agent(guest, "stats");
    assert!(stats.contains("bit/s") && stats.contains("offloads, guest to host  checksum tso4 tso6"), "{stats}");
    assert!(agent_json(guest, "stats --json")["rates"]["seconds"].as_f64().unwrap() >= 1.0);
    let top = agent(guest, "top --count 2");
    assert_eq!(top.matches("vonic NIC of a: ").count(), 2, "{top}");
    assert!(top.lines().all(|line| line.len() <= 80), "{top}");
    for command in ["status", "stats", "connections", "top"] {
        assert!(agent(guest, &format!("{command} --help")).contains(&format!("usage: vonic-agent {command}")));
    }
    let nobody = guest.run("vonic-agent status --address 192.0.2.77", seconds(30)).unwrap();
    assert_eq!(nobody.status, 1, "{nobody:?}");
}
