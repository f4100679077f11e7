//! Is what concerns the engine's end read as it is written: `failover`, `heartbeat_ms`, `quarantine`, `seccomp`, `landlock`, `user`?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::time::Duration;
use vonic_control::config::{Seccomp, is_hook, load_for_host};

#[path = "support/files.rs"]
mod files;
use files::Files;

#[test]
fn a_forwards_failover_is_its_vms_unless_it_has_its_own() {
    let forward =
        |port: u16, more: &str| format!("[[forward]]\nproto='tcp'\nlisten='127.0.0.1:{port}'\nport=80\n{more}\n");
    let file = |vm: &str, number: u8| {
        let forwards = [("", 0), ("failover = true", 1), ("failover = false", 2)];
        let forwards = forwards.map(|(more, n)| forward(8000 + 10 * u16::from(number) + n, more)).concat();
        format!("mac = '52:54:00:00:00:0{number}'\naddress4 = '192.0.2.{number}'\n{vm}\n{forwards}")
    };
    let (mortal, other) = (file("failover = false", 2), file("", 3));
    let files = Files::new(&[
        ("vonic.toml", "heartbeat_ms = 500\nquarantine = false"),
        ("a.toml", &mortal),
        ("b.toml", &other),
    ]);
    let config = files.load().unwrap();
    let failover = |name: &str| {
        let vm = &config.vms[name];
        (vm.failover, vm.forwards.iter().map(|forward| forward.failover).collect::<Vec<_>>())
    };
    assert_eq!(failover("a"), (false, vec![false, true, false]));
    assert_eq!(failover("b"), (true, vec![true, true, false]));
    assert_eq!(config.vms["a"].forwards[2].to_string(), "tcp 127.0.0.1:8022 -> 80 (without failover)");
    assert_eq!((config.service.heartbeat, config.service.quarantine), (Some(Duration::from_millis(500)), false));
}

#[test]
fn a_heartbeat_is_neither_hasty_nor_endless() {
    let heartbeat = |text: &str| Files::new(&[("vonic.toml", text)]).load().map(|config| config.service.heartbeat);
    assert_eq!(heartbeat("").unwrap(), Some(Duration::from_secs(2)));
    assert_eq!(heartbeat("heartbeat_ms = 0").unwrap(), None);
    for wrong in ["499", "600001", "-1"] {
        let errors = heartbeat(&format!("heartbeat_ms = {wrong}")).unwrap_err().join("\n");
        assert!(errors.contains("from 500 to 600000, or 0 for no heartbeat"), "{errors}");
    }
}

#[test]
fn hooks_are_whole_paths_and_end_in_time() {
    let hooks = |text: &str| Files::new(&[("vonic.toml", text)]).load().map(|config| config.service.migration);
    let read = hooks("[migration]\ndepart = ['/bin/leave', 'eth0']\nlimit_ms = 100").unwrap();
    assert_eq!((read.depart, read.arrive), (vec!["/bin/leave".to_string(), "eth0".to_string()], Vec::new()));
    assert_eq!(read.limit, Duration::from_millis(100));
    for (text, why) in [
        ("depart = ['leave']", "'leave' is not absolute: write the program's whole path"),
        ("arrive = 7", "arrive"),
        ("limit_ms = 4001", "4001 is out of range: write a number from 1 to 4000"),
    ] {
        let refused = hooks(&format!("[migration]\n{text}")).unwrap_err().join("\n");
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn the_engine_is_confined_unless_the_file_says_otherwise() {
    let confined = |text: &str| {
        Files::new(&[("vonic.toml", text)]).load().map(|config| (config.service.seccomp, config.service.landlock))
    };
    assert_eq!(confined("").unwrap(), (Seccomp::Refuse, true));
    assert_eq!(confined("seccomp = 'kill'\nlandlock = false").unwrap(), (Seccomp::Kill, false));
    assert_eq!(confined("seccomp = 'off'").unwrap(), (Seccomp::Off, true));
    let wrong = confined("seccomp = 'log'").unwrap_err().join("\n");
    assert!(wrong.contains("'log' is not known here: write \"refuse\", \"kill\" or \"off\""), "{wrong}");
}

#[test]
fn a_hook_is_what_the_file_names_now_word_by_word() {
    let files = Files::new(&[("vonic.toml", "workers = 'bad'\n[migration]\narrive = ['/bin/come', 'eth0']")]);
    let asked = |words: &[&str]| is_hook(files.path(), &words.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(asked(&["/bin/come", "eth0"]));
    for other in [&["/bin/come"][..], &["/bin/come", "eth0", "eth1"], &["/bin/sh", "eth0"]] {
        assert!(!asked(other), "{other:?}");
    }
}

/// An engine has to go on with what ran, whoever is gone from the host since.
#[test]
fn a_user_has_to_be_there_when_vonicd_starts_and_not_later() {
    let files = Files::new(&[("vonic.toml", "\nuser = 'no-such-user'\nworkers = 0\n")]);
    let said = files.lines(&load_for_host(files.path()).unwrap_err());
    assert!(said.len() == 2 && said[0].starts_with("vonic.toml:2: user: there is no user 'no-such-user'"), "{said:?}");
    files.write("vonic.toml", "user = 'no-such-user'");
    assert_eq!(files.load().unwrap().service.user.as_deref(), Some("no-such-user"));
    files.write("vonic.toml", "user = 'nobody'");
    assert_eq!(load_for_host(files.path()).unwrap().service.user.as_deref(), Some("nobody"));
}
