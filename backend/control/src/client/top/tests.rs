//! What the screen shows, letter by letter.
use std::path::Path;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::app::{App, Place, Step};
use super::sample::{PageSample, Sample};
use super::view;
use crate::api::types::{AgentRow, ConnectionRow, EngineStatus, Health, Traffic, VmDetail, VmRow};

const SECOND: Duration = Duration::from_secs(1);

/// Frames and bytes after so many seconds, at rates that rise and fall.
fn grown(rate: u64, seconds: u64) -> Traffic {
    let frames = (0..seconds).map(|second| rate * (4 + second * 7 % 5) / 6).sum();
    Traffic { frames, bytes: 1460 * frames }
}

fn vm(name: &str, number: u8, rate: u64, seconds: u64) -> VmRow {
    VmRow {
        name: name.into(),
        mac: format!("52:54:00:00:00:{number:02x}"),
        network: "default".into(),
        address4: Some(format!("192.0.2.{number}")),
        connected: rate > 0,
        driver_ready: rate > 0,
        guest_to_host: grown(rate, seconds),
        host_to_guest: grown(3 * rate / 2, seconds),
        connections: rate / 100,
        ..VmRow::default()
    }
}

/// The VMs after so many seconds.
fn rows(seconds: u64) -> Vec<VmRow> {
    let agent = |silent| Some(AgentRow { version: "0.1.0".into(), seen_seconds: 1, silent });
    let quarantined = VmRow { quarantined: true, connected: true, ..vm("probe", 5, 0, seconds) };
    vec![
        VmRow { agent: agent(false), ..vm("web1", 2, 41_000, seconds) },
        VmRow { agent: agent(true), drops: 12 + 3 * seconds, ..vm("db", 3, 7_300, seconds) },
        vm("build-worker-12", 4, 120, seconds),
        quarantined,
        vm("spare", 6, 0, seconds),
    ]
}

/// web1 after so many seconds, as the API says it.
fn web1(seconds: u64) -> VmDetail {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(String::from).collect() };
    let count = |rate: u64| json!({ "frames": rate * seconds, "bytes": 1460 * rate * seconds });
    let direction = |rate: u64| json!({ "host": count(rate), "guest": count(rate) });
    let guest = json!({
        "source": "guest", "message_version": 2, "hostname": "web1", "kernel": "6.12.1", "uptime_seconds": 86_400 + seconds,
        "nic": { "interface": "eth0", "guest_to_host": direction(40_000), "host_to_guest": direction(60_000) },
        "interfaces": [],
        "tcp": { "established": 410, "segments_sent": 41_000 * seconds, "retransmitted": 5 * seconds },
        "memory": { "total": 2_147_483_648u64, "available": 1_395_864_371 },
    });
    let ring = |index: u16, direction: &str| json!({ "index": index, "direction": direction, "size": 256, "enabled": true, "state": "running" });
    let mut detail: VmDetail = serde_json::from_value(json!({
        "name": "", "mac": "", "network": "", "address4": null, "connected": true, "driver_ready": true,
        "guest_to_host": { "frames": 0, "bytes": 0 }, "host_to_guest": { "frames": 0, "bytes": 0 }, "drops": 0, "connections": 0,
        "mtu": 1500, "socket": "/run/vonic/web1.sock", "socket_mode": "server", "labels": {},
        "features_offered": words("csum guest_csum tso guest_tso ecn mrg_rxbuf event_idx indirect in_order mtu status mac version_1"),
        "features_negotiated": words("csum guest_csum tso guest_tso mrg_rxbuf event_idx indirect mtu status mac version_1"),
        "rings": [ring(0, "host_to_guest"), ring(1, "guest_to_host")],
        "drops_by_reason": {
            "spoofed_address": { "guest_to_host": 4, "host_to_guest": 0 },
            "no_room": { "guest_to_host": 0, "host_to_guest": 2 * seconds },
        },
        "copied_bytes": {}, "forwards": [], "last_error": null, "tcp": {},
        "uplink": { "kind": "sockets", "interface": null, "error": null },
        "guest": guest,
    }))
    .unwrap();
    detail.row = rows(seconds).remove(0);
    detail
}

fn connections(seconds: u64) -> Vec<ConnectionRow> {
    let row = |port: u16, remote: &str, rate: u64| {
        let value = json!({
            "vm": "web1", "protocol": "tcp", "direction": "world_opens", "guest": format!("192.0.2.2:{port}"),
            "remote": remote, "state": "ESTABLISHED", "age_seconds": 100 + seconds,
            "bytes_guest_to_host": 20 * rate * seconds, "bytes_host_to_guest": rate * seconds,
        });
        serde_json::from_value(value).unwrap()
    };
    vec![
        row(22, "203.0.113.9:51022", 40),
        row(443, "198.51.100.7:40022", 2_500_000),
        row(443, "[2001:db8::7]:1024", 90_000),
    ]
}

