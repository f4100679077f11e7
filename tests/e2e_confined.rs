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
    // It is the lists that do it: without them root may do anything. A reload has another engine go on.
    let engine = bed.vonicd.engine().unwrap();
    let file = etc.join("vonic.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("seccomp = \"off\"\nlandlock = false\n{text}")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
    let read = intrude(&bed, &paths("read", &[&secret, Path::new("/root")]));
    assert!(read.values().all(|error| *error == 0), "{read:?}");
    let attempts = intrude(&bed, "calls\n");
    for call in ["packet socket", "raw socket", "executable memory", "kill the master", "setuid"] {
        assert_eq!(attempts[call], 0, "{call}: {attempts:?}");
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
        let lists = |pid| status(pid, "Seccomp_filters").parse::<u32>().unwrap();
        assert_eq!(lists(engine), lists(master) + 3, "{uplink}");
        bed.vonicd.stop().unwrap();
    }
}
