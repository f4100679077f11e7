//! What can an intruder in the engine still do? It tries from inside; the engine of a variant for tests does that for it. And what do master and
//! engine of each kind of uplink hold?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use vonic_tests::line::Line;
use vonic_tests::mock::feature;
use vonic_tests::wire::HandGuest;
use vonic_tests::*;

/// Calls that nobody but an intruder asks for fail so.
const REFUSALS: [i32; 2] = [libc::EPERM, libc::EACCES];

/// A value of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_string()
}

/// A set of a process's capabilities, by the names of those that anybody keeps.
fn capabilities(pid: u32, set: &str) -> Vec<&'static str> {
    const NAMES: [(u32, &str); 4] = [(1, "dac_override"), (10, "net_bind_service"), (12, "net_admin"), (13, "net_raw")];
    let bits = u64::from_str_radix(&status(pid, set), 16).unwrap();
    let known = NAMES.map(|(number, _)| 1 << number).iter().sum::<u64>();
    let more = (bits & !known != 0).then_some("more");
    NAMES.into_iter().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, name)| name).chain(more).collect()
}

fn start(service: &str) -> Bed {
    let config = TestConfig { crash_points: true, service: service.into(), ..TestConfig::default() };
    let mut bed = Bed::start(&config.vm("a", 2, "")).unwrap();
    bed.vonicd.expect_refusals();
    bed
}

/// Has the engine attempt this, line by line; error numbers by what was attempted.
fn intrude(bed: &Bed, order: &str) -> BTreeMap<String, i32> {
    let folder = bed.directory.path().join("crash");
    fs::write(folder.join("intrude.new"), order).unwrap();
    fs::rename(folder.join("intrude.new"), folder.join("intrude")).unwrap();
    let report =
        wait_for("the intruder's report", seconds(10), || Ok(fs::read_to_string(folder.join("intruded")).ok()));
    fs::remove_file(folder.join("intruded")).unwrap();
    let pair = |line: &str| line.rsplit_once(": ").map(|(what, error)| (what.to_string(), error.parse().unwrap()));
    report.unwrap().lines().map(|line| pair(line).unwrap()).collect()
}

/// What was attempted, and did not fail as a thing that is refused.
fn let_through(attempts: &BTreeMap<String, i32>) -> Vec<&str> {
    attempts.iter().filter(|(_, error)| !REFUSALS.contains(error)).map(|(what, _)| what.as_str()).collect()
}

#[test]
fn an_intruder_in_the_engine_gets_nowhere_and_guests_go_on() {
    let bed = start("");
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut line = Line::guest_opens(&mut guest, 4000).unwrap();
    line.exchange(&mut guest).unwrap();
    let engine = bed.vonicd.engine().unwrap();
    let attempts = intrude(&bed, "calls\n");
    assert!(attempts.len() > 30, "{attempts:?}");
    assert_eq!(let_through(&attempts), ["getpid"], "{attempts:?}");
    line.exchange(&mut guest).unwrap();
    assert_eq!(bed.vonicd.engine().unwrap(), engine, "{}", bed.vonicd.log());
    // Each is told by its name, once.
    intrude(&bed, "calls\n");
    for name in ["59 (execve)", "101 (ptrace)", "321 (bpf)", "165 (mount)", "41 (socket)", "62 (kill)"] {
        let told = format!("system call {name} in a way that is not on its list: refused");
        assert_eq!(bed.vonicd.log().matches(&told).count(), 1, "{told}: {}", bed.vonicd.log());
    }
    bed.vonicd.stop().unwrap();
}

