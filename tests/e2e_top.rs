//! Does `vonic top` show on a real terminal what guests do while they do it, obey its keys, outlive vonicd, and leave the terminal as it
//! was on every way out?
#![allow(clippy::unwrap_used, reason = "test code")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use vonic_tests::frames::{self, Tcp, ip4, mac};
use vonic_tests::line::Line;
use vonic_tests::mock::{VnetHeader, feature};
use vonic_tests::wire::{Conn, HandGuest};
use vonic_tests::*;

/// The alternate screen (xterm's mode 1049), which whoever takes the terminal leaves again.
const LEAVES: &str = "\x1b[?1049l";

/// A terminal with `vonic top` in it.
struct Terminal {
    master: File,
    slave: File,
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
    /// All that was written.
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(bed: &Bed, more: &[&str], (rows, columns): (u16, u16)) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let master = File::from(master);
        let socket = bed.directory.path().join("run/api.sock");
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(Vonicd::client().unwrap()).arg("--socket").arg(socket);
        command.args(["top", "--interval", "0.2"]).args(more).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        resize(&master, rows, columns);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave.try_clone().unwrap());
        let child = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to, all) = (master.try_clone().unwrap(), Arc::clone(&screen), Arc::clone(&written));
        // Ends when nobody has the terminal open any more.
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut piece) {
                to.lock().unwrap().process(&piece[..length]);
                all.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Terminal { master, slave, child, screen, written }
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        resize(&self.master, rows, columns);
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    fn picture(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the picture satisfies `wanted`; meanwhile `work` is done.
    fn shows_while(&self, what: &str, mut work: impl FnMut(), wanted: impl Fn(&str) -> bool) {
        let shown = wait_until(what, seconds(20), || {
            work();
            wanted(&self.picture())
        });
        shown.with_context(|| format!("the screen:\n{}", self.picture())).unwrap();
    }

    fn shows(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        self.shows_while(what, || (), wanted);
    }

    /// Waits for the end, and that the terminal is as it was: lines and echo, the first screen, the cursor.
    fn ends(&mut self) -> ExitStatus {
        let status = wait_for("the end of vonic top", seconds(20), || Ok(self.child.try_wait()?)).unwrap();
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG), "{modes:?}");
        wait_until("the first screen", seconds(5), || {
            let screen = self.screen.lock().unwrap();
            !screen.screen().alternate_screen() && !screen.screen().hide_cursor()
        })
        .unwrap();
        assert!(String::from_utf8_lossy(&self.written.lock().unwrap()).contains(LEAVES));
        status
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn resize(terminal: &File, ws_row: u16, ws_col: u16) {
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// The words of the line that begins with `name`.
fn words<'a>(picture: &'a str, name: &str) -> Vec<&'a str> {
    let line = picture.lines().find(|line| line.split_whitespace().next() == Some(name));
    line.map(|line| line.split_whitespace().collect()).unwrap_or_default()
}

/// Whether a picture, which may be half drawn, has all of these.
fn has(picture: &str, texts: &[&str]) -> bool {
    texts.iter().all(|text| picture.contains(text))
}

fn config() -> TestConfig {
    TestConfig::default().vm("busy", 2, "").vm("spare", 3, "")
}

/// Frames to the gateway, which answers, and one with somebody else's address.
fn traffic(guest: &mut HandGuest) {
    let gateway = guest.mock.gateway_answers(2).unwrap();
    let spoofed = frames::ping((mac(2), gateway), ip4(9), ip4(1), 1, b"not mine");
    guest.mock.send_frame(&VnetHeader::default(), &spoofed).unwrap();
}

/// The guest tells vonic that it has sent so many frames, as its agent does.
fn say(guest: &mut HandGuest, frames: u64) {
    let counted = |frames: u64| json!({ "packets": frames, "bytes": 988 * frames, "errors": 0, "dropped": 0 });
    let interface =
        json!({ "name": "eth0", "mac": "52:54:00:00:00:02", "received": counted(frames / 2), "sent": counted(frames) });
    let message = json!({
        "version": 2, "agent": "9.9", "hostname": "by-hand", "kernel": "6.99", "uptime_seconds": 9, "interfaces": [interface],
        "tcp": { "established": 1, "segments_sent": frames, "retransmitted": frames / 100 },
        "memory": { "total": 2u64 << 30, "available": 1u64 << 30 },
    });
    let message = message.to_string();
    let length = message.len();
    let request = format!("POST /v1/stats HTTP/1.1\r\nhost: vonic\r\ncontent-length: {length}\r\n\r\n{message}");
    let port = 5000 + u16::try_from(frames / 1000).unwrap();
    let mut conn = Conn::new(Ipv4Addr::new(169, 254, 169, 254), (port, 80)).open(guest).unwrap();
    conn.send(guest, Tcp::PSH, request.as_bytes()).unwrap();
    let is_thanked = |segment: &Tcp| segment.text.starts_with(b"HTTP/1.1 20");
    conn.expect_such(guest, "thanks", is_thanked).unwrap();
}

