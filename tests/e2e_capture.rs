//! Does `vonic capture` show what a guest has sent and was given, each frame once and whole, and does it cost nobody but itself?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vonic_tests::capture::{self, Capture, Pcapng};
use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::lan;
use vonic_tests::line::Line;
use vonic_tests::mock::{GUEST_TO_HOST, MockConfig, MockFrontend, VnetHeader, feature};
use vonic_tests::wire::{HandGuest, metric, ramp};
use vonic_tests::*;

/// In epb_flags.
const NOT_READY: u32 = 1 << 9;
const SEGMENTS: u32 = 1 << 11;

fn two() -> TestConfig {
    let config = TestConfig { service: "workers = 2".into(), ..TestConfig::default() };
    config.vm("a", 2, "").vm("b", 3, "")
}

fn ping(from: u8, to: u8, sequence: u16, len: usize) -> Vec<u8> {
    frames::ping((mac(from), mac(to)), ip4(from), ip4(to), sequence, &ramp(len))
}

fn send(mock: &mut MockFrontend, frame: &[u8]) {
    mock.send_frame(&VnetHeader::default(), frame).unwrap();
}

fn heard(mock: &mut MockFrontend, wanted: &[u8]) {
    mock.expect_frame("the frame", seconds(10), |frame| frame == wanted).unwrap();
}

/// A TCP frame of a's for b that b's device is to cut, as a driver sends it.
fn large(len: usize) -> (VnetHeader, Vec<u8>) {
    let tcp = Tcp { ports: (1000, 7), flags: Tcp::ACK, window: 500, text: ramp(len), ..Tcp::default() };
    let mut frame = tcp.frame((mac(2), mac(3)), ip4(2), ip4(3));
    let sum = !frames::checksum(&frames::pseudo_header(ip4(2), ip4(3), 6, frame.len() - 34));
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    let header = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: VnetHeader::TCPV4,
        gso_size: 1400,
        header_length: 54,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    };
    (header, frame)
}

