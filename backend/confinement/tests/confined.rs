//! What does a confined process get, and what not? Each is this program again, which confines itself.
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Output};
use vonic_confinement::{
    Bounds, Capabilities, Confined, Files, Unlisted, User, become_user, confine_engine, has_landlock,
    keep_capabilities, may_change_user, refuse_dangerous,
};

const ROLE: &str = "VONIC_CONFINED_TEST";

/// Has the test of this name play the role.
fn play(test: &str, role: &str) -> Output {
    let own = std::env::current_exe().unwrap();
    Command::new(own).args(["--exact", test, "--nocapture"]).env(ROLE, role).output().unwrap()
}

fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

fn confine(unlisted: Unlisted, files: Option<Files>) -> Confined {
    confine_engine(&Bounds { unlisted, files, ..Bounds::default() }).unwrap()
}

fn run_something() -> io::Result<Output> {
    Command::new("/bin/true").output()
}

#[test]
fn an_engine_works_and_runs_nothing() {
    if role().is_some() {
        let waits = std::thread::spawn(|| std::thread::park_timeout(std::time::Duration::from_secs(1)));
        assert!(confine(Unlisted::Refuse, None).calls);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The list holds for threads from before, and those after.
        let thread = std::thread::spawn(move || TcpStream::connect(address).unwrap());
        let (_stream, _) = listener.accept().unwrap();
        thread.join().unwrap();
        waits.join().unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!fs::read_to_string("/proc/self/status").unwrap().is_empty());
        assert_eq!(run_something().unwrap_err().raw_os_error(), Some(libc::EPERM));
        for _ in 0..2 {
            assert_eq!(Command::new("/bin/true").exec().raw_os_error(), Some(libc::EPERM));
        }
        return;
    }
    let output = play("an_engine_works_and_runs_nothing", "engine");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(log.matches("is not on its list: refused").count(), 1, "{log}");
}

#[test]
fn a_call_that_is_not_listed_ends_an_engine_if_it_is_to() {
    if role().is_some() {
        confine(Unlisted::Kill, None);
        let _ = Command::new("/bin/true").exec();
        return;
    }
    let output = play("a_call_that_is_not_listed_ends_an_engine_if_it_is_to", "engine");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not on its list: it ends"), "{output:?}");
}

