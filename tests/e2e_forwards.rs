//! Where may the world come in, and where may a guest go? Forwards that move, grow and change hands under running connections; a forward
//! whose port is taken; egress rules.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::json;
use vonic_tests::frames::Tcp;
use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::wire::{Conn, HOST, HandGuest};
use vonic_tests::*;

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn forward(listen: &str, port: u16) -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{listen}\"\nport = {port}\n")
}

fn vm(number: u8, more: &str) -> String {
    format!("mac = \"52:54:00:00:00:{number:02x}\"\naddress4 = \"192.0.2.{number}\"\n{more}")
}

fn guest(bed: &Bed, name: &str, number: u8) -> HandGuest {
    HandGuest::start(bed, name, number, feature::ALL).unwrap()
}

/// Writes VM files and reloads; all of it must be good.
fn reload(bed: &Bed, files: &[(&str, String)]) {
    for (name, text) in files {
        bed.directory.write(&format!("etc/vms.d/{name}.toml"), text).unwrap();
    }
    let report = bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    assert_eq!(report["errors"], json!([]), "{report}");
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(local(port)).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn wait_until_refused(port: u16) {
    wait_until(&format!("the end of the listener on {port}"), seconds(5), || is_refused(port)).unwrap();
}

#[test]
fn a_forward_moves_and_an_unchanged_one_keeps_its_connections() {
    let first = [forward("127.0.0.1:7001", 1), forward("127.0.0.1:7002", 2), forward("127.0.0.1:7003", 3)].concat();
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &first)).unwrap();
    let mut a = guest(&bed, "a", 2);
    let mut moved = Line::world_opens(&mut a, local(7001), 1).unwrap();
    let mut kept = Line::world_opens(&mut a, local(7002), 2).unwrap();
    // 7001 moves to 7011, 7002 stays and is now the first, 7003 leads to another port of the guest.
    let second = [forward("127.0.0.1:7002", 2), forward("127.0.0.1:7011", 1), forward("127.0.0.1:7003", 33)].concat();
    reload(&bed, &[("a", vm(2, &second))]);
    wait_until_refused(7001);
    Line::world_opens(&mut a, local(7011), 1).unwrap().exchange(&mut a).unwrap();
    Line::world_opens(&mut a, local(7002), 2).unwrap().exchange(&mut a).unwrap();
    Line::world_opens(&mut a, local(7003), 33).unwrap().exchange(&mut a).unwrap();
    // What was open stays open, also where the listener has gone: it is a listener that went, no connection.
    kept.exchange(&mut a).unwrap();
    moved.exchange(&mut a).unwrap();
    reload(&bed, &[("a", vm(2, ""))]);
    [7002, 7003, 7011].into_iter().for_each(wait_until_refused);
    kept.exchange(&mut a).unwrap();
    assert_eq!(bed.vonicd.vm("a").unwrap()["forwards"], json!([]));
    bed.vonicd.stop().unwrap();
}

/// The old listener must have gone before one that overlaps it can be opened.
#[test]
fn a_forward_grows_and_shrinks_in_place() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &forward("127.0.0.1:7001", 1))).unwrap();
    let mut a = guest(&bed, "a", 2);
    let mut line = Line::world_opens(&mut a, local(7001), 1).unwrap();
    for round in 0..10 {
        for listen in ["*:7001", "127.0.0.1:7001", "*:7000-7002", "127.0.0.1:7000-7001", "lo:7001", "127.0.0.1:7001"] {
            let first = if listen.contains(":7000") { 0 } else { 1 };
            reload(&bed, &[("a", vm(2, &forward(listen, first + 10)))]);
            let shown = bed.vonicd.vm("a").unwrap();
            assert_eq!(shown["last_error"], json!(null), "{listen}, round {round}");
            Line::world_opens(&mut a, local(7001), 11).with_context(|| listen.to_string()).unwrap();
            line.exchange(&mut a).unwrap();
        }
    }
    bed.vonicd.stop().unwrap();
}