/// What tcpdump makes of a file: lines, one for each frame.
fn tcpdump(path: &std::path::Path) -> Vec<String> {
    let output = Command::new("tcpdump").args(["-nn", "-r"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_string).collect()
}

/// Between guests on two workers, one of which is captured or both; large frames, services, terminated TCP, and what is dropped.
#[test]
fn frames_are_seen_both_ways_whoever_they_are_for() {
    let bed = Bed::start(&two()).unwrap();
    let mut a = HandGuest::start(&bed, "a", 2, feature::ALL).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    assert_ne!(bed.vonicd.vm("a").unwrap()["worker"], bed.vonicd.vm("b").unwrap()["worker"]);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let began = now();
    let of_a = Capture::start(&bed, "a", "a.pcapng", &[]).unwrap();
    let (mut out, mut given) = (Vec::new(), Vec::new());
    // Only a is watched, then b, too.
    for sequence in 0..3 {
        let (there, back) = (ping(2, 3, sequence, 900), ping(3, 2, sequence, 1400));
        send(&mut a.mock, &there);
        heard(&mut b, &there);
        send(&mut b, &back);
        heard(&mut a.mock, &back);
        out.push(there);
        given.push(back);
    }
    let of_b = Capture::start(&bed, "b", "b.pcapng", &["--direction", "in"]).unwrap();
    let there = ping(2, 3, 7, 60);
    send(&mut a.mock, &there);
    heard(&mut b, &there);
    out.push(there);
    let (header, frame) = large(20_000);
    a.mock.send_frame(&header, &frame).unwrap();
    heard(&mut b, &frame);
    out.push(frame);
    // The gateway answers.
    let question = frames::arp_request(2, ip4(1));
    send(&mut a.mock, &question);
    let is_answer = |frame: &[u8]| frames::arp_answer(frame, ip4(1)).is_some();
    given.push(a.mock.expect_frame("the answer", seconds(10), is_answer).unwrap().1);
    out.push(question);
    // Not its own address: it goes nowhere, and says why.
    let spoofed = frames::ping((mac(9), mac(3)), ip4(2), ip4(3), 1, &[]);
    send(&mut a.mock, &spoofed);
    out.push(spoofed);
    let before = of_a.wait_frames(out.len() + given.len()).unwrap();
    assert_eq!((before.way(true), before.way(false)), (out.clone(), given), "each frame once, in order");
    // Terminated TCP: the same bytes that the test's ends exchange.
    Line::guest_opens(&mut a, 4000).unwrap().exchange(&mut a).unwrap();
    let texts = |file: &Pcapng| [true, false].map(|outbound| text(file, outbound).len());
    wait_until("the last segments", seconds(10), || texts(&of_a.read().unwrap()) == [3 * 1400 + 11, 9001]).unwrap();
    let (said, file) = of_a.interrupt().unwrap();
    assert!(said.contains(&format!("{} frames", file.frames.len())), "{said}");

    assert_eq!((file.name.as_str(), &file.mac[..]), ("a", &mac(2)[..]));
    assert_eq!((file.lost(), file.frames.iter().all(|frame| frame.length as usize == frame.bytes.len())), (0, true));
    let times: Vec<u64> = file.frames.iter().map(|frame| frame.at).collect();
    assert!(times.is_sorted() && times[0] + 1_000_000 > began && *times.last().unwrap() <= now() + 1_000_000);
    let marked =
        |file: &Pcapng| file.frames.iter().filter(|frame| frame.flags & SEGMENTS != 0).cloned().collect::<Vec<_>>();
    // vonic gives the host's text to a in large frames, too.
    let all = marked(&file);
    let [gso] = all.iter().filter(|frame| frame.outbound).collect::<Vec<_>>()[..] else { panic!("one: {all:?}") };
    assert_eq!(
        (gso.flags & NOT_READY, &gso.comments[..]),
        (NOT_READY, &["GSO TCP over IPv4, segment size 1400, checksum partial".to_string()][..])
    );
    let dropped: Vec<_> = file.frames.iter().filter(|f| f.comments.iter().any(|c| c.starts_with("dropped"))).collect();
    assert_eq!((dropped.len(), &dropped[0].comments[..]), (1, &["dropped: spoofed_mac".to_string()][..]));
    // Whoever reads such files finds as many frames.
    let path = bed.directory.path().join("a.pcapng");
    let lines = tcpdump(&path);
    assert_eq!(lines.iter().filter(|line| line.contains(" IP ") || line.contains(" ARP, ")).count(), file.frames.len());

    let (_, file) = of_b.interrupt().unwrap();
    assert_eq!(file.way(false), out[3..6], "from the other worker, as b got them: a's question was for everybody");
    assert!(file.way(true).is_empty() && marked(&file).len() == 1, "one direction was asked for");
    let copied = bed.vonicd.vm("b").unwrap()["copied_bytes"]["capture"].as_u64().unwrap();
    assert_eq!(copied, out[3..6].iter().map(|frame| frame.len() as u64).sum::<u64>());
    latency(&bed);
}

/// The text of a's terminated connection, one way; what was sent again is there once.
fn text(file: &Pcapng, outbound: bool) -> Vec<u8> {
    let segments = file.frames.iter().filter(|frame| frame.outbound == outbound).filter_map(|f| Tcp::parse(&f.bytes));
    let of = |tcp: &Tcp| if outbound { tcp.ports.0 } else { tcp.ports.1 };
    let (mut text, mut first) = (Vec::new(), None);
    for tcp in segments.filter(|tcp| of(tcp) == 4000 && !tcp.text.is_empty()) {
        let at = tcp.sequence.wrapping_sub(*first.get_or_insert(tcp.sequence)) as usize;
        text.resize(text.len().max(at + tcp.text.len()), 0);
        text[at..at + tcp.text.len()].copy_from_slice(&tcp.text);
    }
    text
}

/// How long vonic has had what a guest sent is told for every buffer, and by an engine's successor, too.
fn latency(bed: &Bed) {
    let frames = |bed: &Bed| bed.vonicd.stats().unwrap()["vms"]["a"]["guest_to_host"]["frames"].as_u64().unwrap();
    let told = |bed: &Bed| bed.vonicd.vm("a").unwrap()["latency_us"].clone();
    wait_until("the counts", seconds(5), || told(bed)["count"].as_u64() == Some(frames(bed))).unwrap();
    let before = told(bed);
    assert!(before["p50"].as_u64() <= before["p99"].as_u64() && before["p50"].is_u64(), "{before}");
    let stream = std::os::unix::net::UnixStream::connect(bed.socket("api")).unwrap();
    let metrics = wire::ask(stream, "GET", "/v1/metrics").unwrap();
    assert_eq!(metric(&metrics, "vonic_vm_latency_seconds_count{vm=\"a\"}"), before["count"].as_u64());
    kill_engine(bed);
    assert_eq!(told(bed), before);
}

fn kill_engine(bed: &Bed) {
    let engine = bed.vonicd.engine().unwrap();
    assert!(Command::new("kill").args(["-9", &engine.to_string()]).status().unwrap().success());
    let next = || {
        bed.vonicd.vonic(&["engine", "status", "--json"]).is_ok_and(|now| now["pid"] != engine && now["deaths"] == 1)
    };
    wait_until("the next engine", seconds(20), next).unwrap();
}

/// A question to a machine beyond the uplink, and its answer, by a tap and by a packet socket.
fn uplink((bed, hosts): (Bed, [lan::Host; 2])) {
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let capture = Capture::start(&bed, "a", "a.pcapng", &["--filter", "arp and host 192.0.2.10"]).unwrap();
    lan::wait_reaches(&mut a, 2, &hosts[0]).unwrap();
    let answers =
        |file: &Pcapng| file.way(false).iter().any(|frame| frames::arp_answer(frame, ip4(10)) == Some(mac(10)));
    wait_until("the answer", seconds(10), || answers(&capture.read().unwrap())).unwrap();
    let (_, file) = capture.interrupt().unwrap();
    assert_eq!(file.way(true)[0], frames::arp_request(2, ip4(10)));
}

#[test]
fn frames_of_a_tap_are_seen() {
    uplink(lan::start(1500, "", "").unwrap());
}

#[test]
fn frames_of_a_packet_socket_are_seen() {
    uplink(lan::start_at_nic(1500, "", "").unwrap());
}

#[test]
fn filters_and_limits_say_what_is_in_the_file() {
    let bed = Bed::start(&two()).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let mut exchange = |count: u16| {
        for sequence in 0..count {
            for frame in [
                ping(2, 3, sequence, 400),
                frames::udp((mac(2), mac(3)), ip4(2), ip4(3), (1000, 53), &ramp(40)),
                frames::arp_request(2, ip4(3)),
            ] {
                send(&mut a, &frame);
                heard(&mut b, &frame);
            }
        }
    };
    let names =
        Capture::start(&bed, "b", "names", &["--filter", "udp port 53 and src host 192.0.2.2", "--frames", "3"])
            .unwrap();
    let heads = Capture::start(&bed, "a", "heads", &["-f", "not (arp or port 53)", "--snaplen", "42"]).unwrap();
    let short =
        Capture::start(&bed, "a", "short", &["--direction", "guest-to-host", "--bytes", "2000", "--json"]).unwrap();
    let brief = Capture::start(&bed, "a", "brief", &["--seconds", "1"]).unwrap();
    exchange(5);
    let (code, said, file) = names.wait().unwrap();
    assert_eq!((code, file.frames.len()), (0, 3), "{said}");
    assert!(file.frames.iter().all(|frame| frame.bytes[23] == 17 && !frame.outbound));
    let (counts, why) = file.counted.unwrap();
    assert_eq!((counts[1], counts[3], why.as_deref()), (0, 3, Some("it has 3 frames")));
    let file = heads.wait_frames(5).unwrap();
    let pings: Vec<_> = (0..5).map(|sequence| ping(2, 3, sequence, 400)).collect();
    let expected: Vec<_> = pings.iter().map(|frame| (&frame[..42], frame.len() as u32)).collect();
    assert_eq!(file.frames.iter().map(|frame| (&frame.bytes[..], frame.length)).collect::<Vec<_>>(), expected);
    drop(heads);
    let (code, said, file) = short.wait().unwrap();
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &told["frames"]), (0, &serde_json::json!(file.frames.len())));
    assert!(file.frames.len() > 2 && told["bytes"].as_u64().unwrap() <= 2000 + 120, "{told}");
    let (code, said, file) = brief.wait().unwrap();
    assert_eq!((code, file.frames.len()), (0, 15), "{said}");
    refusals(&bed);
}

