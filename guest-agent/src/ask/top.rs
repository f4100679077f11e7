//! `vonic-agent top`: a page of 80 columns and 24 lines, drawn anew each second.
use super::service::Service;
use super::stats::traffic;
use super::table::{self, Side, age, short};
use super::{Question, say, say_json};
use crate::link::Failure;
use crate::sys::terminal::{Keys, Terminal};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};
use vonic_agent::connection::Connection;
use vonic_agent::nic::{Limit, Nic};

const SECOND: Duration = Duration::from_secs(1);
const WIDTH: usize = 80;
const LINES: usize = 24;
/// Connections beyond so many pages of the list are not looked at: each costs the host something.
const PAGES: usize = 4;
/// Reasons for drops that are shown.
const REASONS: usize = 3;
/// The end of a full-screen page's line, and of the page itself (ECMA-48 §8.3.41 and §8.3.39).
const END_OF_LINE: &str = "\x1b[K\r\n";
const END_OF_PAGE: &str = "\x1b[J";
/// The screen's first place (§8.3.21).
const HOME: &str = "\x1b[H";

/// A moment.
#[derive(Serialize)]
struct Moment {
    nic: Nic,
    connections: Vec<Connection>,
    #[serde(skip)]
    at: Instant,
}

/// Draws until q, ^C, a signal or the count ends it.
pub(super) fn run(question: &Question) -> Result<(), Failure> {
    let mut service = Some(Service::open(question.address.as_ref())?);
    let mut before: Option<Moment> = None;
    let terminal = if question.json { None } else { Terminal::take()? };
    let mut keys = Keys::new();
    let mut left = question.count;
    while left != Some(0) {
        let begin = Instant::now();
        match moment(question, &mut service) {
            Ok(now) if question.json => say_json(&now)?,
            Ok(now) => {
                draw(&page(&now, before.as_ref()), terminal.is_some())?;
                before = Some(now);
            }
            // It may be back in a second.
            Err(failure) if terminal.is_some() => {
                service = None;
                draw(&format!("vonic does not answer: {failure}\n"), true)?;
            }
            Err(failure) => return Err(failure),
        }
        left = left.map(|left| left - 1);
        if left == Some(0) || keys.wait_for_end(SECOND.saturating_sub(begin.elapsed())) {
            break;
        }
    }
    Ok(())
}

fn moment(question: &Question, service: &mut Option<Service>) -> Result<Moment, Failure> {
    let service = match service {
        Some(open) => open,
        None => service.insert(Service::open(question.address.as_ref())?),
    };
    let nic = service.get("/v1/nic")?;
    Ok(Moment { nic, connections: service.connections(Some(PAGES))?, at: Instant::now() })
}

fn draw(page: &str, full_screen: bool) -> Result<(), Failure> {
    if !full_screen {
        return Ok(say(page)?);
    }
    let lines: Vec<&str> = page.lines().take(LINES).map(|line| line.get(..WIDTH).unwrap_or(line)).collect();
    Ok(say(&format!("{HOME}{}{END_OF_LINE}{END_OF_PAGE}", lines.join(END_OF_LINE)))?)
}

/// The text of a page; rates of connections are over the time since the last one.
fn page(now: &Moment, before: Option<&Moment>) -> String {
    let nic = &now.nic;
    let mut page = format!(
        "vonic NIC of {}: {} connections, {} reset, {} retransmitted\n\n{}\n",
        table::plain(&nic.name),
        nic.connections,
        nic.tcp.get("reset").copied().unwrap_or(0),
        nic.tcp.get("retransmitted").copied().unwrap_or(0),
        traffic(nic)
    );
    let _ = writeln!(page, "drops   {}", worst(nic));
    let limits = nic.limits.iter().filter(|limit| limit.reached > 0);
    let limit = |limit: &Limit| format!("{} {}", table::plain(&limit.name), short(limit.reached, ""));
    let _ = writeln!(page, "limits  {}\n", none_or(limits.map(limit).collect::<Vec<_>>().join(", ")));
    let room = LINES - 1 - page.lines().count();
    page.push_str(&busiest(now, before, room - 1));
    page
}