fn sample(begin: Instant, seconds: u64, page: Option<&str>) -> Box<Sample> {
    let vms = rows(seconds);
    let health = Health {
        status: "ok".into(),
        version: "0.1.0".into(),
        uptime_seconds: 7_384 + seconds,
        vms: vms.len(),
        vms_connected: 3,
        hints: Vec::new(),
        problems: Vec::new(),
    };
    let engine = EngineStatus {
        pid: 2203,
        version: "0.1.0".into(),
        uptime_seconds: 7_000 + seconds,
        standby: true,
        quarantined: vec!["probe".into()],
        ..EngineStatus::default()
    };
    let page = page.map(|name| PageSample {
        name: name.into(),
        vm: (name == "web1").then(|| Box::new(web1(seconds))),
        connections: connections(seconds),
    });
    let at = begin + u32::try_from(seconds).unwrap() * SECOND;
    Box::new(Sample { at, time: 1_700_000_000 + seconds, vms, health, engine: Some(engine), page })
}

/// After a minute of it.
fn shown() -> App {
    let (mut app, begin) = (App::new(SECOND), Instant::now());
    (0..60).for_each(|second| app.take(Ok(sample(begin, second, None))));
    app
}

fn screen(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string();
    (0..height).map(row).collect()
}

fn press(app: &mut App, code: KeyCode) -> Step {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn write(app: &mut App, text: &str) {
    for c in text.chars() {
        assert_eq!(press(app, KeyCode::Char(c)), Step::Draw);
    }
}

fn names(app: &App) -> Vec<&str> {
    app.rows().iter().map(|vm| vm.row.name.as_str()).collect()
}

/// The picture in the documentation is what is drawn. `VONIC_WRITE_DOCS=1` writes it anew.
fn is_documented(name: &str, screen: &[String]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let text = screen.join("\n") + "\n";
    if std::env::var_os("VONIC_WRITE_DOCS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(kept, text, "VONIC_WRITE_DOCS=1 writes {} anew", file.display());
}

#[test]
fn the_list_is_as_documented() {
    is_documented("top-list.txt", &screen(&mut shown(), 80, 24));
}

#[test]
fn a_vms_page_is_as_documented() {
    let (mut app, begin) = (App::new(SECOND), Instant::now());
    (0..50).for_each(|second| app.take(Ok(sample(begin, second, None))));
    assert_eq!(press(&mut app, KeyCode::Enter), Step::Look(Some("web1".into())));
    (50..60).for_each(|second| app.take(Ok(sample(begin, second, Some("web1")))));
    is_documented("top-vm.txt", &screen(&mut app, 80, 40));
    // In 80x24 the rest is below.
    let top = screen(&mut app, 80, 24);
    assert!(top[22].starts_with("more:"), "{top:#?}");
    assert_eq!(press(&mut app, KeyCode::End), Step::Draw);
    let bottom = screen(&mut app, 80, 24);
    assert!(bottom.iter().any(|line| line.starts_with("guest memory ")), "{bottom:#?}");
    assert!(bottom.iter().all(|line| !line.starts_with("more:")));
    // Each line of it is seen by page down.
    let all = screen(&mut app, 80, 60);
    press(&mut app, KeyCode::Home);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.extend(screen(&mut app, 80, 24));
        press(&mut app, KeyCode::PageDown);
    }
    assert!(all[..59].iter().all(|line| seen.contains(line)));
    assert_eq!(press(&mut app, KeyCode::Esc), Step::Look(None));
    assert_eq!((app.place, app.selected.as_deref()), (Place::List, Some("web1")));
}

#[test]
fn every_size_has_its_picture() {
    let mut app = shown();
    let narrow = screen(&mut app, 40, 24);
    assert!(narrow[3].starts_with("NAME ") && narrow[3].ends_with(" STATE        SENDS RECEIVES"), "{narrow:#?}");
    assert!(!narrow[3].contains("HISTORY"));
    let wide = screen(&mut app, 160, 24);
    assert!(wide[3].contains("HISTORY") && wide.iter().any(|line| line.starts_with("build-worker-12 ")), "{wide:#?}");
    for (width, height) in [(20, 3), (8, 24), (1, 1)] {
        let small = screen(&mut app, width, height).join(" ");
        assert!(small.contains(&format!("{width}x{height}")[..usize::from(width).min(4)]), "{small}");
    }
    for (place, height) in [(Place::List, 6), (Place::Help, 6), (Place::Page, 7), (Place::Page, 100)] {
        app.place = place;
        screen(&mut app, 28, height);
    }
}

#[test]
fn order_filter_and_cursor() {
    let mut app = shown();
    assert_eq!(names(&app), ["web1", "db", "build-worker-12", "probe", "spare"]);
    write(&mut app, "s");
    assert_eq!(names(&app), ["build-worker-12", "db", "probe", "spare", "web1"]);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.selected.as_deref(), Some("db"));
    write(&mut app, "r");
    assert_eq!(names(&app), ["web1", "spare", "probe", "db", "build-worker-12"]);
    assert_eq!(app.cursor(&app.rows()), 3, "the cursor stays with its VM");
    write(&mut app, "rsssS");
    assert_eq!((app.sort.name(), names(&app)[0]), ("receives", "web1"));
    write(&mut app, "s");
    assert_eq!((app.sort.name(), names(&app)[0]), ("drops", "db"));
    write(&mut app, "ss");

    write(&mut app, "/WEBq");
    assert!(names(&app).is_empty() && screen(&mut app, 80, 24)[23].starts_with("filter: WEBq"));
    press(&mut app, KeyCode::Backspace);
    press(&mut app, KeyCode::Enter);
    assert_eq!(names(&app), ["web1"]);
    press(&mut app, KeyCode::Esc);
    write(&mut app, "/quarantined");
    assert_eq!(names(&app), ["probe"]);
    press(&mut app, KeyCode::Esc);
    assert!(!app.typing && names(&app).len() == 5);
    write(&mut app, "/192.0.2.3");
    press(&mut app, KeyCode::Enter);
    assert_eq!(names(&app), ["db"]);

    assert_eq!(press(&mut app, KeyCode::Char('q')), Step::Quit);
    assert_eq!(app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Quit);
}

