//! Does `vonic` print what the API says, for people and for programs, and say clearly what went wrong?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::Ordering;

use serde::de::DeserializeOwned;
use serde_json::Value;
use vonic_control::api::types::{
    ConnectionRow, EngineStatus, Happening, LoadReport, ReloadReport, Stats, VmDetail, VmRow, VmStats,
};
use vonic_control::capture::pcapng::{self, Block};
use vonic_control::client;

#[path = "support/service.rs"]
mod service;
use service::Service;

/// Runs `vonic`; exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (u8, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = client::run(["vonic"].iter().chain(arguments), &mut out, &mut err);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn at(socket: &Path, arguments: &str) -> (u8, String, String) {
    let socket = socket.to_str().unwrap();
    run(&["--socket", socket].into_iter().chain(arguments.split(' ')).collect::<Vec<_>>())
}

fn good(service: &Service, arguments: &str) -> String {
    let (code, out, err) = at(&service.socket(), arguments);
    assert_eq!((code, err.as_str()), (0, ""), "{arguments}");
    out
}

fn json<T: DeserializeOwned>(service: &Service, arguments: &str) -> T {
    serde_json::from_str(&good(service, arguments)).unwrap()
}

#[test]
fn tables_for_people() {
    let service = Service::start();
    let expected = "\
NAME  NETWORK  ADDRESS                MAC                STATE    GUEST TO HOST  HOST TO GUEST  DROPS  CONNECTIONS  AGENT
web1  default  192.0.2.2,2001:db8::2  52:54:00:00:00:02  running        2.0 KiB        5.0 GiB      7            2  0.1.0
web2           -                                         waiting            0 B            0 B      0            0  -
";
    assert_eq!(good(&service, "vm list"), expected);
    let expected = "\
VM    PROTOCOL  OPENED BY  GUEST            REMOTE            STATE        GUEST TO HOST  HOST TO GUEST    AGE
web2  tcp       world      192.0.2.2:40000  198.51.100.7:443  ESTABLISHED           10 B        2.0 KiB  1m 1s
";
    assert_eq!(good(&service, "conns --vm web2"), expected);
    assert_eq!(good(&service, "conns").lines().count(), 3);
    assert_eq!(good(&service, "conns --vm web3"), "no connections\n");
    let show = good(&service, "vm show web1");
    for line in [
        "name                 web1",
        "connected for        1m 1s",
        "address6             2001:db8::2",
        "labels               tier=web",
        "features negotiated  csum",
        "guest to host        2.0 KiB in 3 frames",
        "forward              tcp 127.0.0.1:8080 -> 80",
        "guest agent          0.1.0, seen 1s ago",
        "guest kernel         6.12.1",
        "guest uptime         1m 1s",
        "last error           none",
        "guest to host, frames            3             2          -1",
        "host to guest, bytes          1960          2000         +40",
        "guest driver         eth0: virtio_net 1.0.0 at 0000:00:02.0",
        "guest offloads on    eth0: rx-gro tx-tcp-segmentation",
        "guest offloads off   eth0: tx-udp-segmentation",
        "guest tcp            3 established; of 197 segments 3 sent again (1.50 %)",
        "guest round trips    median 250 us, 99 % at most 1.23 ms, of 3 connections; 1 of them sending again",
        "guest softirq        12.50 % of processor time, 70 receiving, 7 sending",
        "guest memory         402 MiB of 512 MiB available; waited for 0.07 % of the last 10s, by all tasks 0.00 %",
        "guest conntrack      5 of 65536",
        "guest listens        tcp 0.0.0.0:22 [::]:22, udp 127.0.0.1:53 and more",
        "eth0       52:54:00:00:00:02  1500  1.9 KiB   1.9 KiB       2        4",
        "sit0       -                     -      0 B       0 B       0        0",
        "eth0       tx_kicks          12",
        "not forwarded        forward 127.0.0.1:80: cannot listen on port 80",
        "hint                 guests cannot ping the world",
        "deny 198.51.100.0/24 tcp ports 1-1023        7",
        "no rule matched: deny                        3",
        "never a destination: deny                    5",
        "new per second     2000        9",
        "replies      4",
        "   1  guest to host   256  yes      running",
        "spoofed mac  guest to host       7",
        "guest to guest     99",
        "retransmissions      1",
    ] {
        assert!(show.lines().any(|l| l == line), "{line} is not in\n{show}");
    }
    assert!(!show.contains("spoofed mac  host to guest"), "a drop that never was: {show}");
    assert!(!show.contains("tx_timeouts") && !show.contains("squeezed"), "what never happened: {show}");
    let stats = good(&service, "stats");
    assert!(stats.starts_with("up for 1h 1m\n") && stats.contains("\nweb1 "), "{stats}");
    assert!(good(&service, "stats web1").contains("spoofed mac  guest to host       7\n"));
}

