//! VM files are added, changed, removed and spoilt while others run: does `vonic reload`, or SIGHUP, do what the files say, and nothing else?
#![allow(clippy::unwrap_used, reason = "test code")]

use serde_json::{Value, json};
use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{MockConfig, RawConnection, Reply, code, feature};
use vonic_tests::wire::{Conn, HOST, HandGuest};
use vonic_tests::*;

/// How the service is told.
#[derive(Debug, Clone, Copy)]
enum How {
    Command,
    Signal,
}

/// A service, and a VM on it that no reload is about: its connection goes on through all of them.
struct Around {
    z: HandGuest,
    line: Line,
    bed: Bed,
}

impl Around {
    fn start(config: TestConfig) -> Around {
        let bed = Bed::start(&config.vm("z", 9, "")).unwrap();
        let mut z = HandGuest::start(&bed, "z", 9, feature::ALL).unwrap();
        let line = Line::guest_opens(&mut z, 4000).unwrap();
        Around { z, line, bed }
    }

    fn write(&self, name: &str, text: &str) {
        self.bed.directory.write(&format!("etc/vms.d/{name}.toml"), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.bed.vonicd.config_dir().join(format!("vms.d/{name}.toml"))).unwrap();
    }

    /// Reloads good files; with the command, the report's added, changed, removed and unchanged.
    fn reload(&mut self, how: How) -> Option<[Value; 4]> {
        let report = match how {
            How::Command => {
                let report = self.bed.vonicd.vonic(&["reload", "--json"]).unwrap();
                assert_eq!(report["errors"], json!([]), "{report}");
                Some(["added", "changed", "removed", "unchanged"].map(|key| report[key].clone()))
            }
            How::Signal => {
                self.hang_up();
                None
            }
        };
        self.line.exchange(&mut self.z).unwrap();
        report
    }

    /// SIGHUP, and waits for the log's line about it.
    fn hang_up(&mut self) {
        let reloads = |log: String| log.matches(" reload: ").count();
        let before = reloads(self.bed.vonicd.log());
        self.bed.vonicd.process().signal(1).unwrap();
        let vonicd = &self.bed.vonicd;
        wait_until("a reload in the log", seconds(10), || reloads(vonicd.log()) == before + 1).unwrap();
    }

    fn guest(&self, name: &str, number: u8) -> HandGuest {
        HandGuest::start(&self.bed, name, number, feature::ALL).with_context(|| name.to_string()).unwrap()
    }

    fn is_served(&self, name: &str) -> bool {
        std::os::unix::net::UnixStream::connect(self.bed.socket(name)).is_ok()
    }
}

fn vm(number: u8, more: &str) -> String {
    format!("mac = \"52:54:00:00:00:{number:02x}\"\naddress4 = \"192.0.2.{number}\"\n{more}\n")
}

/// Waits for the end of a VMM's connection.
fn is_hung_up(raw: &mut RawConnection) {
    wait_until("the end of the VMM's connection", seconds(10), || {
        matches!(raw.ask(code::GET_FEATURES, &[], &[]), Ok(Reply::Closed) | Err(_))
    })
    .unwrap();
}

fn added_and_removed(how: How) {
    let mut around = Around::start(TestConfig::default().vm("a", 2, ""));
    let mut a = around.guest("a", 2);
    let line = Line::guest_opens(&mut a, 4001).unwrap();
    around.write("b", &vm(3, ""));
    around.remove("a");
    assert!(!around.bed.socket("b").exists());
    let report = around.reload(how);
    assert!(report.is_none_or(|report| report == [json!(["b"]), json!([]), json!(["a"]), json!(1)]));

    wait_until("b's socket", seconds(10), || around.is_served("b")).unwrap();
    let mut b = around.guest("b", 3);
    Line::guest_opens(&mut b, 4002).unwrap().exchange(&mut b).unwrap();

    wait_until("the end of a's socket", seconds(10), || !around.bed.socket("a").exists()).unwrap();
    is_hung_up(a.mock.raw());
    line.host_sees_reset().unwrap();
    assert!(around.bed.vonicd.vm("a").unwrap_err().to_string().contains("'a'"));

    // And the name, the MAC and the address can be used again.
    around.write("a", &vm(2, ""));
    around.reload(how);
    wait_until("a's socket", seconds(10), || around.is_served("a")).unwrap();
    let mut a = around.guest("a", 2);
    Line::guest_opens(&mut a, 4001).unwrap().exchange(&mut a).unwrap();
    Line::guest_opens(&mut b, 4003).unwrap().exchange(&mut b).unwrap();
    drop((a, b));
    around.bed.vonicd.stop().unwrap();
}