fn refusals(bed: &Bed) {
    let refused = |vm: &str, arguments: &[&str]| {
        let output = bed.vonicd.vonic_output(&[&["capture", vm, "-w", "/proc/none"], arguments].concat()).unwrap();
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused("nobody", &[]).contains("there is no VM 'nobody'"));
    assert!(refused("a", &[]).contains("/proc/none cannot be written"));
    let said = refused("a", &["--filter", "tcp prot 80"]);
    assert!(said.contains("'prot' follows without 'and' or 'or'"), "{said}");
    assert!(refused("a", &["--direction", "up"]).contains("guest-to-host"));
    assert!(refused("a", &["--frames", "0"]).contains("--frames"));
    // Eight at once, and again when one of them has ended.
    let started = |n: usize| Capture::start(bed, "a", &format!("many{n}"), &[]);
    // Those before have gone when the service has seen it.
    let place = |n| wait_for("a place", seconds(10), || Ok(started(n).ok())).unwrap();
    let mut many: Vec<Capture> = (0..8).map(place).collect();
    let said = refused("b", &[]);
    assert!(said.contains("8 captures run already; end one of them"), "{said}");
    drop(many.pop());
    wait_until("room for one more", seconds(10), || started(9).is_ok()).unwrap();
}

/// Frames that go by faster than they are read are lost to the capture, counted, and reach their guest all the same.
#[test]
fn a_slow_client_loses_frames_and_nobody_else_any() {
    let bed = Bed::start(&two()).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig { posted: 64, ..MockConfig::default() }).unwrap();
    let (slow, mut output) = Capture::piped(&bed, "a", "slow", &["--direction", "out"]).unwrap();
    let mut file = vec![0; 1];
    output.read_exact(&mut file).unwrap();
    bed.vonicd.vonic(&["conns", "--json"]).unwrap();
    let (header, frame) = large(60_000);
    let total = 400;
    for at in 0..total {
        a.send_frame(&header, &frame).unwrap();
        let (_, got) = b.receive_frame(seconds(10)).unwrap().with_context(|| format!("frame {at}")).unwrap();
        assert!(got == frame, "frame {at}");
    }
    // The client is there again: what was lost in between is told by the next frame that was not.
    let reader = std::thread::spawn(move || {
        output.read_to_end(&mut file).unwrap();
        file
    });
    let written = |bed: &Bed| bed.vonicd.vm("a").unwrap()["copied_bytes"]["capture"].as_u64().unwrap();
    let before = written(&bed);
    assert!(before < (total as u64 - 50) * frame.len() as u64, "{before} bytes of {total} frames found room");
    let mut more = 0;
    wait_until("room again", seconds(20), || {
        a.send_frame(&header, &frame).unwrap();
        more += 1;
        b.receive_frame(seconds(10)).unwrap().is_some() && written(&bed) > before
    })
    .unwrap();
    // Its VM's end is the capture's.
    fs::remove_file(bed.directory.path().join("etc/vms.d/a.toml")).unwrap();
    bed.vonicd.vonic(&["reload", "--json"]).unwrap();
    let (code, said, _) = slow.wait().unwrap();
    let file = capture::parse(&reader.join().unwrap(), true).unwrap();
    assert!(file.frames.iter().all(|got| got.bytes == frame));
    let (counts, why) = file.counted.clone().unwrap();
    assert_eq!((code, why.as_deref()), (1, Some("the VM is gone, or its NIC is another one now")), "{said}");
    assert!(said.contains("the VM is gone") && said.contains(&format!("{} lost", counts[1])), "{said}");
    assert!(counts[1] > 50 && file.lost() == counts[1], "{counts:?}, {}", file.lost());
    assert_eq!(file.frames.len() as u64 + counts[1], (total + more) as u64, "every frame is there or counted");
}

