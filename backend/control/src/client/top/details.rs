//! Everything about one VM, as lines.
use ratatui::style::Style;
use ratatui::text::Line;

use super::app::App;
use super::model::{Model, Service, Vm};
use super::page::{self, Busy, Dropped, Page};
use super::paint::{LABEL, alarm, cell, named, notice, words};
use super::rate::{Flow, bars, short, short_or_dash};
use crate::api::types::{EngineStatus, RingRow, VmDetail};
use crate::client::guest;
use crate::client::layout::{bytes, duration};
use crate::client::view::state;

/// So many reasons for drops, and so many connections.
const DROPS: usize = 12;
const CONNECTIONS: usize = 10;

/// Lines of one width.
struct Lines {
    width: usize,
    lines: Vec<Line<'static>>,
}

impl Lines {
    fn say(&mut self, name: &str, value: &str) {
        self.styled(name, value, Style::new());
    }

    fn styled(&mut self, name: &str, value: &str, style: Style) {
        self.lines.extend(named(name, value, style, self.width));
    }

    fn heading(&mut self, text: String) {
        self.lines.push(Line::raw(""));
        self.lines.push(Line::styled(text, Style::new().bold()));
    }
}

/// The page's lines.
pub(super) fn lines(app: &App, width: usize) -> Vec<Line<'static>> {
    let mut lines = Lines { width, lines: Vec::new() };
    let Some(page) = &app.model.page else { return lines.lines };
    match &page.vm {
        Some(vm) => all(&mut lines, &app.model, page, vm),
        None if page.gone => {
            lines.styled(&page.name, "there is no such VM any more; its page comes back with it", alarm())
        }
        None => lines.say(&page.name, "waiting for vonicd"),
    }
    lines.lines
}

fn all(lines: &mut Lines, model: &Model, page: &Page, vm: &VmDetail) {
    identity(lines, vm);
    if let Some(listed) = model.vms.get(&page.name) {
        traffic(lines, listed);
    }
    device(lines, vm);
    wrong(lines, vm);
    if let Some(service) = &model.service {
        engine(lines, service, &page.name);
    }
    drops(lines, &page.drops);
    connections(lines, &page.connections);
    said_by_guest(lines, page, vm);
}

fn identity(lines: &mut Lines, vm: &VmDetail) {
    let row = &vm.row;
    let style = if row.quarantined { alarm() } else { Style::new() };
    lines.styled(&row.name, state(row), style);
    let addresses: Vec<&str> = [&row.address4, &row.address6].into_iter().flatten().map(String::as_str).collect();
    let addresses = if addresses.is_empty() { "none in its file".to_string() } else { addresses.join(" ") };
    lines.say("addresses", &format!("{} {addresses}", row.mac));
    let by = vm.uplink.interface.iter().map(|name| format!(" by {name}")).collect::<String>();
    lines.say(
        "network",
        &format!("{}, uplink {}{by}, mtu {}, worker {}", row.network, vm.uplink.kind, vm.mtu, vm.worker),
    );
}

fn traffic(lines: &mut Lines, vm: &Vm) {
    let room = lines.width.saturating_sub(LABEL + 22).clamp(4, 60);
    let flow = |flow: Option<Flow>, history: &[Option<f64>]| {
        let (bits, frames) = (short_or_dash(flow.map(|flow| flow.bits)), short_or_dash(flow.map(|flow| flow.frames)));
        format!("{bits:>5}b/s {frames:>5}f/s  {}", bars(history, room))
    };
    // Not to be wrapped at the bars' blanks.
    for (name, text) in [
        ("sends", flow(vm.rates.map(|r| r.guest_to_host), &vm.sent.values())),
        ("receives", flow(vm.rates.map(|r| r.host_to_guest), &vm.received.values())),
    ] {
        lines.lines.extend(named(name, "", Style::new(), lines.width).into_iter().map(|mut line| {
            line.push_span(text.clone());
            line
        }));
    }
}

fn device(lines: &mut Lines, vm: &VmDetail) {
    if vm.features_negotiated.is_empty() {
        lines.say("features", "none yet: the guest's driver has not taken any");
    } else {
        lines.say("features", &vm.features_negotiated.join(" "));
        let not_taken = page::not_taken(vm);
        if !not_taken.is_empty() {
            lines.say("not taken", &not_taken.join(" "));
        }
    }
    for ring in &vm.rings {
        let RingRow { index, direction, size, enabled, state } = ring;
        let well = ["running", "stopped"].contains(&state.as_str());
        let enabled = if *enabled { "" } else { ", disabled" };
        let text = format!("{} {size}{enabled}: {state}", words(direction));
        lines.styled(&format!("ring {index}"), &text, if well { Style::new() } else { alarm() });
    }
    let reached: Vec<String> = page::reached(vm).iter().map(|(name, n)| format!("{} {n}", words(name))).collect();
    if !reached.is_empty() {
        lines.styled("limits reached", &reached.join(", "), notice());
    }
}

