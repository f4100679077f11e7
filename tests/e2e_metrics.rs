//! Does Prometheus see what is? By TCP where `metrics_listen` says, and by the API's socket; over reloads and an engine's death; and not
//! from guests.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;

use vonic_tests::frames::Tcp;
use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::wire::{self, Conn, HandGuest, ask, metric};
use vonic_tests::*;

/// The address by which guests reach the host's loopback.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A port of the loopback that nobody has.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn service(at: SocketAddr) -> String {
    format!("metrics_listen = \"{at}\"\n")
}

fn told(at: SocketAddr, name: &str) -> Option<u64> {
    metric(&ask(wire::connect(at).ok()?, "GET", "/metrics").ok()?, name)
}

#[test]
fn metrics_are_told_over_reloads_and_deaths_and_not_to_guests() {
    isolate().unwrap();
    let (first, second) = (free(), free());
    let mut config = TestConfig::default().vm("a", 2, "");
    config.service = service(first);
    let bed = Bed::start_here(&config).unwrap();
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    Line::guest_opens(&mut guest, 4000).unwrap().exchange(&mut guest).unwrap();

    let answer = ask(wire::connect(first).unwrap(), "GET", "/metrics").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let opened = "vonic_vm_tcp_total{vm=\"a\",event=\"guest_opened\"}";
    assert_eq!(metric(&answer, opened), Some(1));
    assert_eq!(metric(&answer, "vonic_engine_deaths_total"), Some(0));
    let by_api = ask(UnixStream::connect(bed.socket("api")).unwrap(), "GET", "/v1/metrics").unwrap();
    assert_eq!(metric(&by_api, opened), Some(1));
    for (method, path) in [("GET", "/"), ("GET", "/v1/vms"), ("POST", "/v1/reload"), ("POST", "/metrics")] {
        let answer = ask(wire::connect(first).unwrap(), method, path).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 404 ") && answer.contains("use GET /metrics"),
            "{method} {path}: {answer}"
        );
    }

    // Guests reach the host's loopback, and not this.
    let denied = "vonic_vm_drops_total{vm=\"a\",direction=\"guest_to_host\",reason=\"denied\"}";
    let before = told(first, denied).unwrap_or(0);
    guest.send(HOST, &Conn::new(HOST, (5000, first.port())).syn(Tcp::SYN)).unwrap();
    wait_until("the SYN's end", seconds(5), || told(first, denied) == Some(before + 1)).unwrap();

    // Another place, taken at once; one that cannot be had is told, and tried again.
    let write = |at| TestConfig { service: service(at), ..config.clone() }.write(&bed.directory).unwrap();
    write(second);
    bed.vonicd.vonic_text(&["reload"]).unwrap();
    wait_until("the new place", seconds(5), || told(second, opened) == Some(1)).unwrap();
    wait_until("the old one's end", seconds(5), || wire::connect(first).is_err()).unwrap();
    let taken = TcpListener::bind(first).unwrap();
    write(first);
    bed.vonicd.vonic_text(&["reload"]).unwrap();
    let hints = || told_hints(&bed);
    assert!(hints().contains("metrics_listen"), "{}", hints());
    drop(taken);
    bed.vonicd.vonic_text(&["reload"]).unwrap();
    wait_until("the place that was taken", seconds(5), || told(first, opened) == Some(1)).unwrap();

    // The next engine tells them where the last reload said, and counts on.
    let engine = bed.vonicd.engine().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &engine]).status().unwrap().success());
    wait_until("the next engine", seconds(20), || told(first, "vonic_engine_deaths_total") == Some(1)).unwrap();
    assert_eq!(told(first, opened), Some(1));
    bed.vonicd.stop().unwrap();
}

fn told_hints(bed: &Bed) -> String {
    ask(UnixStream::connect(bed.socket("api")).unwrap(), "GET", "/v1/health").unwrap()
}