#[test]
fn a_long_list_scrolls_with_the_cursor() {
    let (mut app, begin) = (App::new(SECOND), Instant::now());
    let mut many = sample(begin, 1, None);
    many.vms = (0..100).map(|n| VmRow { name: format!("vm{n:02}"), ..VmRow::default() }).collect();
    app.take(Ok(many));
    let first = |app: &mut App| screen(app, 80, 24)[4].clone();
    assert!(first(&mut app).starts_with("vm00 "));
    press(&mut app, KeyCode::PageDown);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.selected.as_deref(), Some("vm20"));
    assert!(first(&mut app).starts_with("vm02 "), "{}", first(&mut app));
    press(&mut app, KeyCode::End);
    assert!(screen(&mut app, 80, 24)[22].starts_with("vm99 "));
    press(&mut app, KeyCode::Home);
    assert!(first(&mut app).starts_with("vm00 "));
}

#[test]
fn pause_silence_and_return() {
    let (mut app, begin) = (App::new(SECOND), Instant::now());
    assert!(screen(&mut app, 80, 24)[1].contains("waiting for vonicd"));
    app.take(Err("vonicd is not running: nothing answers at /run/vonic/api.sock".into()));
    assert!(screen(&mut app, 80, 24)[2].starts_with("vonicd is not running"));
    app.take(Ok(sample(begin, 0, None)));
    app.take(Ok(sample(begin, 1, None)));
    let at_first = screen(&mut app, 80, 24);
    write(&mut app, "p");
    app.take(Ok(sample(begin, 9, None)));
    let paused = screen(&mut app, 80, 24);
    assert!(paused[2].starts_with("paused") && paused[4..20] == at_first[4..20]);
    write(&mut app, "p");
    app.take(Err("vonicd is not running".into()));
    let silent = screen(&mut app, 80, 24);
    assert!(silent[2].starts_with("no answer for 0s, this is from before: vonicd is not running"), "{}", silent[2]);
    assert_eq!(silent[4..20], at_first[4..20]);
    app.take(Ok(sample(begin, 10, None)));
    assert_eq!(screen(&mut app, 80, 24)[2], "");
}

#[test]
fn help_leads_back_to_where_it_was_asked_for() {
    let (mut app, begin) = (shown(), Instant::now());
    write(&mut app, "?");
    let help = screen(&mut app, 80, 24);
    assert!(help[3].starts_with("up, down"), "{help:#?}");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.place, Place::List);
    press(&mut app, KeyCode::Enter);
    app.take(Ok(sample(begin, 70, Some("nobody"))));
    assert!(screen(&mut app, 80, 24)[3].contains("waiting"), "another VM's");
    write(&mut app, "?");
    press(&mut app, KeyCode::Esc);
    assert_eq!(app.place, Place::Page);
    // It was removed.
    app.model.open("gone");
    app.take(Ok(sample(begin, 71, Some("gone"))));
    assert!(screen(&mut app, 80, 24)[3].contains("no such VM any more"));
}

#[test]
fn what_guests_say_moves_no_cursor() {
    let (mut app, begin) = (shown(), Instant::now());
    press(&mut app, KeyCode::Enter);
    let evil = "\x1b[2J\x1b]0;x\x07\u{9b}2J\r\n\u{202e}";
    let mut seen = sample(begin, 61, Some("web1"));
    let page = seen.page.as_mut().unwrap();
    let detail = page.vm.as_mut().unwrap();
    let guest = detail.guest.as_mut().unwrap();
    (guest.hostname, guest.kernel) = (evil.into(), evil.into());
    detail.row.agent = Some(AgentRow { version: evil.into(), ..AgentRow::default() });
    page.connections[0].state = evil.into();
    seen.vms[0].agent = detail.row.agent.clone();
    app.take(Ok(seen));
    let harmful = |c: char| c.is_control() || c == '\u{202e}';
    for place in [Place::Page, Place::List] {
        app.place = place;
        let picture = screen(&mut app, 80, 60).concat();
        assert!(picture.contains("?[2J") || place == Place::List, "{picture}");
        assert!(!picture.contains(harmful));
    }
}