#[test]
fn an_intruder_sees_vonics_files_only_and_without_landlock_all() {
    let bed = start("");
    let landlock = vonic_confinement::has_landlock();
    let outside = TempDir::new().unwrap();
    outside.write("secret", "of others").unwrap();
    let etc = bed.vonicd.config_dir();
    let secret = outside.path().join("secret");
    let paths = |what: &str, paths: &[&Path]| -> String {
        paths.iter().map(|path| format!("{what} {}\n", path.display())).collect()
    };
    let theirs = paths("read", &[&secret, Path::new("/root"), Path::new("/var/lib")])
        + &paths("write", &[&secret, &etc.join("vonic.toml"), &etc.join("new"), Path::new("/etc/vonic-intruder")]);
    let own = paths("read", &[&etc.join("vonic.toml"), Path::new("/proc/self/status"), Path::new("/etc/passwd")])
        + &paths("write", &[&etc.join("vms.d/.new"), &bed.directory.path().join("run/new"), Path::new("/dev/null")]);
    let (theirs, own) = (intrude(&bed, &theirs), intrude(&bed, &own));
    assert!(own.values().all(|error| *error == 0), "{own:?}");
    match landlock {
        true => assert!(let_through(&theirs).is_empty(), "{theirs:?}"),
        false => assert!(bed.vonicd.log().contains("the kernel has no Landlock"), "{}", bed.vonicd.log()),
    }
    // It is the lists that do it: without them root may do what its capabilities are for. A reload has another engine go on.
    let engine = bed.vonicd.engine().unwrap();
    let file = etc.join("vonic.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("seccomp = \"off\"\nlandlock = false\n{text}")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
    let read = intrude(&bed, &paths("read", &[&secret, Path::new("/root")]));
    assert!(read.values().all(|error| *error == 0), "{read:?}");
    let attempts = intrude(&bed, "calls\n");
    for call in ["executable memory", "kill the master", "setuid"] {
        assert_eq!(attempts[call], 0, "{call}: {attempts:?}");
    }
    // But for what takes a capability that it has given up.
    for call in ["packet socket", "raw socket"] {
        assert_eq!(attempts[call], 1, "{call}: {attempts:?}");
    }
    assert_eq!(status(bed.vonicd.engine().unwrap(), "NoNewPrivs"), "1");
    bed.vonicd.stop().unwrap();
}

#[test]
fn where_the_operator_wants_it_an_intruder_ends_the_engine_and_guests_go_on() {
    let bed = start("seccomp = \"kill\"\n");
    let mut guest = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut line = Line::guest_opens(&mut guest, 4000).unwrap();
    line.exchange(&mut guest).unwrap();
    let engine = bed.vonicd.engine().unwrap();
    let folder = bed.directory.path().join("crash");
    fs::write(folder.join("intrude"), "calls\n").unwrap();
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
    line.exchange(&mut guest).unwrap();
    let log = bed.vonicd.log();
    assert!(log.contains("in a way that is not on its list: it ends"), "{log}");
    assert!(!folder.join("intruded").exists());
    bed.vonicd.stop().unwrap();
}

#[test]
fn every_process_holds_no_more_than_it_says_whatever_the_uplink() {
    isolate().unwrap();
    for uplink in ["sockets", "none", "packet:lo", "tap:br0"] {
        let addresses = "subnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\n";
        let addresses = if uplink == "sockets" { addresses } else { "" };
        let network = format!("{addresses}uplink = \"{uplink}\"\n");
        let mac = [("a".to_string(), "mac = \"52:54:00:00:00:02\"\n".to_string())];
        let config = TestConfig { network, vms: mac.into(), ..TestConfig::default() };
        let bed = Bed::start_here(&config).unwrap();
        let (master, engine) = (bed.vonicd.master(), bed.vonicd.engine().unwrap());
        for pid in [master, engine] {
            assert_eq!(
                (status(pid, "NoNewPrivs"), status(pid, "Seccomp")),
                ("1".into(), "2".into()),
                "{uplink}: {pid}"
            );
        }
        // Started as root, and of root's power there is left what a network card has a use for; with a packet socket the engine may open such.
        let sets = |pid| ["CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"].map(|set| capabilities(pid, set));
        let all = vec!["dac_override", "net_bind_service", "net_admin", "net_raw"];
        let raw = uplink.starts_with("packet");
        let few: Vec<_> =
            all.iter().copied().filter(|name| !name.starts_with("dac") && (raw || *name != "net_raw")).collect();
        assert_eq!(sets(master), [all.clone(), all.clone(), all.clone(), vec![], vec![]], "{uplink}");
        // It has none by which it could give up more of what programs get that it cannot run.
        assert_eq!(sets(engine), [few.clone(), few, all, vec![], vec![]], "{uplink}");
        let lists = |pid| status(pid, "Seccomp_filters").parse::<u32>().unwrap();
        assert_eq!(lists(engine), lists(master) + 3, "{uplink}");
        bed.vonicd.stop().unwrap();
    }
}