#[test]
fn vms_are_added_and_removed_by_command() {
    added_and_removed(How::Command);
}

#[test]
fn vms_are_added_and_removed_by_signal() {
    added_and_removed(How::Signal);
}

/// A SYN to the host's loopback; whether it counts as a drop for `reason`, and is answered by a reset at a limit, else not at all.
fn is_dropped_for(around: &Around, guest: &mut HandGuest, vm: &str, reason: &str, port: u16) {
    let before = around.bed.vonicd.drops(vm, reason).unwrap();
    let mut conn = Conn::new(HOST, (port, 9));
    guest.send(HOST, &conn.syn(Tcp::SYN)).unwrap();
    wait_until(reason, seconds(5), || around.bed.vonicd.drops(vm, reason).unwrap() == before + 1).unwrap();
    let answer = conn.hear(guest, std::time::Duration::from_millis(100)).unwrap();
    assert_eq!(answer.is_some_and(|(_, answer)| answer.flags & Tcp::RST != 0), reason == "limit", "{reason}");
}

fn a_changed_policy(how: How) {
    let mut around = Around::start(TestConfig::default().vm("a", 2, "labels = { tier = \"old\" }"));
    let mut a = around.guest("a", 2);
    let mut line = Line::guest_opens(&mut a, 4001).unwrap();
    let egress = "[[egress]]\naction = \"deny\"\nto = \"192.0.2.1\"\nports = \"9\"\n[[egress]]\naction = \"allow\"\nto = \"192.0.2.1\"\n";
    let forward = "[[forward]]\nproto = \"tcp\"\nlisten = \"127.0.0.1:7001\"\nport = 7\n";
    for (text, labels) in [
        (vm(2, "labels = { tier = \"new\", more = \"x\" }"), json!({ "tier": "new", "more": "x" })),
        (vm(2, egress), json!({})),
        (vm(2, forward), json!({})),
        (vm(2, "limits = { connections = 1 }"), json!({})),
        (vm(2, &format!("limits = {{ connections = 7 }}\n{egress}{forward}")), json!({})),
    ] {
        around.write("a", &text);
        let report = around.reload(how);
        assert!(report.is_none_or(|report| report == [json!([]), json!(["a"]), json!([]), json!(1)]), "{text}");
        line.exchange(&mut a).with_context(|| text.clone()).unwrap();
        let shown = around.bed.vonicd.vm("a").unwrap();
        assert_eq!(
            (&shown["labels"], &shown["connected"], &shown["driver_ready"]),
            (&labels, &json!(true), &json!(true))
        );
        if text.contains("egress") {
            is_dropped_for(&around, &mut a, "a", "denied", 4100);
        }
        if text.contains("connections = 1 ") {
            is_dropped_for(&around, &mut a, "a", "limit", 4101);
        }
        wait_until("the forward", seconds(5), || {
            std::net::TcpStream::connect("127.0.0.1:7001").is_ok() == text.contains("forward")
        })
        .unwrap();
    }
    around.bed.vonicd.stop().unwrap();
}

#[test]
fn a_changed_policy_keeps_session_and_connections_by_command() {
    a_changed_policy(How::Command);
}

#[test]
fn a_changed_policy_keeps_session_and_connections_by_signal() {
    a_changed_policy(How::Signal);
}