/// A forward goes from one VM to another, to a removed one's successor, and to a VM that has to connect again.
#[test]
fn a_forward_changes_hands() {
    let config = TestConfig::default().vm("a", 2, &forward("127.0.0.1:7001", 1)).vm("b", 3, "");
    let bed = Bed::start(&config).unwrap();
    let (mut a, mut b) = (guest(&bed, "a", 2), guest(&bed, "b", 3));
    let mut line = Line::world_opens(&mut a, local(7001), 1).unwrap();
    for (round, listen) in ["127.0.0.1:7001", "*:7001", "127.0.0.1:7001", "127.0.0.1:7001"].iter().enumerate() {
        let text = forward(listen, 1);
        let (of_a, of_b) = if round % 2 == 0 { ("", text.as_str()) } else { (text.as_str(), "") };
        reload(&bed, &[("a", vm(2, of_a)), ("b", vm(3, of_b))]);
        let heir = if round % 2 == 0 { &mut b } else { &mut a };
        Line::world_opens(heir, local(7001), 1).unwrap().exchange(heir).unwrap();
        line.exchange(&mut a).unwrap();
    }
    // From a, which goes, to c, which comes.
    std::fs::remove_file(bed.vonicd.config_dir().join("vms.d/a.toml")).unwrap();
    reload(&bed, &[("c", vm(4, &forward("*:7001", 1)))]);
    let mut c = wait_for("c's socket", seconds(5), || Ok(HandGuest::start(&bed, "c", 4, feature::ALL).ok())).unwrap();
    Line::world_opens(&mut c, local(7001), 1).unwrap().exchange(&mut c).unwrap();
    line.host_sees_reset().unwrap();
    // c becomes another device, with a narrower listener.
    reload(&bed, &[("c", vm(4, &format!("mtu = 1400\n{}", forward("127.0.0.1:7001", 1))))]);
    assert_eq!(bed.vonicd.vm("c").unwrap()["last_error"], json!(null));
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_taken_port_is_told_and_the_vm_works_until_a_reload_finds_it_free() {
    let bed = Bed::start(&TestConfig::default().vm("b", 3, "")).unwrap();
    let taken = TcpListener::bind(local(7001)).unwrap();
    let text = vm(2, &[forward("127.0.0.1:7001", 1), forward("127.0.0.1:7002", 2)].concat());
    bed.directory.write("etc/vms.d/a.toml", &text).unwrap();
    let output = bed.vonicd.vonic_output(&["reload"]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    for words in ["vms.d/a.toml", "127.0.0.1:7001", "another program listens there"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let mut a = wait_for("a's socket", seconds(5), || Ok(HandGuest::start(&bed, "a", 2, feature::ALL).ok())).unwrap();
    let error = bed.vonicd.vm("a").unwrap()["last_error"].as_str().unwrap().to_string();
    assert!(error.contains("127.0.0.1:7001") && error.contains("port 7001"), "{error}");
    assert!(bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap().contains(&error));
    assert!(bed.vonicd.log().contains(&error));
    let mut line = Line::world_opens(&mut a, local(7002), 2).unwrap();
    Line::guest_opens(&mut a, 4000).unwrap().exchange(&mut a).unwrap();

    // Nothing has changed in the file; the port is free now.
    drop(taken);
    reload(&bed, &[]);
    assert_eq!(bed.vonicd.vm("a").unwrap()["last_error"], json!(null));
    Line::world_opens(&mut a, local(7001), 1).unwrap().exchange(&mut a).unwrap();
    line.exchange(&mut a).unwrap();
    bed.vonicd.stop().unwrap();
}

/// What is missing is tried again by itself: a port that another program gives back, an address and an interface that come.
#[test]
fn forwards_listen_as_soon_as_they_can() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind(local(7001)).unwrap();
    let far: SocketAddr = ([198, 51, 100, 1], 7002).into();
    let forwards = [forward("127.0.0.1:7001", 1), forward("198.51.100.1:7002", 2), forward("wire:7003", 3)].concat();
    let config = TestConfig::default().vm("a", 2, &forwards).vm("b", 3, "");
    let bed = Bed { vonicd: Vonicd::start(&directory, &config).unwrap(), lab: Lab::open().unwrap(), directory };
    let mut a = guest(&bed, "a", 2);
    let errors = || bed.vonicd.vm("a").unwrap()["forward_errors"].as_array().unwrap().clone();
    let names = |words: &[&str]| {
        let errors = errors();
        errors.len() == words.len() && words.iter().zip(&errors).all(|(w, e)| e.as_str().unwrap().contains(w))
    };
    assert!(
        names(&["another program", "the host does not have this address", "not have this interface"]),
        "{:?}",
        errors()
    );
    // A second try comes after a second, and is silent about what is known.
    let told = bed.vonicd.log().matches("127.0.0.1:7001: cannot listen").count();
    drop(taken);
    wait_until("the free port", seconds(10), || names(&["this address", "this interface"])).unwrap();
    assert_eq!((told, bed.vonicd.log().matches("ERROR] a: forward 127.0.0.1:7001").count()), (1, 1));
    assert!(bed.vonicd.log().contains("a: no longer: forward 127.0.0.1:7001"));
    let mut line = Line::world_opens(&mut a, local(7001), 1).unwrap();
    // An address and an interface are news: nobody waits for the next try.
    ip("addr add 198.51.100.1/32 dev lo").unwrap();
    wait_until("the address", seconds(3), || names(&["this interface"])).unwrap();
    line.exchange(&mut a).unwrap();
    let near = Netns::new().unwrap();
    for round in 0..3 {
        near.cable("wire", "203.0.113.1/24", "203.0.113.2/24").unwrap();
        wait_until("the interface", seconds(3), || errors().is_empty())
            .with_context(|| format!("round {round}"))
            .unwrap();
        assert_eq!(bed.vonicd.vm("a").unwrap()["last_error"], json!(null));
        let before = bed.vonicd.vm("a").unwrap()["tcp"]["open"].as_u64().unwrap();
        let there: SocketAddr = ([203, 0, 113, 1], 7003).into();
        let client = near.run(|| Ok(TcpStream::connect_timeout(&there, seconds(5))?)).unwrap();
        wait_until("the guest's connection", seconds(5), || {
            bed.vonicd.vm("a").unwrap()["tcp"]["open"].as_u64().unwrap() == before + 1
        })
        .unwrap();
        drop(client);
        // Its listener goes with the interface, and comes with another of that name.
        ip("link del wire").unwrap();
        wait_until("the interface's end", seconds(3), || names(&["this interface"])).unwrap();
    }
    line.exchange(&mut a).unwrap();
    assert!(TcpStream::connect_timeout(&far, seconds(1)).is_ok());
    bed.vonicd.stop().unwrap();
}

/// A port that is taken when the service starts does not keep it from starting.
#[test]
fn a_port_taken_at_the_start_is_told() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let _taken = TcpListener::bind(local(7001)).unwrap();
    let config = TestConfig::default().vm("a", 2, &forward("127.0.0.1:7001", 1)).vm("b", 3, "");
    let vonicd = Vonicd::start(&directory, &config).unwrap();
    assert!(vonicd.vm("a").unwrap()["last_error"].as_str().unwrap().contains("port 7001"));
    assert_eq!(vonicd.vm("b").unwrap()["last_error"], json!(null));
    vonicd.stop().unwrap();
}

#[test]
fn egress_rules_decide_by_address_and_port_in_order() {
    let rule = |action: &str, more: &str| format!("[[egress]]\naction = \"{action}\"\n{more}\n");
    let rules = [
        rule("deny", "to = \"192.0.2.1\"\nproto = \"tcp\"\nports = \"8000-8010\""),
        rule("allow", "to = \"192.0.2.1\"\nproto = \"tcp\"\nports = \"8000-8100\""),
        rule("deny", "to = \"192.0.2.0/24\"\nproto = \"udp\""),
    ];
    let bed = Bed::start(&TestConfig::default().vm("a", 2, &rules.concat()).vm("b", 3, "")).unwrap();
    let mut a = guest(&bed, "a", 2);
    let mut b = guest(&bed, "b", 3);
    let listeners = [7999, 8000, 8010, 8011, 8100, 8101].map(|port| TcpListener::bind(local(port)).unwrap());
    for (place, listener) in listeners.iter().enumerate() {
        let port = listener.local_addr().unwrap().port();
        let allowed = matches!(port, 8011 | 8100);
        let before = bed.vonicd.drops("a", "denied").unwrap();
        let mut conn = Conn::new(HOST, (4000 + place as u16, port));
        a.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
        if allowed {
            let answer = conn.expect(&mut a, "SYN-ACK").unwrap();
            conn.synchronize(&answer).unwrap();
        } else {
            wait_until("a drop", seconds(5), || bed.vonicd.drops("a", "denied").unwrap() == before + 1).unwrap();
        }
        assert_eq!(bed.vonicd.drops("a", "denied").unwrap(), before + u64::from(!allowed), "port {port}");
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().is_ok(), allowed, "port {port}");
        // b has no rules.
        Conn::new(HOST, (4000 + place as u16, port)).open(&mut b).unwrap();
    }
    assert_eq!(bed.vonicd.drops("b", "denied").unwrap(), 0);
    bed.vonicd.stop().unwrap();
}