/// Hooks are programs of which nobody knows what they need: with them vonicd keeps what it was started with, its engine does not. What is given up does not
/// come back by an upgrade. Where folders are another user's, root needs its power over files.
#[test]
fn capabilities_over_reloads_hooks_upgrades_and_folders_of_others() {
    isolate().unwrap();
    let hooks = "[migration]\narrive = [\"/bin/true\"]\n";
    let mac = [("a".to_string(), "mac = \"52:54:00:00:00:02\"\n".to_string())];
    let config = |service: &str| TestConfig {
        service: service.into(),
        network: "uplink = \"none\"\n".into(),
        vms: mac.clone().into(),
        ..TestConfig::default()
    };
    let bed = Bed::start_here(&config("")).unwrap();
    let file = bed.vonicd.config_dir().join("vonic.toml");
    let text = fs::read_to_string(&file).unwrap();
    let before = capabilities(bed.vonicd.master(), "CapPrm");
    let next = |bed: &Bed, change: &dyn Fn()| {
        let engine = bed.vonicd.engine().unwrap();
        change();
        wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
        wait_until("the API", seconds(10), || bed.vonicd.stats().is_ok()).unwrap();
    };
    let few = vec!["net_bind_service", "net_admin"];
    assert_eq!(capabilities(bed.vonicd.engine().unwrap(), "CapEff"), few);
    // The first packet socket comes by a reload: with an engine that may.
    next(&bed, &|| {
        fs::write(&file, text.replace("uplink = \"none\"", "uplink = \"packet:lo\"")).unwrap();
        bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    });
    assert_eq!(capabilities(bed.vonicd.engine().unwrap(), "CapEff"), ["net_bind_service", "net_admin", "net_raw"]);
    assert!(!bed.vonicd.log().contains("may open no packet socket"), "{}", bed.vonicd.log());
    // Hooks that come by a reload get nothing back, and the log says so.
    fs::write(&file, format!("{text}\n{hooks}")).unwrap();
    next(&bed, &|| drop(bed.vonicd.vonic(&["reload", "--json"]).unwrap()));
    assert!(bed.vonicd.log().contains("restart it if they need other capabilities"), "{}", bed.vonicd.log());
    let program = Vonicd::copy(&bed.directory).unwrap();
    let mut bed = bed;
    bed.vonicd.upgrade(&program).unwrap();
    assert_eq!(capabilities(bed.vonicd.master(), "CapPrm"), before);
    bed.vonicd.stop().unwrap();
    // Those that are there at the start have everything.
    let bed = Bed::start_here(&config(hooks)).unwrap();
    assert!(capabilities(bed.vonicd.master(), "CapPrm").contains(&"more"));
    assert_eq!(capabilities(bed.vonicd.engine().unwrap(), "CapEff"), few);
    // Folders of somebody else's.
    next(&bed, &|| {
        std::os::unix::fs::chown(bed.vonicd.config_dir().join("vms.d"), Some(65_532), Some(65_532)).unwrap();
        bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    });
    let added = bed.directory.write("new/b.toml", "mac = \"52:54:00:00:00:03\"\n").unwrap();
    bed.vonicd.vonic_text(&["vm", "add", &added.display().to_string()]).unwrap();
    assert!(capabilities(bed.vonicd.engine().unwrap(), "CapEff").contains(&"dac_override"));
    bed.vonicd.stop().unwrap();
}
