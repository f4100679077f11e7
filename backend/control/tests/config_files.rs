//! Are all mistakes of all files reported at once, and does a bad file leave alone what it does not describe?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use vonic_control::config::{
    Change, Config, NetworkChange, Reloaded, diff, diff_networks, load_lenient, load_sources, reload,
};

#[path = "support/files.rs"]
mod files;
use files::Files;

/// A VM's file.
fn vm(n: u8, more: &str) -> String {
    format!("mac = '52:54:00:00:00:{n:02x}'\naddress4 = '192.0.2.{n}'\n{more}\n")
}

fn forward(listen: &str) -> String {
    format!("[[forward]]\nproto = 'tcp'\nlisten = '{listen}'\nport = 80\n")
}

fn names(config: &Config) -> Vec<&str> {
    config.vms.keys().map(String::as_str).collect()
}

#[test]
fn all_mistakes_of_all_files_come_at_once_in_order() {
    let files = Files::new(&[
        ("vonic.toml", "worker = 1\npoll_us = 'x'\n[network.default]\nuplink = 'none'\nisolated = 1\n"),
        ("a.toml", "mac = 'x'\nmtu = 1\nnetwork = 'nowhere'\n"),
        ("b.toml", "mac = \n"),
        ("c.toml", "mtu = 1500\n[[forward]]\nfoo = 1\n"),
        ("api.toml", "mac = '52:54:00:00:00:09'\n"),
    ]);
    std::fs::write(files.path().join("vms.d/d.toml"), b"mac = '52:54:00:00:00:02'\n# \xff\n").unwrap();
    let places: Vec<String> =
        files.load().unwrap_err().iter().map(|line| line.split(": ").next().unwrap().to_string()).collect();
    let expected = [
        "vms.d/a.toml:1",
        "vms.d/a.toml:2",
        "vms.d/a.toml:3",
        "vms.d/api.toml",
        "vms.d/b.toml:1",
        "vms.d/c.toml",   // no mac
        "vms.d/c.toml:2", // no listen, no port, no proto
        "vms.d/c.toml:2",
        "vms.d/c.toml:2",
        "vms.d/c.toml:3",
        "vms.d/d.toml:2",
        "vonic.toml:1",
        "vonic.toml:2",
        "vonic.toml:5",
    ];
    assert_eq!(places, expected);
}

#[test]
fn one_mistake_has_no_echo() {
    // An unreadable vonic.toml says nothing about the networks that VMs name, nor a bad subnet about addresses.
    let files = Files::new(&[("vonic.toml", "x"), ("a.toml", &vm(2, "network = 'lan'"))]);
    assert_eq!(files.load().unwrap_err().len(), 1);
    files.write("vonic.toml", "[network.lan]\nsubnet4 = '192.0.2.0/99'\ngateway4 = '192.0.2.1'\n");
    assert_eq!(files.load().unwrap_err().len(), 1);
    // Nor a bad address about forwards.
    let files = Files::new(&[("a.toml", &format!("mac='52:54:00:00:00:02'\naddress4='x'\n{}", forward("*:80")))]);
    assert_eq!(files.load().unwrap_err().len(), 1);
}

