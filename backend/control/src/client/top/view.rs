//! The screen: the service in three lines, what is looked at, and the keys.
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::app::{App, Place};
use super::model::Service;
use super::paint::{alarm, notice, plain};
use super::rate::short;
use super::{details, list};
use crate::client::layout::duration;

/// Lines above what is looked at: the service, all VMs together, what is wrong.
const ABOVE: u16 = 3;
/// The fewest lines that make sense: those above, headings, a VM, the keys.
const LOWEST: u16 = ABOVE + 3;

const HELP: &str = "\
up, down, k, j       the VM above, below; also page up and down, home and end
enter                everything about the VM; escape leads back
s, S                 sort by the next, the previous; the list's heading is underlined
r                    the other way round
/                    show only VMs with these letters in name, state, network or address;
                     enter keeps the filter, escape takes it away
p, space             stand still, and go on
q, control-C         quit

SENDS, RECEIVES      bits per second on the VM's NIC as the guest sends and receives,
                     Ethernet headers with them; f/s: frames, of which one may have 64 KiB
DROPS/s              frames that vonic did not pass on; the VM's page has why
CONNS                terminated TCP connections
AGENT                the version of vonic-agent in the guest, by its own word
HISTORY              both directions; the highest bar is the most of what is shown
guest ...            on a VM's page: what the guest says of itself. Nothing in it is certain.
-, a dot in HISTORY  not known: the VM is new, or counts from its beginning again";

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    if usize::from(area.width) < list::NARROWEST || area.height < LOWEST {
        let text = format!("{}x{} is too small: vonic top needs {}x{LOWEST}", area.width, area.height, list::NARROWEST);
        let lines: Vec<Line<'_>> = text.split(' ').map(|word| Line::raw(word.to_string())).collect();
        // One line if it fits, else one word in each.
        let fits = text.chars().count() <= usize::from(area.width);
        frame.render_widget(if fits { Paragraph::new(text) } else { Paragraph::new(lines) }, area);
        return;
    }
    let width = usize::from(area.width);
    let part = |y: u16, height: u16| Rect::new(area.x, area.y + y, area.width, height);
    frame.render_widget(Paragraph::new(above(app)), part(0, ABOVE));
    let room = area.height - ABOVE - 1;
    let body = match app.place {
        Place::List => list_lines(app, width, usize::from(room)),
        Place::Page => {
            let lines = details::lines(app, width);
            scrolled(app, lines, usize::from(room))
        }
        Place::Help => scrolled(app, HELP.lines().map(Line::raw).collect(), usize::from(room)),
    };
    frame.render_widget(Paragraph::new(body), part(ABOVE, room));
    frame.render_widget(Paragraph::new(keys(app)), part(area.height - 1, 1));
}

/// The service, all VMs, and what is wrong.
fn above(app: &App) -> Vec<Line<'static>> {
    let Some(service) = &app.model.service else {
        let first = Line::from("vonic top");
        return match &app.model.silence {
            Some((why, _)) => vec![first, Line::raw(""), Line::styled(plain(why), alarm())],
            None => vec![first, Line::raw("waiting for vonicd")],
        };
    };
    vec![service_line(app, service), vms_line(app), trouble(app, service)]
}

fn service_line(app: &App, service: &Service) -> Line<'static> {
    let health = &service.health;
    let mut text = format!("vonic {}  up {}", plain(&health.version), duration(health.uptime_seconds));
    let mut style = Style::new();
    if let Some(engine) = &service.engine {
        text.push_str(&format!("  engine {} up {}", engine.pid, duration(engine.uptime_seconds)));
        if engine.deaths > 0 {
            text.push_str(&format!(", {} deaths", engine.deaths));
            style = notice();
        }
        if !engine.standby {
            text.push_str(", no standby");
        }
    }
    let every = app.interval.as_secs_f64();
    Line::from(vec![Span::styled(text, style), Span::raw(format!("  every {every}s"))])
}

fn vms_line(app: &App) -> Line<'static> {
    let vms = &app.model.vms;
    let running = vms.values().filter(|vm| vm.row.driver_ready && !vm.row.quarantined).count();
    let noun = if vms.len() == 1 { "VM" } else { "VMs" };
    let mut text = format!("{} {noun}, {running} running", vms.len());
    if let Some(total) = app.model.total {
        let (sent, received) = (total.guest_to_host, total.host_to_guest);
        text.push_str(&format!("  send {}b/s {}f/s", short(sent.bits), short(sent.frames)));
        text.push_str(&format!("  receive {}b/s {}f/s", short(received.bits), short(received.frames)));
        text.push_str(&format!("  drops {}/s", short(total.drops)));
    }
    Line::raw(text)
}

/// The one thing that should be known first.
fn trouble(app: &App, service: &Service) -> Line<'static> {
    if let Some((why, since)) = &app.model.silence {
        let silent = duration(since.elapsed().as_secs());
        return Line::styled(format!("no answer for {silent}, this is from before: {}", plain(why)), alarm());
    }
    if app.paused {
        return Line::styled("paused: p goes on", notice());
    }
    if service.health.status != "ok" {
        return Line::styled(plain(&service.health.status), alarm());
    }
    match service.health.hints.first() {
        Some(hint) => Line::styled(plain(hint), notice()),
        None => Line::raw(""),
    }
}

/// Headings and VMs; scrolls so that the cursor is seen.
fn list_lines(app: &mut App, width: usize, room: usize) -> Vec<Line<'static>> {
    app.lines = room - 1;
    let (cursor, count) = {
        let rows = app.rows();
        (app.cursor(&rows), rows.len())
    };
    // As far as it has to.
    app.first = app.first.max((cursor + 1).saturating_sub(app.lines)).min(cursor);
    let mut lines = vec![list::headings(app, width)];
    match count {
        0 if app.filter.is_empty() && app.model.service.is_some() => lines.push(Line::raw("no VMs")),
        0 if !app.filter.is_empty() => lines.push(Line::raw(format!("no VM has '{}'", app.filter))),
        _ => lines.extend(list::rows(app, &app.rows(), width, app.lines)),
    }
    lines
}

/// A page from the line on to which it was scrolled.
fn scrolled(app: &mut App, lines: Vec<Line<'static>>, room: usize) -> Vec<Line<'static>> {
    // One of them says that there is more.
    app.lines = room.saturating_sub(1);
    app.first = app.first.min(lines.len().saturating_sub(room));
    let more = lines.len() > app.first + room;
    let mut shown: Vec<Line<'static>> = lines.into_iter().skip(app.first).take(room).collect();
    if more && let Some(last) = shown.last_mut() {
        *last = Line::styled("more: down, page down, end", Style::new().italic());
    }
    shown
}

/// What can be done now.
fn keys(app: &App) -> Line<'static> {
    let style = Style::new().reversed();
    if app.typing {
        return Line::from(vec![
            Span::styled("filter: ", style),
            Span::raw(app.filter.clone()),
            Span::styled(" ", style),
        ]);
    }
    let pause = if app.paused { "go on" } else { "pause" };
    let text = match app.place {
        Place::List => {
            let way = if app.reversed { ", reversed" } else { "" };
            let filter = if app.filter.is_empty() { "filter".to_string() } else { format!("'{}'", app.filter) };
            format!("q quit  ? help  enter VM  s sort: {}{way}  r reverse  / {filter}  p {pause}", app.sort.name())
        }
        Place::Page => format!("q quit  ? help  esc back  up/down scroll  p {pause}"),
        Place::Help => "q quit  esc back  up/down scroll".to_string(),
    };
    Line::styled(text, style)
}
