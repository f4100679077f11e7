//! `user = "NAME"`: started as root, is everything of vonicd that user, with what the configuration needs and no more, and does it stay so? And who cannot
//! become the user: is it told what to do?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use vonic_tests::mock::MockConfig;
use vonic_tests::*;

/// Every Debian has it.
const NAME: &str = "nobody";
const USER: u32 = 65_534;
/// No system has these by name.
const OTHER: u32 = 65_532;

/// The values of a line of /proc/PID/status.
fn status(pid: u32, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_ascii_whitespace().map(String::from).collect()
}

/// A place of a test's where only root can put something, as in /run.
fn place() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

fn config(more: &str) -> TestConfig {
    TestConfig { service: format!("user = \"{NAME}\"\n{more}"), ..TestConfig::default() }
}

fn start(config: &TestConfig) -> Bed {
    let directory = place();
    let vonicd = Vonicd::start(&directory, config).unwrap();
    Bed { vonicd, lab: Lab::open().unwrap(), directory }
}

/// Master, engine, the one that waits to be it, and the one that runs hooks.
fn processes(bed: &Bed) -> Vec<u32> {
    let of_bed = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("vonicd\0") && words.contains(&bed.vonicd.config_dir().display().to_string())
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    all.filter(of_bed).collect()
}

/// All of them are the user and have these capabilities, in every set by which anybody could have more.
fn all_are_the_user(bed: &Bed, capabilities: u64) {
    wait_until("one to run hooks and one that waits", seconds(10), || processes(bed).len() >= 4).unwrap();
    let all = processes(bed);
    assert!(all.contains(&bed.vonicd.master()) && all.contains(&bed.vonicd.engine().unwrap()), "{all:?}");
    for pid in all {
        let user = USER.to_string();
        assert_eq!((status(pid, "Uid"), status(pid, "Gid")), (vec![user.clone(); 4], vec![user.clone(); 4]), "{pid}");
        assert_eq!((status(pid, "Groups"), status(pid, "NoNewPrivs")), (vec![user], vec!["1".to_string()]), "{pid}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let bits = u64::from_str_radix(&status(pid, set)[0], 16).unwrap();
            assert_eq!(bits, capabilities, "{set} of {pid}");
        }
        // So that they find their own files in /proc.
        assert_eq!(Path::new(&format!("/proc/{pid}")).metadata().unwrap().uid(), USER);
    }
}

fn kill_engine(bed: &Bed) {
    let engine = bed.vonicd.engine().unwrap();
    assert!(Command::new("kill").args(["-9", &engine.to_string()]).status().unwrap().success());
    wait_until("another engine", seconds(10), || bed.vonicd.engine().is_ok_and(|now| now != engine)).unwrap();
    wait_until("the API", seconds(10), || bed.vonicd.stats().is_ok()).unwrap();
}

#[test]
fn all_of_vonicd_is_the_user_over_reloads_deaths_and_upgrades() {
    isolate().unwrap();
    let directory = place();
    let config = config("").vm("a", 2, "");
    // One that ran as root has died here.
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    drop(UnixListener::bind(run.join("a.sock")).unwrap());
    let vonicd = Vonicd::start(&directory, &config).unwrap();
    let mut bed = Bed { vonicd, lab: Lab::open().unwrap(), directory };
    all_are_the_user(&bed, 0);
    for name in ["", "a.sock", "api.sock", "engine.pid"] {
        let file = run.join(name).symlink_metadata().unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o022), (USER, USER, 0), "{name}");
    }
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    a.gateway_answers(2).unwrap();

    // A VM by a file of root's, and, where the folder is the user's, one by the API.
    let (etc, vm) = (bed.vonicd.config_dir(), |number| format!("mac = \"52:54:00:00:00:0{number}\"\n"));
    fs::write(etc.join("vms.d/b.toml"), vm(3)).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    let file = bed.directory.write("c.toml", vm(4)).unwrap().display().to_string();
    let refused = bed.vonicd.vonic_output(&["vm", "add", &file]).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("vms.d cannot be written"), "{refused:?}");
    chown(etc.join("vms.d"), Some(USER), Some(USER)).unwrap();
    bed.vonicd.vonic_text(&["vm", "add", &file]).unwrap();
    assert_eq!(etc.join("vms.d/c.toml").metadata().unwrap().uid(), USER);
    let mut others = [("b", 3), ("c", 4)].map(|(name, _)| bed.mock(name, MockConfig::default()).unwrap());
    others[0].gateway_answers(3).unwrap();
    others[1].gateway_answers(4).unwrap();

    // Who it is stays as it is.
    let toml = etc.join("vonic.toml");
    let text = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, text.replace(NAME, "daemon")).unwrap();
    let reload = bed.vonicd.vonic_output(&["reload"]).unwrap();
    let said = String::from_utf8(reload.stderr).unwrap();
    assert!(said.contains("user, workers") && said.contains("restart vonicd to change them"), "{said}");
    fs::write(&toml, text).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();

    kill_engine(&bed);
    all_are_the_user(&bed, 0);
    a.gateway_answers(2).unwrap();
    let program = Vonicd::copy(&bed.directory).unwrap();
    bed.vonicd.upgrade(&program).unwrap();
    all_are_the_user(&bed, 0);
    a.gateway_answers(2).unwrap();
    others[1].gateway_answers(4).unwrap();
    kill_engine(&bed);
    a.gateway_answers(2).unwrap();
    bed.vonicd.stop().unwrap();
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0, "the user can remove what it has made");
}