#[test]
fn what_two_vms_claim_names_both_places() {
    let listens = [
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("*:80-90", "127.0.0.1:90", true),
        ("0.0.0.0:80", "eth0:80", true),
        ("eth0:1-100", "eth0:50-60", true),
        // The kernel binds the one to every address and the other to every interface, and refuses the second.
        ("127.0.0.1:80", "eth0:80", true),
        ("eth0:70-80", "203.0.113.7:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("eth0:80", "eth1:80", false),
    ];
    for (first, second, clash) in listens {
        let files = Files::new(&[("a.toml", &vm(2, &forward(first))), ("b.toml", &vm(3, &forward(second)))]);
        match files.load() {
            Ok(_) => assert!(!clash, "{first} and {second}"),
            Err(mistakes) => {
                assert!(clash, "{first} and {second}");
                assert_eq!(mistakes.len(), 1);
                assert!(mistakes[0].starts_with("vms.d/b.toml:5: listen: "), "{mistakes:?}");
                assert!(mistakes[0].contains("of a (vms.d/a.toml:5): write another"), "{mistakes:?}");
            }
        }
    }
    let files = Files::new(&[("a.toml", &vm(2, "")), ("b.toml", &vm(2, ""))]);
    let expected = [
        "vms.d/b.toml:1: mac: 52:54:00:00:00:02 is also a's (vms.d/a.toml:1): write another one",
        "vms.d/b.toml:2: address4: 192.0.2.2 is also a's (vms.d/a.toml:2): write another one",
    ];
    assert_eq!(files.load().unwrap_err(), expected);
    let twice = format!("{}{}", vm(2, &forward("*:80")), forward("*:80"));
    let own = Files::new(&[("a.toml", &twice)]).load().unwrap_err();
    assert!(own[0].starts_with("vms.d/a.toml:10: ") && own[0].contains("vms.d/a.toml:5"), "{own:?}");
}

#[test]
fn names_and_paths() {
    let files = Files::new(&[("web1.toml~", "x"), (".#web1.toml", "x"), ("README", "x"), ("web1.toml", &vm(2, ""))]);
    assert_eq!(names(&files.load().unwrap()), ["web1"]);
    for name in ["a b.toml", "engine.toml", &format!("{}.toml", "x".repeat(64))] {
        let files = Files::new(&[(name, &vm(2, ""))]);
        let (config, errors, bad) = load_lenient(files.path());
        assert_eq!((errors.0.len(), bad.len()), (1, 1), "{name}: {errors}");
        assert!(config.unwrap().vms.is_empty());
    }
    let dir = format!("runtime_dir = '/{}'\n", "x".repeat(96));
    let files = Files::new(&[("vonic.toml", &dir), ("abc.toml", &vm(2, "")), ("abcde.toml", &vm(3, ""))]);
    let mistakes = files.load().unwrap_err();
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("vms.d/abcde.toml: "), "{mistakes:?}");
    assert!(mistakes[0].contains("has 108 bytes"), "{mistakes:?}");
    let missing = files.path().join("missing");
    let message = vonic_control::config::load(&missing).unwrap_err().to_string();
    assert!(message.contains("--config-dir"), "{message}");
    std::fs::create_dir(&missing).unwrap();
    assert!(vonic_control::config::load(&missing).unwrap().vms.is_empty());
    std::fs::write(missing.join("vms.d"), "").unwrap();
    let (config, errors, _) = load_lenient(&missing);
    assert!(config.is_none() && errors.to_string().contains("vms.d: this cannot be read"), "{errors}");
}

#[test]
fn the_good_part_of_a_bad_directory() {
    let files = Files::new(&[
        ("good.toml", &vm(2, "")),
        ("bad.toml", &vm(3, "mtu = 1")),
        ("one.toml", &vm(4, "")),
        ("two.toml", &vm(4, "")),
    ]);
    let (config, errors, bad) = load_lenient(files.path());
    assert_eq!(names(&config.unwrap()), ["good"]);
    assert_eq!(errors.0.len(), 3);
    assert_eq!(bad.iter().map(String::as_str).collect::<Vec<_>>(), ["bad", "one", "two"]);
    files.write("vonic.toml", "workers = 77\n");
    assert!(load_lenient(files.path()).0.is_none());
}