#[test]
fn the_engine_and_its_successor() {
    let service = Service::start();
    let status = good(&service, "engine status");
    for line in [
        "process           100",
        "up for            1m 30s",
        "standby           ready",
        "deaths            4",
        "ago: the engine died by signal 11",
        "short succession  4 deaths: the next one was made to wait for 100 ms",
        "ago, in 2.345 ms, as was asked for",
        "quarantined       web2",
    ] {
        assert!(status.contains(line), "no '{line}' in\n{status}");
    }
    assert_eq!(json::<EngineStatus>(&service, "engine status --json"), service::engine(0));
    assert_eq!(good(&service, "engine restart"), "process 101 has taken over from 100 in 2.346 ms\n");
    // The answer is lost with whoever was to give it; the next one tells.
    assert_eq!(json::<EngineStatus>(&service, "engine restart --json"), service::engine(2));
}

#[test]
fn vms_are_put_and_deleted() {
    let service = Service::start();
    let folder = tempfile::TempDir::new().unwrap();
    let expected = "\
changed: web1
  vm web1: mtu: 1500 -> 1400
  another NIC, so the VMM has to connect again: web1
unchanged: 1
";
    for (name, text) in [("web1.toml", "mtu = 1400\n"), ("web1.json", " {\"mtu\": 1400}")] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        assert_eq!(good(&service, &format!("vm add {}", file.display())), expected);
    }
    assert_eq!(good(&service, "vm rm web1"), "removed: web1\nunchanged: 0\n");
    let (code, _, err) = at(&service.socket(), "vm rm web9");
    assert!(code == 1 && err.contains("there is no VM 'web9'"), "{err}");
    let socket = service.socket();
    for (name, words) in [("nothing.toml", "No such file"), ("no name.toml", "give --name")] {
        let file = folder.path().join(name);
        let (code, _, err) = run(&["--socket", socket.to_str().unwrap(), "vm", "add", file.to_str().unwrap()]);
        assert!(code == 1 && err.contains(words), "{err}");
    }
}

#[test]
fn events_are_told_one_to_a_line() {
    let service = Service::start();
    service.feed.tell(Happening::VmAdded { vm: "a\u{1b}".into() });
    service.feed.tell(Happening::EngineTookOver { pid: 7, microseconds: 2345 });
    let lines = good(&service, "events --after 0-0 --count 2");
    let words: Vec<&str> = lines.lines().map(|line| line.split_once("Z  ").unwrap().1).collect();
    assert_eq!(words, ["a : added", "engine 7 has taken over in 2.345 ms"]);
    let json = good(&service, "events --after 0-0 --count 1 --json");
    let kinds = json.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone());
    assert_eq!(kinds.collect::<Vec<_>>(), ["begun", "vm_added"]);
    let (code, _, err) = at(&service.socket(), "events --after 7");
    assert!(code == 1 && err.contains("is no event's id"), "{err}");
}

#[test]
fn states_go_by_hand() {
    let service = Service::start();
    assert_eq!(good(&service, "migrate save web1 -"), service::STATE);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("state");
    let name = file.display();
    assert_eq!(good(&service, &format!("migrate save web1 {name} --timeout 86400")), "");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), service::STATE);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it is nobody else's to read");
    let (code, _, err) = at(&service.socket(), &format!("migrate save web1 {name}"));
    assert!(code == 1 && err.contains("File exists"), "{err}");
    let expected = "3 connections have come from web1: its rings, which waited, start\n";
    assert_eq!(good(&service, &format!("migrate load web1 {name}")), expected);
    assert_eq!(json::<LoadReport>(&service, &format!("migrate load web1 {name} --json")), service::loaded());
    assert_eq!(service.forgotten.load(Ordering::Relaxed), 2, "of each the engine hears when it is over");
    std::fs::remove_file(&file).unwrap();
    for command in ["save", "load"] {
        let (code, _, err) = at(&service.socket(), &format!("migrate {command} web9 {name}"));
        assert!(code == 1 && (err.contains("there is no VM 'web9'") || err.contains("No such file")), "{err}");
        assert!(!file.exists(), "nothing is left of what was not done");
    }
}

/// The service's worker lets go of the capture at once.
#[test]
fn a_capture_says_why_it_has_ended_and_leaves_a_whole_file() {
    let service = Service::start();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("web1.pcapng");
    let (code, out, err) = at(&service.socket(), &format!("capture web1 -w {} --filter arp", file.display()));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(
        err.contains("the VM is gone") && err.contains("0 frames in ") && err.ends_with("start it again\n"),
        "{err}"
    );
    let mut rest = &std::fs::read(&file).unwrap()[..];
    assert_eq!(rest[..4], [0x0a, 0x0d, 0x0d, 0x0a]);
    let mut blocks = Vec::new();
    while let Some((block, length)) = pcapng::next(rest).unwrap() {
        blocks.push(block);
        rest = &rest[length..];
    }
    assert_eq!((rest.len(), blocks.len()), (0, 3));
    assert!(matches!(&blocks[2], Block::Statistics { lost: 0, why: Some(why) } if why.contains("the VM is gone")));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // What is refused overwrites nothing.
    for (arguments, said) in [("web9", "there is no VM 'web9'"), ("web1 --filter tcp)", "')' without its '('")] {
        let (code, _, err) = at(&service.socket(), &format!("capture -w {} {arguments}", file.display()));
        assert!(code == 1 && err.contains(said), "{arguments}: {err}");
    }
    assert!(std::fs::metadata(&file).unwrap().len() > 100);
}