#[test]
fn files_that_are_not_named_are_not_there() {
    let folder = std::env::temp_dir().join(format!("vonic-confined-{}", std::process::id()));
    if let Some(folder) = role().map(PathBuf::from) {
        let (read, write) = (vec![folder.join("read"), "/no/such/place".into()], vec![folder.join("write")]);
        let confined = confine(Unlisted::Allow, Some(Files { read, write }));
        assert_eq!(confined, Confined { calls: false, files: has_landlock() });
        assert!(File::open(folder.join("read/file")).is_ok());
        fs::write(folder.join("write/new"), "more").unwrap();
        fs::rename(folder.join("write/new"), folder.join("write/newer")).unwrap();
        fs::remove_file(folder.join("write/newer")).unwrap();
        let refused = |result: io::Result<()>| result.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
        if has_landlock() {
            assert!(refused(File::open(folder.join("file")).map(drop)));
            assert!(refused(fs::write(folder.join("read/file"), "changed")));
            assert!(refused(run_something().map(drop)));
        }
        return;
    }
    for part in ["read", "write"] {
        fs::create_dir_all(folder.join(part)).unwrap();
    }
    fs::write(folder.join("file"), "of others").unwrap();
    fs::write(folder.join("read/file"), "own").unwrap();
    let output = play("files_that_are_not_named_are_not_there", &folder.display().to_string());
    fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_nobody_needs_is_refused_to_programs_too_and_lists_do_not_add_up() {
    if let Some(role) = role() {
        let lists = || {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
            line.map_or(0, |count| count.trim().parse::<u32>().unwrap())
        };
        let before = lists();
        assert!(refuse_dangerous(role == "successor").unwrap());
        match role.as_str() {
            "successor" => assert_eq!(lists(), before),
            _ => {
                assert_eq!(lists(), before + 1);
                let test = "what_nobody_needs_is_refused_to_programs_too_and_lists_do_not_add_up";
                let output = play(test, "successor");
                assert!(output.status.success(), "{output:?}");
            }
        }
        return;
    }
    let output = play("what_nobody_needs_is_refused_to_programs_too_and_lists_do_not_add_up", "first");
    assert!(output.status.success(), "{output:?}");
}

/// The sets of a thread, by their names in its status.
fn sets(status: &str) -> Vec<(String, u64)> {
    let of = |line: &str| {
        let (name, bits) = line.strip_prefix("Cap")?.split_once(":\t")?;
        Some((name.to_string(), u64::from_str_radix(bits, 16).unwrap()))
    };
    status.lines().filter_map(of).collect()
}

/// Who is root has none left but those that it keeps, and gets none back by running a program; who is not has none before.
#[test]
fn what_is_given_up_is_in_no_set() {
    let kept = Capabilities::NET_ADMIN | Capabilities::NET_RAW;
    let own = || fs::read_to_string("/proc/thread-self/status").unwrap();
    if role().is_some() {
        let before = sets(&own());
        keep_capabilities(kept).unwrap();
        let after = sets(&own());
        assert_eq!(after.len(), 5);
        let mask = 1 << 12 | 1 << 13;
        for ((name, before), (_, after)) in before.iter().zip(&after) {
            // The bounding set of whoever is not root stays as it was.
            let may_change = name != "Bnd" || before & 1 << 8 == 0 || after & !mask == 0;
            assert!(may_change && after & !before == 0, "{name}: {before:x} {after:x}");
            assert!(name == "Bnd" || after & !mask == 0, "{name}: {after:x}");
        }
        assert!(keep_capabilities(kept).unwrap().is_empty(), "nothing more is there to be given up");
        let next = Command::new("/bin/cat").arg("/proc/self/status").output().unwrap();
        let effective = sets(&String::from_utf8(next.stdout).unwrap()).into_iter().find(|(name, _)| name == "Eff");
        assert_eq!(effective.unwrap().1 & !mask, 0);
        return;
    }
    let output = play("what_is_given_up_is_in_no_set", "process");
    assert!(output.status.success(), "{output:?}");
}

/// Who may become another user is that one with everything that it starts, and there is no way back; a newer vonicd has what this one has kept.
#[test]
fn another_user_is_it_for_good() {
    let nobody = User::find("nobody").unwrap().unwrap();
    if role().is_some() {
        if !may_change_user().unwrap() {
            return;
        }
        let status = || fs::read_to_string("/proc/thread-self/status").unwrap();
        become_user(&nobody, Capabilities::NET_RAW).unwrap();
        assert!(nobody.is_current().unwrap() && !may_change_user().unwrap());
        let passed = Command::new("/bin/cat").arg("/proc/self/status").output().unwrap();
        let held = sets(&status()).first().unwrap().1;
        for status in [status(), String::from_utf8(passed.stdout).unwrap()] {
            assert!(sets(&status).iter().all(|(_, set)| *set == held), "{status}");
            assert!(held & !(1 << 13) == 0, "{status}");
            for (line, rest) in [("Uid:", "65534"), ("Gid:", "65534"), ("Groups:", "65534")] {
                let ids = status.lines().find_map(|all| all.strip_prefix(line)).unwrap();
                assert!(ids.split_ascii_whitespace().all(|id| id == rest), "{status}");
            }
        }
        // Its own files in /proc are its own.
        assert!(fs::read_dir("/proc/self/fd").unwrap().count() > 0);
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 65_534);
        assert!(become_user(&User::find("root").unwrap().unwrap(), Capabilities::NET_RAW).is_err());
        return;
    }
    let output = play("another_user_is_it_for_good", "process");
    assert!(output.status.success(), "{output:?}");
    assert!(User::find("no-such-user-here").unwrap().is_none() && User::find("a\0b").unwrap().is_none());
    assert!(User::find("root").unwrap().unwrap().is_root() && !nobody.is_root());
}