/// A picture's words with one blank between each two.
fn single_blanks(picture: &str) -> String {
    picture.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_screen_follows_the_guests_and_obeys_keys() {
    let bed = Bed::start(&config()).unwrap();
    let mut guest = HandGuest::start(&bed, "busy", 2, feature::ALL).unwrap();
    let mut line = Line::guest_opens(&mut guest, 4000).unwrap();
    let mut top = Terminal::start(&bed, &[], (24, 80));
    // Name, state, bits and frames that it sends and receives, drops, connections.
    let has_rates = |picture: &str| {
        let (busy, spare) = (words(picture, "busy"), words(picture, "spare"));
        let moves = busy.len() > 7 && !["-", "0"].iter().any(|none| busy[2..7].contains(none));
        let rests = spare.get(1..8) == Some(&["waiting", "0", "0", "0", "0", "0", "0"]);
        moves && rests && (busy[1], busy[7]) == ("running", "1") && has(picture, &["2 VMs, 1 running", "sort: traffic"])
    };
    top.shows_while("rates", || traffic(&mut guest), has_rates);

    top.press("s");
    top.shows("another order", |picture| has(picture, &["sort: name"]));
    top.press("/spare\r");
    top.shows("the filter", |picture| words(picture, "busy").is_empty() && has(picture, &["'spare'"]));
    top.press("\x1b");
    top.shows("all VMs", |picture| !words(picture, "busy").is_empty());

    top.press("\r");
    line.exchange(&mut guest).unwrap();
    let device = ["52:54:00:00:00:02 192.0.2.2", "features ", "ring 0", "host to guest 256: running", "deaths 0"];
    let page = |page: &str| has(page, &device) && has(page, &["spoofed address"]);
    top.shows_while("its page", || traffic(&mut guest), page);
    top.resize(60, 100);
    top.shows("all of it", |page| has(page, &["guest agent", "192.0.2.2:4000", "ESTABLISHED"]));
    say(&mut guest, 1000);
    top.shows("what the guest says", |page| has(page, &["964 KiB in all"]));
    say(&mut guest, 5000);
    let words = ["guest agent 9.9", "guest hostname by-hand", "guest memory 1.0 GiB of 2.0 GiB available"];
    let rates = ["4.7 MiB in all", "segments/s"];
    top.shows("its rates", |page| has(&single_blanks(page), &words) && has(page, &rates));
    top.resize(24, 20);
    top.shows("that this is too small", |picture| has(picture, &["small"]));
    top.resize(24, 80);
    top.press("\x1b");
    top.shows("the list", |picture| has(picture, &["sort: name"]));
    top.press("?");
    top.shows("help", |picture| has(picture, &["bits per second on the VM's NIC"]));
    top.press("q");
    assert!(top.ends().success());
}

#[test]
fn a_screen_outlives_vonicd() {
    let mut bed = Bed::start(&config()).unwrap();
    let guest = HandGuest::start(&bed, "busy", 2, feature::ALL).unwrap();
    let top = &mut Terminal::start(&bed, &[], (24, 80));
    top.shows("the guest", |picture| words(picture, "busy").get(1) == Some(&"running"));
    bed.vonicd.kill();
    drop(guest);
    let silent = |picture: &str| {
        has(picture, &["no answer for", "vonicd is not running"]) && words(picture, "busy").get(1) == Some(&"running")
    };
    top.shows("that nobody answers", silent);
    bed.vonicd = Vonicd::start(&bed.directory, &config()).unwrap();
    let back = |picture: &str| !picture.contains("no answer for") && words(picture, "busy").get(1) == Some(&"waiting");
    top.shows("the next vonicd", back);
    // By a signal, too, the terminal is given back.
    let own = top.child.id();
    let status = Command::new("kill").args(["-TERM", &own.to_string()]).status().unwrap();
    assert!(status.success() && top.ends().success());
}

#[test]
fn without_a_terminal_there_are_figures() {
    let bed = Bed::start(&config()).unwrap();
    let output = bed.vonicd.vonic_output(&["top"]).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("no terminal: use vonic top --once") && error.contains("vonic stats --json"), "{error}");

    let mut guest = HandGuest::start(&bed, "busy", 2, feature::ALL).unwrap();
    let once = std::thread::scope(|scope| {
        let figures = scope.spawn(|| bed.vonicd.vonic(&["top", "--once", "--interval", "1", "--json"]).unwrap());
        while !figures.is_finished() {
            traffic(&mut guest);
        }
        figures.join().unwrap()
    });
    let busy = &once["vms"]["busy"];
    let rate = |way: &str, what: &str| busy[way][what].as_f64().unwrap();
    for way in ["guest_to_host", "host_to_guest"] {
        // Of 60 bytes or less each, at most as many as the smallest frames.
        let (frames, bits) = (rate(way, "frames_per_second"), rate(way, "bits_per_second"));
        assert!(frames > 1.0 && bits > 300.0 * frames && bits < 800.0 * frames, "{once}");
    }
    assert!(busy["drops_per_second"].as_f64().unwrap() > 0.5 && once["seconds"].as_f64().unwrap() >= 1.0, "{once}");
    assert_eq!((&busy["state"], &busy["agent"]), (&Value::from("running"), &Value::Null));
    let table = bed.vonicd.vonic_text(&["top", "--once", "--interval", "0.1"]).unwrap();
    assert_eq!(words(&table, "spare"), ["spare", "waiting", "0", "0", "0", "0", "0", "0", "-"], "{table}");
}