#[test]
fn json_for_programs() {
    let service = Service::start();
    assert_eq!(json::<Vec<VmRow>>(&service, "vm list --json")[0], service::row("web1"));
    assert_eq!(json::<VmDetail>(&service, "--json vm show web1"), service::detail());
    assert_eq!(json::<Vec<ConnectionRow>>(&service, "conns --json"), service::connections());
    assert_eq!(json::<Stats>(&service, "stats --json"), service::stats());
    assert_eq!(json::<VmStats>(&service, "stats web1 --json"), service::stats().vms["web1"]);
    let (code, out, err) = at(&service.socket(), "--json reload");
    assert_eq!((code, serde_json::from_str::<ReloadReport>(&out).unwrap()), (1, service::report()));
    assert!(serde_json::from_str::<Value>(&err).unwrap()["error"]["message"].is_string());
}

#[test]
fn a_reload_names_what_it_did_and_the_bad_files() {
    let service = Service::start();
    let (code, out, err) = at(&service.socket(), "reload");
    assert_eq!((code, out.as_str()), (1, "added: a, b\nremoved: c\nunchanged: 5\n"));
    assert!(err.starts_with("vonic: 1 found wrong; what a wrong file describes stays as it runs:\n"), "{err}");
    assert!(err.ends_with("\n/etc/vonic/vms.d/x.toml:3: mtu: wrong\n"), "{err}");
}

#[test]
fn what_went_wrong_is_said() {
    let service = Service::start();
    let missing = service.socket().with_file_name("missing.sock");
    let closed = service.socket().with_file_name("closed.sock");
    drop(UnixListener::bind(&closed).unwrap());
    for socket in [&missing, &closed] {
        let (code, out, err) = at(socket, "vm list");
        let said = format!(
            "vonic: vonicd is not running: nothing answers at {}; start it or give --socket\n",
            socket.display()
        );
        assert_eq!((code, out.as_str(), err), (1, "", said));
    }
    let (code, _, err) = at(&missing, "vm list --json");
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, &error["error"]["mend"]), (1, &Value::from("start it or give --socket")));
    for arguments in ["vm show web9", "vm show a/../b?c", "stats web9", "conns --vm a&b"] {
        let (code, _, err) = at(&service.socket(), arguments);
        assert_eq!(code, 1);
        assert!(err.starts_with("vonic: there is no VM '") && err.contains("vonic vm list"), "{arguments}: {err}");
    }
}

#[test]
fn a_server_that_is_none_is_not_trusted() {
    let dir = tempfile::TempDir::new().unwrap();
    let socket = dir.path().join("x.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers: [&[u8]; 4] = [
        b"",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            drop(std::io::Read::read(&mut stream, &mut head));
            drop(stream.write_all(answer));
        }
    });
    for _ in answers {
        let (code, out, err) = at(&socket, "vm list");
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(
            err.starts_with("vonic: no answer from ") || err.starts_with("vonic: the answer cannot be read"),
            "{err}"
        );
    }
    server.join().unwrap();
}

#[test]
fn usage() {
    for wrong in [&["vm"][..], &[], &["frobnicate"], &["vm", "show"], &["conns", "--x"], &["reload", "now"]] {
        let (code, out, err) = run(wrong);
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}");
        assert!(err.contains("Usage: vonic"), "{err}");
    }
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    for word in ["VONIC_SOCKET", "/run/vonic/api.sock", "--json", "conns", "reload", "stats"] {
        assert!(out.contains(word), "{word} is not in {out}");
    }
    assert_eq!(run(&["--version"]).1, format!("vonic {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn shells_learn_the_commands() {
    for (shell, words) in [
        ("bash", &["complete -F _vonic", "vonic__subcmd__vm__subcmd__list", "--config-dir"][..]),
        ("zsh", &["#compdef vonic", "cloud-hypervisor"]),
        ("fish", &["complete -c vonic", "restart"]),
    ] {
        let (code, out, err) = run(&["completions", shell]);
        assert_eq!((code, err.as_str()), (0, ""), "{shell}");
        for word in words {
            assert!(out.contains(word), "{shell}: {word} is not in {out}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"]).0, 2);
}

/// Standard output whose reader has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let service = Service::start();
    let mut err = Vec::new();
    for command in ["list", "list --json"] {
        let socket = service.socket();
        let arguments = ["vonic", "--socket", socket.to_str().unwrap(), "vm"];
        assert_eq!(client::run(arguments.into_iter().chain(command.split(' ')), &mut Gone, &mut err), 0);
    }
    assert!(err.is_empty());
}