#[test]
fn a_changed_device_makes_the_vmm_connect_again() {
    let service = "[network.default]\nsubnet4 = \"192.0.2.0/24\"\ngateway4 = \"192.0.2.1\"\nhost_loopback4 = \"192.0.2.1\"\n\
                   [network.other]\nsubnet4 = \"198.51.100.0/24\"\ngateway4 = \"198.51.100.1\"\n";
    let config = TestConfig { service: service.into(), network: String::new(), ..TestConfig::default() };
    let mut around = Around::start(config.vm("a", 2, ""));
    let in_other = "mac = \"52:54:00:00:00:03\"\nmtu = 9000\nnetwork = \"other\"\naddress4 = \"198.51.100.3\"\n";
    let cases = [
        ("mac", vm(3, "").replace("192.0.2.3", "192.0.2.2"), 3, 1500),
        ("mtu", vm(3, "mtu = 9000").replace("192.0.2.3", "192.0.2.2"), 3, 9000),
        ("network", in_other.to_string(), 3, 9000),
        ("back", vm(2, ""), 2, 1500),
    ];
    let mut a = around.bed.mock("a", MockConfig::default()).unwrap();
    for (what, text, number, mtu) in cases {
        around.write("a", &text);
        let report = around.reload(How::Command).unwrap();
        assert_eq!(report, [json!([]), json!(["a"]), json!([]), json!(1)], "{what}");
        is_hung_up(a.raw());
        wait_until("a's socket", seconds(10), || around.is_served("a")).unwrap();
        a = around.bed.mock("a", MockConfig::default()).with_context(|| what.to_string()).unwrap();
        let space = a.device_config(12).unwrap();
        assert_eq!((&space[..6], &space[10..]), (&mac(number)[..], &u16::to_le_bytes(mtu)[..]), "{what}");
        let of_other = what == "network";
        let (own, gateway) =
            if of_other { ([198, 51, 100, 3].into(), [198, 51, 100, 1].into()) } else { (ip4(2), ip4(1)) };
        let request = frames::arp(mac(number), 1, (mac(number), own), ([0; 6], gateway));
        a.send_frame(&Default::default(), &request).unwrap();
        a.expect_frame(what, seconds(5), |frame| frames::arp_answer(frame, gateway).is_some()).unwrap();
    }
    around.bed.vonicd.stop().unwrap();
}

/// A bad file, with what is good beside it; `named` is what the report must say of the bad one.
fn a_bad_file(how: How) {
    let mut around = Around::start(TestConfig::default().vm("a", 2, "").vm("b", 3, ""));
    let mut a = around.guest("a", 2);
    let mut line = Line::guest_opens(&mut a, 4001).unwrap();
    let path = around.bed.vonicd.config_dir().join("vms.d/a.toml").display().to_string();
    for (text, line_number, words) in [
        (vm(2, "mtu = 100"), 3, "mtu: 100"),
        (vm(2, "colour = \"red\""), 3, "unknown key 'colour'"),
        (vm(2, "labels = {"), 3, ""),
        ("address4 = \"192.0.2.2\"\nmac = \"52:54\"".into(), 2, "mac"),
    ] {
        around.write("a", &text);
        around.write("b", &vm(3, &format!("labels = {{ line = \"{line_number}{}\" }}", words.len())));
        let named = format!("{path}:{line_number}: {words}");
        let logged = around.bed.vonicd.log().len();
        let said = match how {
            How::Command => {
                let output = around.bed.vonicd.vonic_output(&["reload"]).unwrap();
                assert_eq!(output.status.code(), Some(1), "{output:?}");
                let said = String::from_utf8(output.stdout).unwrap();
                let told = said.starts_with("changed: b\n  vm b: labels: ") && said.ends_with("\nunchanged: 2\n");
                assert!(told && said.lines().count() == 3, "{said}");
                String::from_utf8(output.stderr).unwrap()
            }
            How::Signal => {
                around.hang_up();
                around.bed.vonicd.log().split_off(logged)
            }
        };
        assert!(said.contains(&named), "{named} is not in\n{said}");
        assert!(around.bed.vonicd.log()[logged..].contains(&named), "{named} is not in the log");
        assert_eq!(around.bed.vonicd.vm("b").unwrap()["labels"]["line"], format!("{line_number}{}", words.len()));
        line.exchange(&mut a).with_context(|| text.clone()).unwrap();
        around.line.exchange(&mut around.z).unwrap();
        assert_eq!(around.bed.vonicd.vm("a").unwrap()["mtu"], 1500);
    }
    around.write("a", &vm(2, "mtu = 1400"));
    around.reload(how);
    is_hung_up(a.mock.raw());
    around.bed.vonicd.stop().unwrap();
}

