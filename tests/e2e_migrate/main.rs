//! A guest moves from host to host with its terminated connections: do they go on, and is every byte of them there, once?
#![allow(clippy::unwrap_used, reason = "test code")]

mod hosts;
mod state;

use hosts::{FORWARD, Hosts, SERVICE, WORLD};
use vonic_tests::*;

#[test]
fn checked_streams_go_with_their_guest_back_and_forth() {
    let mut hosts = Hosts::new(FORWARD).unwrap();
    let (mut guest, mut name) = hosts.guest(0, false).unwrap();
    let server = PeerServer::start("world", hosts.here().directory.path(), "[::]:7", None).unwrap();
    guest.wait_ready().unwrap();
    let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let out = guest.spawn(&format!("vonic-peer both {WORLD}:7 3000017 3 8")).unwrap();
    let directory = hosts.here().directory.path().to_path_buf();
    let service = format!("{SERVICE}:7007");
    let into =
        std::thread::spawn(move || peer(&["both", &service, "3000017", "5", "8"], None, &directory, seconds(120)));
    std::thread::sleep(seconds(1));
    for _ in 0..if std::env::var_os("VONIC_LONG").is_some() { 100 } else { 3 } {
        let crossed = hosts.cross(guest, &name);
        println!("HERE {}\nTHERE {}", hosts.beds[0].vonicd.log(), hosts.beds[1].vonicd.log());
        (guest, name, _) = crossed.unwrap();
    }
    let done = out.wait(&mut guest, seconds(120)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let into = into.join().unwrap().unwrap();
    assert_eq!(into["ok"], true, "{into}");
    drop(server);
}