/// The reasons that most frames were dropped for.
fn worst(nic: &Nic) -> String {
    let sums = nic.drops.iter().map(|(reason, counts)| (counts.values().sum::<u64>(), reason));
    let mut sums: Vec<(u64, &String)> = sums.collect();
    sums.sort_by(|a, b| b.cmp(a));
    let shown = sums.iter().take(REASONS).map(|(n, reason)| format!("{} {}", table::plain(reason), short(*n, "")));
    none_or(shown.collect::<Vec<_>>().join(", "))
}

fn none_or(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

fn busiest(now: &Moment, before: Option<&Moment>, room: usize) -> String {
    let seconds = before.map(|before| now.at.saturating_duration_since(before.at).as_secs_f64().max(0.001));
    let old = before.iter().flat_map(|before| &before.connections);
    let old: HashMap<&str, &Connection> = old.map(|connection| (connection.id.as_str(), connection)).collect();
    let rate = |connection: &Connection, of: fn(&Connection) -> u64| {
        let before = old.get(connection.id.as_str()).map_or(0, |before| of(before));
        seconds.map_or(0, |seconds| (of(connection).saturating_sub(before) as f64 * 8.0 / seconds) as u64)
    };
    let rates = now.connections.iter().map(|connection| {
        let sent = rate(connection, |connection| connection.bytes_guest_to_host);
        let received = rate(connection, |connection| connection.bytes_host_to_guest);
        (sent + received, sent, received, connection)
    });
    let mut rates: Vec<(u64, u64, u64, &Connection)> = rates.collect();
    rates.sort_by_key(|(both, .., connection)| (std::cmp::Reverse(*both), connection.age_seconds));
    let heads = ["remote", "opened by", "state", "sends", "receives", "age"].map(String::from).to_vec();
    let rows = rates.iter().take(room).map(|(_, sent, received, connection)| {
        let remote: String = connection.remote.chars().take(REMOTE).collect();
        let state = connection.state.chars().take(STATE).collect();
        let (sent, received) = (short(*sent, "b/s"), short(*received, "b/s"));
        vec![remote, connection.direction.word().into(), state, sent, received, age(connection.age_seconds)]
    });
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    table::columns(&[&[Side::Left; 3][..], &[Side::Right; 3]].concat(), &rows)
}

/// So much of a far end and of a state leaves room for the other columns.
const REMOTE: usize = 26;
const STATE: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use vonic_agent::nic::{Rate, Rates, Traffic};

    fn moment(at: Instant, bytes: u64) -> Moment {
        let most = Traffic { frames: u64::MAX, bytes: u64::MAX };
        let rate = Rate { frames: u64::MAX, bits: u64::MAX };
        let counts = |n| BTreeMap::from([("guest_to_host".to_string(), n)]);
        let connection = |n: u64| Connection {
            id: n.to_string(),
            remote: format!("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:{}", 60_000 + n),
            state: "ESTABLISHED-AND-MORE".into(),
            bytes_guest_to_host: bytes * n,
            ..Connection::default()
        };
        let nic = Nic {
            name: "web1\x1b[2J".into(),
            guest_to_host: most,
            host_to_guest: most,
            rates: Some(Rates { seconds: 1.0, guest_to_host: rate, host_to_guest: rate }),
            drops: ["no_room", "spoofed_address", "truncated", "limit"]
                .map(|r| (r.into(), counts(r.len() as u64)))
                .into(),
            ..Nic::default()
        };
        Moment { nic, connections: (0..100).map(connection).collect(), at }
    }

    #[test]
    fn a_page_fits_a_terminal_and_the_busiest_come_first() {
        let begin = Instant::now();
        let before = moment(begin, 1000);
        let now = moment(begin + SECOND, 2000);
        let page = page(&now, Some(&before));
        assert!(page.lines().count() < LINES, "{page}");
        assert!(page.lines().all(|line| line.len() <= WIDTH), "{page}");
        assert!(page.starts_with("vonic NIC of web1?[2J: 0 connections"), "{page}");
        assert!(page.contains("drops   spoofed_address 15, truncated 9, no_room 7\n"), "{page}");
        let busiest = page.lines().position(|line| line.starts_with("remote")).unwrap() + 1;
        assert!(page.lines().nth(busiest).unwrap().contains("792.0 kb/s"), "{page}");
    }
}