#[test]
fn a_bad_file_changes_nothing_and_is_named_by_the_command() {
    a_bad_file(How::Command);
}

#[test]
fn a_bad_file_changes_nothing_and_is_named_in_the_log() {
    a_bad_file(How::Signal);
}

/// Counters of a VM that goes on and of the whole never go back, whatever is added, changed or removed.
#[test]
fn counters_never_go_back() {
    let mut around = Around::start(TestConfig::default().vm("a", 2, "").vm("b", 3, ""));
    let mut a = around.guest("a", 2);
    let mut b = around.guest("b", 3);
    let ping = frames::ping((mac(2), mac(3)), ip4(2), ip4(3), 1, b"copied from a to b");
    a.mock.send_frame(&Default::default(), &ping).unwrap();
    b.mock.expect_frame("frame of a", seconds(5), |frame| frame == ping).unwrap();
    let copied = around.bed.vonicd.copied("guest_to_guest").unwrap();
    let frames = |around: &Around, vm: &str| around.bed.vonicd.vm(vm).unwrap()["guest_to_host"]["frames"].as_u64();
    let (of_a, of_z) = (frames(&around, "a").unwrap(), frames(&around, "z").unwrap());
    assert!(copied > 0 && of_a >= 2);

    around.write("a", &vm(2, "mtu = 1400"));
    around.remove("b");
    around.reload(How::Command);
    assert!(frames(&around, "a").unwrap() >= of_a);
    around.remove("a");
    around.reload(How::Command);
    assert!(frames(&around, "z").unwrap() > of_z);
    assert!(around.bed.vonicd.copied("guest_to_guest").unwrap() >= copied);
}

/// A real guest's streams, through every kind of reload.
#[test]
fn a_running_stream_is_exact_through_all_of_it() {
    let mut around = Around::start(TestConfig::default().vm("a", 2, "").vm("e", 8, ""));
    let mut e = around.bed.guest("e", 8, Vmm::Uml).unwrap();
    let mut server = around.bed.server().unwrap();
    let stream = format!("vonic-peer both 192.0.2.1:{} 1073741824 5", server.address().port());
    let job = e.spawn(&stream).unwrap();
    let flows = |around: &Around| {
        let rows = around.bed.vonicd.vonic(&["conns", "--vm", "e", "--json"]).unwrap();
        rows[0]["state"] == "ESTABLISHED" && rows[0]["bytes_guest_to_host"].as_u64().unwrap() > 0
    };
    wait_until("the stream", seconds(30), || flows(&around)).unwrap();
    let mut reloads = 0;
    while flows(&around) {
        let how = [How::Command, How::Signal][reloads % 2];
        match reloads % 4 {
            0 => around.write("b", &vm(3, "")),
            1 => around.write("a", &vm(2, &format!("mtu = {}", 1400 + reloads))),
            2 => around.remove("b"),
            _ => around.write("e", &vm(8, &format!("labels = {{ round = \"{reloads}\" }}"))),
        }
        around.reload(how);
        reloads += 1;
        // The log has 200 lines of a kind in ten seconds, and here they are waited for.
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    let done = job.wait(&mut e, seconds(60)).unwrap();
    assert_eq!(done.status, 0, "{}", done.stdout);
    assert!(server.report(seconds(10)).unwrap()["error"].is_null());
    assert!(reloads >= 4, "{reloads} reloads in the stream's time");
    drop(e);
    around.bed.vonicd.stop().unwrap();
}
