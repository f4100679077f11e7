//! `vonic upgrade`: does another vonicd take over everything while guests talk, and is nothing lost where it cannot?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vonic_tests::*;

/// A copy of the program at a place of the test's own: the file that runs is never the one that takes over.
fn program(bed: &Bed) -> PathBuf {
    Vonicd::copy(&bed.directory).unwrap()
}

/// Why `vonic upgrade` refuses.
fn refused(bed: &Bed, program: &Path) -> String {
    let output = bed.vonicd.vonic_output(&["upgrade", &program.display().to_string()]).unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Programs that cannot take over, each with what is said of it.
fn bad_programs(bed: &Bed) -> Vec<(PathBuf, &'static str)> {
    let script = |name: &str, mode: u32, text: &str| {
        bed.directory.write(name, format!("#!/bin/sh\n{text}\n")).unwrap();
        let path = bed.directory.path().join(name);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let foreign = script("foreign", 0o755, "exit 0");
    std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
    vec![
        (bed.directory.path().join("nothing"), "No such file"),
        (bed.directory.path().join("etc"), "is no file"),
        (script("text", 0o644, "exit 0"), "is not executable"),
        (script("open", 0o777, "exit 0"), "can be written by others"),
        (foreign, "belongs to neither root nor vonicd's user"),
        (script("quits", 0o755, "exit 0"), "it ended (exit status: 0)"),
        (script("crashes", 0o755, "kill -SEGV $$"), "it ended (signal: 11"),
        (script("closes", 0o755, "exec sleep 60 </dev/null"), "it is no vonicd"),
        (script("answers", 0o755, "printf nonsense >&0; exec sleep 60"), "it is no vonicd"),
        (script("hangs", 0o755, "exec sleep 60"), "it did not answer in time"),
    ]
}

/// Under load, with streams both ways that vonic terminates: one upgrade after the other, and between them what cannot take over.
fn streams_outlive_upgrades(vmm: Vmm, bytes: u64) {
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7008\"\nport = 7\n";
    let mut bed = Bed::start(&TestConfig::default().vm("a", 2, forward)).unwrap();
    let mut guest = bed.guest("a", 2, vmm).unwrap();
    let server = bed.server().unwrap();
    let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let carrier = "cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier";
    let before = guest.must(carrier, seconds(10)).unwrap();
    let to_host = format!("192.0.2.1:{}", server.address().port());
    let out = guest.spawn(&format!("vonic-peer both {to_host} {bytes} 3 4")).unwrap();
    let (directory, count) = (bed.directory.path().to_path_buf(), bytes.to_string());
    let into =
        std::thread::spawn(move || peer(&["both", "127.0.0.1:7008", &count, "5", "4"], None, &directory, seconds(120)));
    let newer = program(&bed);
    for (program, why) in bad_programs(&bed) {
        let (master, engine) = (bed.vonicd.master(), bed.vonicd.engine().unwrap());
        let said = refused(&bed, &program);
        assert!(said.contains(why), "{}: {said}", program.display());
        assert_eq!((bed.vonicd.master(), bed.vonicd.engine().unwrap()), (master, engine), "{}", program.display());
    }
    for round in 0..4 {
        let start = Instant::now();
        bed.vonicd.upgrade(&newer).unwrap();
        println!("upgrade {round}: {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(150));
    }
    let done = out.wait(&mut guest, seconds(120)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    let into = into.join().unwrap().unwrap();
    assert_eq!(into["ok"], true, "{into}");
    assert_eq!(guest.must(carrier, seconds(10)).unwrap(), before);
    guest.must(&format!("vonic-peer both {to_host} 1000003 4"), seconds(60)).unwrap();
    println!("{}", bed.vonicd.log());
    let (master, run) = (bed.vonicd.master(), bed.directory.path().join("run"));
    assert_eq!(std::fs::read_link(format!("/proc/{master}/exe")).unwrap(), newer);
    bed.vonicd.stop().unwrap();
    assert_eq!(std::fs::read_dir(run).unwrap().count(), 0, "the last one removes sockets and pid file");
}

#[test]
fn streams_of_a_user_mode_linux_guest_outlive_upgrades() {
    streams_outlive_upgrades(Vmm::Uml, 60_000_007);
}