#[test]
fn a_capture_ends_with_its_engine_and_its_file_is_whole() {
    let bed = Bed::start(&two()).unwrap();
    let mut a = bed.mock("a", MockConfig::default()).unwrap();
    let mut b = bed.mock("b", MockConfig::default()).unwrap();
    let capture = Capture::start(&bed, "a", "a.pcapng", &[]).unwrap();
    for sequence in 0..20 {
        let frame = ping(2, 3, sequence, 700);
        send(&mut a, &frame);
        heard(&mut b, &frame);
    }
    capture.wait_frames(20).unwrap();
    kill_engine(&bed);
    let (code, said, file) = capture.wait().unwrap();
    assert_eq!((code, file.frames.len()), (1, 20), "{said}");
    assert!(said.contains("vonicd's engine has ended; 20 frames") && said.contains("start it again"), "{said}");
    // The next engine's begins anew, when both guests' rings run again.
    wait_until("the next engine's first frame", seconds(10), || {
        send(&mut a, &ping(2, 3, 99, 10));
        b.receive_frame(Duration::from_millis(100)).unwrap().is_some()
    })
    .unwrap();
    while b.receive_frame(Duration::from_millis(50)).unwrap().is_some() {}
    // Frames that find no buffer are shown with their reason.
    let capture = Capture::start(&bed, "b", "b.pcapng", &[]).unwrap();
    let held: Vec<Vec<u8>> = (100..200).map(|sequence| ping(2, 3, sequence, 10)).collect();
    for frame in &held {
        a.queue_frame_on(0, &VnetHeader::default(), frame).unwrap();
    }
    a.notify_on(0).unwrap();
    for _ in &held {
        assert!(a.wait_used(GUEST_TO_HOST, seconds(10)).unwrap().is_some());
    }
    let file = capture.wait_frames(held.len()).unwrap();
    assert_eq!(file.way(false), held);
    let dropped = file.frames.iter().filter(|frame| frame.comments == ["dropped: no_room"]).count() as u64;
    wait_until("the drops", seconds(5), || bed.vonicd.drops("b", "no_room").unwrap() == dropped).unwrap();
    assert!(dropped > 0, "b has posted 64 buffers");
    let (_, file) = capture.interrupt().unwrap();
    assert_eq!(file.frames.len(), held.len());
}
