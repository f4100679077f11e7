//! Does everything work for an ordinary user, without root and without capabilities? And what the host does not let such a user do: is it
//! answered, counted, and told with what to do?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};
use vonic_tests::*;

/// Users that no system has by name but as nobody's neighbours.
const USER: u32 = 65_531;
const OTHER: u32 = 65_532;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

fn forward(listen: &str, port: u16) -> String {
    format!("[[forward]]\nproto = \"tcp\"\nlisten = \"{listen}\"\nport = {port}\n")
}

/// The service of an ordinary user, and a host outside.
fn start(config: &TestConfig) -> (Bed, Netns) {
    isolate().unwrap();
    let outside = Netns::new().unwrap();
    outside.cable("wire", "198.51.100.1/24", "198.51.100.2/24").unwrap();
    let directory = TempDir::new().unwrap();
    let vonicd = Vonicd::start_as(USER, &directory, config).unwrap();
    (Bed { vonicd, lab: Lab::open().unwrap(), directory }, outside)
}

/// The value of a line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_ascii_whitespace().next().unwrap().to_string()
}

fn permit_ping(range: &str) {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", range).unwrap();
}

fn show(bed: &Bed) -> Value {
    let output = bed.vonicd.vonic_as(USER, &["vm", "show", "a", "--json"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_guest_of_an_ordinary_user_has_all_of_it() {
    let (mut bed, _outside) = start(&TestConfig::default().vm("a", 2, &forward("127.0.0.1:7007", 7)));
    // Neither process has, or can get, anything that an ordinary user has not.
    let engine: u32 =
        std::fs::read_to_string(bed.directory.path().join("run/engine.pid")).unwrap().trim().parse().unwrap();
    for pid in [bed.vonicd.process().pid(), engine] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status(pid, set), 16), Ok(0), "{set} of {pid}");
        }
        assert_eq!((status(pid, "Uid"), status(pid, "NoNewPrivs")), (USER.to_string(), "1".to_string()));
    }

    let config = GuestConfig { ip4: Ip4::Dhcp, ..GuestConfig::new("a", 2, &bed.socket("a")) };
    let mut guest = bed.start_configured(&config).unwrap();
    guest.wait_ready().unwrap();
    assert!(guest.must("cat /run/lease", seconds(5)).unwrap().contains("ip=192.0.2.2"));
    let mut server = bed.server().unwrap();
    let to = format!("192.0.2.1:{}", server.address().port());
    guest.must(&format!("vonic-peer both {to} 10000019 1 4"), seconds(60)).unwrap();
    (0..4).for_each(|_| assert!(server.report(seconds(10)).unwrap()["error"].is_null()));
    // The soft limit was raised to the hard one, which needs no privilege.
    let limits = std::fs::read_to_string(format!("/proc/{engine}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.split_ascii_whitespace().filter(|word| *word == "4096").count() == 2, "{files}");

    let job = guest.spawn("vonic-peer serve 0.0.0.0:7").unwrap();
    job.wait_output(&mut guest, "listening", seconds(10)).unwrap();
    let result = peer(&["both", "127.0.0.1:7007", "10000019", "1"], None, bed.directory.path(), seconds(60)).unwrap();
    assert_eq!(result["ok"], true, "{result}");

    for to in ["192.0.2.1".to_string(), OUTSIDE.to_string()] {
        let said = guest.must(&format!("ping -c 2 -W 5 {to}"), seconds(15)).unwrap();
        assert!(said.contains(" 0% packet loss"), "{said}");
    }
    // A group that the administrator has left out; the gateway itself needs no socket.
    permit_ping("0 0");
    let said = guest.run(&format!("ping -c 2 -W 2 {OUTSIDE}"), seconds(15)).unwrap();
    assert!(said.stdout.contains("From 192.0.2.1 icmp_seq=1 Packet filtered"), "{said:?}");
    assert!(guest.must("ping -c 1 -W 5 192.0.2.1", seconds(15)).unwrap().contains(" 0% packet loss"));
    let shown = show(&bed);
    assert_eq!(shown["drops_by_reason"]["not_permitted"]["guest_to_host"], 2, "{shown}");
    assert!(
        shown["hints"][0].as_str().unwrap().contains("sysctl net.ipv4.ping_group_range=\"0 2147483647\""),
        "{shown}"
    );
    permit_ping(&format!("{USER} {USER}"));
    assert!(guest.must(&format!("ping -c 2 -W 5 {OUTSIDE}"), seconds(15)).unwrap().contains(" 0% packet loss"));
    assert_eq!(show(&bed)["hints"], json!([]));
    guest.power_off().unwrap();
    bed.vonicd.stop().unwrap();
}

#[test]
fn a_port_that_needs_a_privilege_is_told_and_tried_again_at_each_reload() {
    let more = [forward("127.0.0.1:7007", 7), forward("*:80", 80), forward("198.51.100.77:7008", 8)].concat();
    let (bed, _outside) = start(&TestConfig::default().vm("a", 2, &more));
    let shown = show(&bed);
    let errors: Vec<&str> = shown["forward_errors"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    let [privileged, absent] = errors[..] else { panic!("{shown}") };
    for words in
        ["forward *:80", "port 80", "net.ipv4.ip_unprivileged_port_start=80", "setcap cap_net_bind_service=ep /"]
    {
        assert!(privileged.contains(words), "{words:?} is not in {privileged}");
    }
    assert!(absent.contains("port 7008") && absent.contains("does not have this address"), "{absent}");
    assert_eq!(bed.vonicd.stats().unwrap()["vms"]["a"]["forwards_failed"], 2);
    assert!(bed.vonicd.vonic_text(&["vm", "show", "a"]).unwrap().contains(privileged));
    assert!(bed.vonicd.log().contains(privileged));
    // The rest works, and a reload says what is still missing.
    std::net::TcpStream::connect("127.0.0.1:7007").unwrap();
    let output = bed.vonicd.vonic_as(USER, &["reload"]).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains(privileged) && said.contains(absent), "{said}");

    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "80").unwrap();
    ip("addr add 198.51.100.77/32 dev lo").unwrap();
    let output = bed.vonicd.vonic_as(USER, &["reload"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    std::net::TcpStream::connect("127.0.0.1:80").unwrap();
    std::net::TcpStream::connect("198.51.100.77:7008").unwrap();
    let shown = show(&bed);
    assert_eq!((&shown["forward_errors"], &shown["last_error"]), (&json!([]), &json!(null)));
    bed.vonicd.stop().unwrap();
}

#[test]
fn another_user_is_kept_out() {
    let (bed, _outside) = start(&TestConfig::default().vm("a", 2, ""));
    assert!(bed.vonicd.vonic_as(USER, &["vm", "list"]).unwrap().status.success());
    let closed = |output: std::process::Output| {
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("is not open to this user"), "{said}");
    };
    closed(bed.vonicd.vonic_as(OTHER, &["vm", "list"]).unwrap());
    // Nor does it get at a VM's socket: whoever may write to it may be the VM.
    let socket = bed.socket("a");
    let mut command = Command::new(bed.directory.path().join("vonic"));
    closed(command.uid(OTHER).gid(OTHER).arg("--socket").arg(&socket).args(["vm", "list"]).output().unwrap());
    drop(UnixStream::connect(&socket).unwrap());
    bed.vonicd.stop().unwrap();
}

/// A VM is not put where its file cannot be written, and nothing of it is there.
#[test]
fn a_folder_that_cannot_be_written_is_told_and_nothing_is_changed() {
    let (bed, _outside) = start(&TestConfig::default().vm("a", 2, ""));
    let file = bed.directory.write("b.toml", "mac = \"52:54:00:00:00:03\"\n").unwrap().display().to_string();
    let folder = bed.vonicd.config_dir().join("vms.d");
    std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
    for arguments in [&["vm", "add", file.as_str()][..], &["vm", "rm", "a"]] {
        let output = bed.vonicd.vonic_as(USER, arguments).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let told = said.contains("vms.d cannot be written: Permission denied") && said.contains("ReadWritePaths=");
        assert!(!output.status.success() && told, "{said}");
    }
    assert_eq!(show(&bed)["name"], "a");
    std::os::unix::fs::chown(&folder, Some(USER), Some(USER)).unwrap();
    let output = bed.vonicd.vonic_as(USER, &["vm", "add", &file]).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "added: b\nunchanged: 1\n");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    bed.vonicd.stop().unwrap();
}

/// Without a word about it in the configuration, an ordinary user hears what to write.
#[test]
fn a_directory_that_cannot_be_written_comes_with_one_that_can() {
    isolate().unwrap();
    let directory = TempDir::new().unwrap();
    let program = Vonicd::copy(&directory).unwrap();
    directory.write("etc/vonic.toml", "runtime_dir = \"/proc/vonic\"\n").unwrap();
    let run = |own: Option<&str>| {
        let mut command = Command::new(&program);
        command.arg("--config-dir").arg(directory.path().join("etc")).uid(USER).gid(USER).env_remove("XDG_RUNTIME_DIR");
        if let Some(own) = own {
            command.env("XDG_RUNTIME_DIR", own);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run(Some("/run/user/65531"));
    for words in ["/proc/vonic cannot be written", "etc/vonic.toml: runtime_dir = \"/run/user/65531/vonic\""] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    assert!(run(None).contains("a/folder/that/you/can/write"));
}