#[test]
fn differences() {
    let old = Files::new(&[("a.toml", &vm(2, "")), ("b.toml", &vm(3, "")), ("c.toml", &vm(4, ""))]).load().unwrap();
    assert_eq!(diff(&old, &old), []);
    let text =
        "[network.default]\nsubnet4='192.0.2.0/24'\ngateway4='192.0.2.1'\nisolated=true\n[network.x]\nuplink='none'\n";
    let files = Files::new(&[("a.toml", &vm(2, "")), ("c.toml", &vm(4, "mtu = 9000")), ("0.toml", &vm(5, ""))]);
    files.write("vonic.toml", text);
    let new = files.load().unwrap();
    let boxed = |name: &str| Box::new(new.vms[name].clone());
    let expected = [Change::Removed("b".into()), Change::Changed(boxed("c")), Change::Added(boxed("0"))];
    assert_eq!(diff(&old, &new), expected);
    let network = |name: &str| new.networks[name].clone();
    let expected = [NetworkChange::Changed(network("default")), NetworkChange::Added(network("x"))];
    assert_eq!(diff_networks(&old, &new), expected);
    assert_eq!(diff_networks(&new, &old)[0], NetworkChange::Removed("x".into()));
}

#[test]
fn a_reload_leaves_what_bad_files_describe_as_it_runs() {
    let files = Files::new(&[("a.toml", &vm(2, "")), ("b.toml", &vm(3, "")), ("c.toml", &vm(4, ""))]);
    let running = files.load().unwrap();
    assert_eq!(reload(files.path(), &running), Reloaded { config: running.clone(), errors: Default::default() });
    // a is bad and stays; b changes; c goes; d and e come, but e is bad.
    files.write("a.toml", "mac = \n");
    files.write("b.toml", &vm(3, "mtu = 9000"));
    std::fs::remove_file(files.path().join("vms.d/c.toml")).unwrap();
    files.write("d.toml", &vm(5, ""));
    files.write("e.toml", &vm(6, "mtu = 1"));
    let Reloaded { config, errors } = reload(files.path(), &running);
    assert_eq!(errors.0.len(), 2, "{errors}");
    assert_eq!(names(&config), ["a", "b", "d"]);
    assert_eq!((&config.vms["a"], config.vms["b"].mtu), (&running.vms["a"], 9000));
    // The texts that are kept say what runs, whatever lies in the directory.
    assert_eq!(load_sources(files.path(), &config.sources).unwrap(), config);
    // With a bad vonic.toml nothing changes at all.
    files.write("vonic.toml", "workers = 77\n");
    assert_eq!(reload(files.path(), &running).config, running);
}

#[test]
fn a_reload_gives_nobody_what_a_kept_vm_still_has() {
    let files = Files::new(&[("a.toml", &vm(2, "")), ("b.toml", &vm(3, "")), ("c.toml", &vm(4, ""))]);
    let running = files.load().unwrap();
    // a becomes bad, b takes what a still has, c takes what b therefore keeps; d is new and free of it all.
    files.write("a.toml", "mac = \n");
    files.write("b.toml", &vm(2, ""));
    files.write("c.toml", &vm(3, ""));
    files.write("d.toml", &vm(4, ""));
    files.write("f.toml", &vm(7, ""));
    let Reloaded { config, errors } = reload(files.path(), &running);
    assert_eq!(names(&config), ["a", "b", "c", "f"]);
    for name in ["a", "b", "c"] {
        assert_eq!(config.vms[name], running.vms[name]);
    }
    assert_eq!(load_sources(files.path(), &config.sources).unwrap(), config);
    let lines = files.lines(&errors);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[1].starts_with("vms.d/b.toml: mac 52:54:00:00:00:02 is still that of 'a'"), "{lines:#?}");
}

#[test]
fn a_network_does_not_change_under_a_kept_vm() {
    let files = Files::new(&[("a.toml", &vm(2, ""))]);
    let running = files.load().unwrap();
    files.write("a.toml", "mac = \n");
    files.write("vonic.toml", "[network.lan]\nuplink = 'none'\n");
    let Reloaded { config, errors } = reload(files.path(), &running);
    assert_eq!(config, running);
    assert!(errors.to_string().contains("network 'default' changes while 'a' runs in it"), "{errors}");
}