fn wrong(lines: &mut Lines, vm: &VmDetail) {
    for error in vm.last_error.iter().chain(&vm.uplink.error) {
        lines.styled("last error", error, alarm());
    }
    for error in &vm.forward_errors {
        lines.styled("not forwarded", error, alarm());
    }
    for warning in &vm.uplink.warnings {
        lines.styled("uplink", warning, notice());
    }
}

fn engine(lines: &mut Lines, service: &Service, name: &str) {
    let Some(engine) = &service.engine else { return };
    let EngineStatus { pid, uptime_seconds, standby, deaths, replaced, last_death, last_takeover, .. } = engine;
    let standby = if *standby { "ready" } else { "none" };
    let up = duration(*uptime_seconds);
    lines.say("engine", &format!("process {pid} up {up}; deaths {deaths}, replaced {replaced}, standby {standby}"));
    let ago = |at: u64| duration(service.time.saturating_sub(at));
    if let Some(takeover) = last_takeover {
        let asked = if takeover.planned { ", as was asked for" } else { "" };
        let took = takeover.microseconds as f64 / 1000.0;
        lines.say("last takeover", &format!("{} ago, in {took:.3} ms{asked}", ago(takeover.at)));
    }
    if let Some(death) = last_death {
        lines.styled("last death", &format!("{} ago: the engine {}", ago(death.at), death.reason), notice());
    }
    if engine.quarantined.iter().any(|vm| vm == name) {
        let text = "engines died of what this guest sends: its rings are left alone until its VMM connects again";
        lines.styled("quarantined", text, alarm());
    }
}

fn drops(lines: &mut Lines, drops: &[Dropped]) {
    if drops.is_empty() {
        lines.say("drops", "none");
        return;
    }
    lines.heading(format!("{:<21} {:<13} {:>12} {:>6}", "DROPPED", "DIRECTION", "FRAMES", "/s"));
    for Dropped { reason, way, frames, rate } in drops.iter().take(DROPS) {
        let (reason, way) = (cell(&words(reason), 21, false), cell(&words(way), 13, false));
        let text = format!("{reason} {way} {frames:>12} {:>6}", short_or_dash(*rate));
        let style = if rate.is_some_and(|rate| rate > 0.0) { notice() } else { Style::new() };
        lines.lines.push(Line::styled(text, style));
    }
}

fn connections(lines: &mut Lines, connections: &[Busy]) {
    let count = connections.len();
    if count == 0 {
        lines.say("connections", "none");
        return;
    }
    // 80 columns: 5 + 21 + 21 + 11 + 6 + 8, with one between each two.
    let title = if count > CONNECTIONS { format!("REMOTE, {CONNECTIONS} OF {count}") } else { "REMOTE".to_string() };
    lines.heading(format!(
        "{:<5} {:<21} {:<23} {:<11} {:>5} {:>8}",
        "PROTO", "GUEST", title, "STATE", "SENDS", "RECEIVES"
    ));
    for Busy { row, sent, received } in connections.iter().take(CONNECTIONS) {
        let [proto, guest] = [cell(&row.protocol, 5, false), cell(&row.guest, 21, false)];
        let [remote, state] = [cell(&row.remote, 23, false), cell(&row.state, 11, false)];
        let (sent, received) = (short_or_dash(*sent), short_or_dash(*received));
        lines.lines.push(Line::raw(format!("{proto} {guest} {remote} {state} {sent:>5} {received:>8}")));
    }
}

/// Each line begins with `guest`: it is the guest's word.
fn said_by_guest(lines: &mut Lines, page: &Page, vm: &VmDetail) {
    lines.lines.push(Line::raw(""));
    let mut said = Vec::new();
    guest::lines(vm.row.agent.as_ref(), vm.guest.as_ref(), &mut |name, value| said.push((name.to_string(), value)));
    for (name, value) in said {
        lines.say(&name, &value);
    }
    let Some(report) = &vm.guest else { return };
    let rates = page.guest.unwrap_or_default();
    let both = report.nic.as_ref().map(|nic| (nic.guest_to_host.guest.bytes, nic.host_to_guest.guest.bytes));
    if let Some((sent, received)) = both {
        for (name, flow, all) in [("guest sends", rates.sent, sent), ("guest receives", rates.received, received)] {
            let rate = flow.map(|flow| format!("{}b/s {}f/s, ", short(flow.bits), short(flow.frames)));
            lines.say(name, &format!("{}{} in all", rate.unwrap_or_default(), bytes(all)));
        }
    }
    if let Some(rate) = rates.retransmitted {
        lines.say("guest sends again", &format!("{} segments/s", short(rate)));
    }
}