#[test]
fn it_keeps_the_capabilities_that_the_configuration_needs() {
    const LOW_PORTS: u64 = 1 << 10;
    const ADMIN: u64 = 1 << 12;
    const RAW: u64 = 1 << 13;
    isolate().unwrap();
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:80\"\nport = 80\n";
    let mut bed = start(&config("").vm("a", 2, forward));
    all_are_the_user(&bed, LOW_PORTS);
    std::net::TcpStream::connect("127.0.0.1:80").unwrap();
    kill_engine(&bed);
    let program = Vonicd::copy(&bed.directory).unwrap();
    bed.vonicd.upgrade(&program).unwrap();
    all_are_the_user(&bed, LOW_PORTS);
    std::net::TcpStream::connect("127.0.0.1:80").unwrap();
    bed.vonicd.stop().unwrap();

    let vms = [("a".to_string(), "mac = \"52:54:00:00:00:02\"\n".to_string())];
    let network = "uplink = \"packet:lo\"\n".to_string();
    let hooks = "[migration]\narrive = [\"/bin/true\"]\n";
    let bed = start(&TestConfig { network: network.clone(), vms: vms.clone().into(), ..config("") });
    all_are_the_user(&bed, ADMIN | RAW);
    assert!(!bed.vonicd.log().contains("may open no packet socket"), "{}", bed.vonicd.log());
    bed.vonicd.stop().unwrap();
    // Hooks have what moves addresses, and not everything.
    let network = format!("uplink = \"none\"\n{hooks}");
    let bed = start(&TestConfig { network, vms: vms.into(), ..config("") });
    all_are_the_user(&bed, ADMIN);
    bed.vonicd.stop().unwrap();
}

#[test]
fn who_is_that_user_already_has_nothing_to_do() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = Vonicd::start_as(USER, &directory, &config("").vm("a", 2, "")).unwrap();
    let bed = Bed { vonicd, lab: Lab::open().unwrap(), directory };
    assert_eq!(status(bed.vonicd.engine().unwrap(), "Uid"), vec![USER.to_string(); 4]);
    bed.mock("a", MockConfig::default()).unwrap().gateway_answers(2).unwrap();
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_user_that_vonicd_cannot_be_comes_with_what_to_do() {
    isolate().unwrap();
    let directory = place();
    let program = Vonicd::copy(&directory).unwrap();
    let refused = |config: &TestConfig, user: u32, arguments: &[&str], words: &[&str]| {
        config.write(&directory).unwrap();
        let mut command = Command::new(&program);
        command.arg("--config-dir").arg(directory.path().join("etc")).args(arguments).uid(user).gid(user);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
    };
    let of = |name: &str| TestConfig { service: format!("user = \"{name}\"\n"), ..TestConfig::default() };
    let unknown = ["etc/vonic.toml:2: user: there is no user 'no-such-user' on this host: make it (useradd"];
    refused(&of("no-such-user"), 0, &["--check"], &unknown);
    refused(&of("no-such-user"), 0, &[], &unknown);
    refused(&of("root"), 0, &["--check"], &["etc/vonic.toml:2: user: 'root' is root: write a user"]);
    let whoever = ["etc/vonic.toml: user: vonicd cannot become 'nobody'", "start it as root, or as 'nobody'"];
    refused(&config(""), OTHER, &[], &whoever);
    // A folder of somebody else's, or that somebody else could have put there, is not given away.
    let run = directory.path().join("run");
    chown(&run, Some(OTHER), Some(OTHER)).unwrap();
    refused(&config(""), 0, &[], &["etc/vonic.toml: runtime_dir: /", "run belongs to user 65532: give it to 'nobody'"]);
    chown(&run, Some(0), Some(0)).unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    refused(&config(""), 0, &[], &["others than root and 'nobody' can write in the folder of /"]);
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(run.metadata().unwrap().uid(), 0);
    // Files that the user cannot read are told by their names.
    config("").write(&directory).unwrap();
    fs::set_permissions(directory.path().join("etc/vonic.toml"), PermissionsExt::from_mode(0o600)).unwrap();
    let output = Command::new(&program).arg("--config-dir").arg(directory.path().join("etc")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("etc/vonic.toml: this cannot be read"), "{said}");
}
