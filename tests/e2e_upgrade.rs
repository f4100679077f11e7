//! `vonic upgrade`: does another vonicd take over everything while guests talk, and is nothing lost where it cannot?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vonic_tests::*;

/// A guest with streams both ways that vonic terminates, opened by either side, under which vonicds come and go.
struct Load {
    bed: Bed,
    guest: Guest,
    server: PeerServer,
    out: Job,
    into: std::thread::JoinHandle<Result<serde_json::Value>>,
    before: String,
}

/// How often the guest's link went away or came, and whether it is there.
const CARRIER: &str = "cat /sys/class/net/eth0/carrier_changes /sys/class/net/eth0/carrier";

impl Load {
    fn start(vmm: Vmm, bytes: u64) -> Load {
        let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7008\"\nport = 7\n";
        let bed = Bed::start(&TestConfig::default().vm("a", 2, forward)).unwrap();
        let mut guest = bed.guest("a", 2, vmm).unwrap();
        let server = bed.server().unwrap();
        let served = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
        served.wait_output(&mut guest, "listening", seconds(10)).unwrap();
        let before = guest.must(CARRIER, seconds(10)).unwrap();
        let out = guest.spawn(&format!("vonic-peer both 192.0.2.1:{} {bytes} 3 4", server.address().port())).unwrap();
        let (directory, count) = (bed.directory.path().to_path_buf(), bytes.to_string());
        let command = move || peer(&["both", "127.0.0.1:7008", &count, "5", "4"], None, &directory, seconds(120));
        let into = std::thread::spawn(command);
        let load = Load { bed, guest, server, out, into, before };
        wait_until("all streams", seconds(20), || load.streams() == 8).unwrap();
        load
    }

    /// Connections that are open.
    fn streams(&self) -> usize {
        self.bed.vonicd.vonic(&["conns", "--json"]).unwrap().as_array().unwrap().len()
    }

    /// Another vonicd takes over, in the middle of everything.
    fn upgrade(&mut self, program: &Path) {
        let start = Instant::now();
        self.bed.vonicd.upgrade(program).unwrap();
        println!("taken over after {:?}", start.elapsed());
        let master = self.bed.vonicd.master();
        assert_eq!(std::fs::read_link(format!("/proc/{master}/exe")).unwrap(), program.canonicalize().unwrap());
        assert_eq!(self.streams(), 8, "the streams are still running");
    }

    /// This one cannot take over: that is said, and master and engine go on. A vonicd that says no is told from one that is none by `why`.
    fn refuses(&mut self, program: &Path, why: &str) {
        let processes = |bed: &Bed| (bed.vonicd.master(), bed.vonicd.engine().unwrap());
        let before = processes(&self.bed);
        let output = self.bed.vonicd.vonic_output(&["upgrade", &program.display().to_string()]).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains(why), "{}: {said}", program.display());
        assert_eq!(processes(&self.bed), before, "{}", program.display());
    }

    /// Every byte has come, every connection has ended in order, the guest's link was always there, and the last vonicd cleans up.
    fn end(mut self) {
        let done = self.out.wait(&mut self.guest, seconds(120)).unwrap();
        assert_eq!(done.status, 0, "{}", done.stdout);
        let into = self.into.join().unwrap().unwrap();
        assert_eq!(into["ok"], true, "{into}");
        assert_eq!(self.guest.must(CARRIER, seconds(10)).unwrap(), self.before);
        let more = format!("vonic-peer both 192.0.2.1:{} 1000003 4", self.server.address().port());
        self.guest.must(&more, seconds(60)).unwrap();
        assert_eq!(self.bed.vonicd.log().matches("a VMM connected").count(), 1, "the VMM has noticed nothing");
        let run = self.bed.directory.path().join("run");
        self.bed.vonicd.stop().unwrap();
        assert_eq!(std::fs::read_dir(run).unwrap().count(), 0, "the last one removes sockets and pid file");
    }
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
        (script("lies", 0o755, "printf '{\"Ready\":\"9\"}' >&0; sleep 0.2"), "it ended (exit status: 0)"),
    ]
}

/// One upgrade after the other under load, to the same format and the next; between them, what cannot take over.
#[test]
fn streams_of_a_user_mode_linux_guest_outlive_upgrades() {
    let mut load = Load::start(Vmm::Uml, 150_000_007);
    let same = Vonicd::copy(&load.bed.directory).unwrap();
    let next = Vonicd::of_next_format().unwrap();
    load.upgrade(&same);
    for (program, why) in bad_programs(&load.bed) {
        match why {
            // It has been given everything when it fails: the engine has ended for it.
            "it ended (exit status: 0)" if program.ends_with("lies") => {
                let output = load.bed.vonicd.vonic_output(&["upgrade", &program.display().to_string()]).unwrap();
                assert!(String::from_utf8(output.stderr).unwrap().contains(why));
            }
            _ => load.refuses(&program, why),
        }
    }
    load.upgrade(&same);
    load.upgrade(&next);
    load.refuses(&same, "this hand-over is of a newer vonic (format 2; this one knows 1 to 1)");
    load.upgrade(&next);
    load.end();
}

/// One that says nothing is waited for, while the engine serves; and nothing of it is left.
#[test]
fn a_program_that_hangs_is_given_up() {
    let bed = Bed::start(&TestConfig::default().vm("a", 2, "")).unwrap();
    let mut mock = bed.mock("a", mock::MockConfig::default()).unwrap();
    bed.directory.write("hangs", "#!/bin/sh\nexec sleep 61\n").unwrap();
    let program = bed.directory.path().join("hangs");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::thread::scope(|scope| {
        let asked = scope.spawn(|| bed.vonicd.vonic_output(&["upgrade", &program.display().to_string()]).unwrap());
        while !asked.is_finished() {
            mock.gateway_answers(2).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        asked.join().unwrap()
    });
    assert!(String::from_utf8(output.stderr).unwrap().contains("it did not answer in time"));
    mock.gateway_answers(2).unwrap();
    let master = bed.vonicd.master();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let sleeps = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c.contains("sleep"));
    assert!(!children.split_ascii_whitespace().any(sleeps), "{children}");
    bed.vonicd.stop().unwrap();
}
