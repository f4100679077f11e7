//! `vonic-agent connections`.
use super::service::Service;
use super::table::{self, Side, age, short};
use super::{Question, say, say_json};
use crate::link::Failure;
use crate::pause::Pause;
use serde::Serialize;
use std::fmt::Write;
use std::thread;
use vonic_agent::connection::{Batch, Connection, Event, Happened};

/// The list as JSON.
#[derive(Serialize)]
struct List<'a> {
    connections: &'a [Connection],
}

/// Prints the list.
pub(super) fn run(question: &Question) -> Result<(), Failure> {
    print(question, &mut Service::open(question.address.as_ref())?)
}

fn print(question: &Question, service: &mut Service) -> Result<(), Failure> {
    let connections = service.connections(None)?;
    if question.json {
        return say_json(&List { connections: &connections });
    }
    Ok(say(&text(&connections))?)
}

/// Prints the list, and then each batch of what happens. Where vonic begins anew, or has lost something, comes the list again.
pub(super) fn follow(question: &Question) -> Result<(), Failure> {
    let (mut cursor, mut pause) = (None, Pause::default());
    loop {
        match follow_once(question, &mut cursor, &mut pause) {
            // Nothing was heard yet: there may be no vonic here at all.
            Err(failure) if cursor.is_none() => return Err(failure),
            Err(failure) if !question.json => say(&format!("{failure}; trying again\n"))?,
            _ => {}
        }
        thread::sleep(pause.next());
    }
}

fn follow_once(question: &Question, cursor: &mut Option<String>, pause: &mut Pause) -> Result<(), Failure> {
    let mut service = Service::open(question.address.as_ref())?;
    let after = cursor.as_ref().map(|cursor| format!("&after={cursor}")).unwrap_or_default();
    service.stream(&format!("/v1/events?stream=1&batch={}&delay_ms={}{after}", question.batch, question.delay_ms))?;
    while let Some(batch) = service.line::<Batch>()? {
        pause.reset();
        let quiet = batch.events.is_empty() && batch.missed == 0 && !batch.restarted;
        if question.json && !quiet {
            say_json(&batch)?;
        } else if !quiet {
            say(&events(&batch))?;
        }
        if batch.restarted || batch.missed > 0 {
            print(question, &mut Service::open(question.address.as_ref())?)?;
        }
        // Only now: what was not shown is asked for again.
        *cursor = Some(batch.cursor);
    }
    Ok(())
}

fn text(connections: &[Connection]) -> String {
    let heads =
        ["proto", "opened by", "guest", "remote", "state", "sent", "received", "age"].map(String::from).to_vec();
    let row = |connection: &Connection| {
        vec![
            connection.protocol.clone(),
            connection.direction.word().into(),
            connection.guest.clone(),
            connection.remote.clone(),
            connection.state.clone(),
            short(connection.bytes_guest_to_host, "B"),
            short(connection.bytes_host_to_guest, "B"),
            age(connection.age_seconds),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(connections.iter().map(row)).collect();
    let left = [Side::Left; 5];
    table::columns(&[&left[..], &[Side::Right; 3]].concat(), &rows)
}

fn events(batch: &Batch) -> String {
    let mut text = String::new();
    if batch.restarted {
        text.push_str("vonic tells of connections from here on; those that there are:\n");
    }
    if batch.missed > 0 {
        let _ = writeln!(text, "{} events were lost; the connections that there are:", batch.missed);
    }
    let row = |event: &Event| {
        let what = match event.event {
            Happened::Established => "established",
            Happened::Closed => "closed",
            Happened::Reset => "reset",
        };
        let moved = match event.event {
            Happened::Established => String::new(),
            _ => format!(
                "sent {}, received {} in {}",
                short(event.bytes_guest_to_host, "B"),
                short(event.bytes_host_to_guest, "B"),
                age(event.age_us / 1_000_000)
            ),
        };
        vec![
            event.number.to_string(),
            what.into(),
            event.direction.word().into(),
            event.guest.clone(),
            event.remote.clone(),
            moved,
        ]
    };
    let rows: Vec<Vec<String>> = batch.events.iter().map(row).collect();
    text + &table::columns(&[&[Side::Right][..], &[Side::Left; 5]].concat(), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_events_stand_in_columns() {
        let connection = Connection {
            protocol: "tcp".into(),
            guest: "192.0.2.2:4000".into(),
            remote: "203.0.113.7:80".into(),
            state: "ESTABLISHED".into(),
            bytes_guest_to_host: 1_500_000,
            age_seconds: 65,
            ..Connection::default()
        };
        let text = text(&[connection]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "proto  opened by  guest           remote          state          sent  received    age");
        assert_eq!(lines[1], "tcp    guest      192.0.2.2:4000  203.0.113.7:80  ESTABLISHED  1.5 MB       0 B  1m05s");
        let event = |number, event| Event { number, event, guest: "a".into(), remote: "b".into(), ..Event::default() };
        let batch = Batch {
            missed: 3,
            events: vec![event(9, Happened::Established), event(10, Happened::Reset)],
            ..Batch::default()
        };
        let lines = events(&batch);
        assert!(lines.starts_with("3 events were lost; "), "{lines}");
        assert!(
            lines.ends_with(
                " 9  established  guest  a  b\n10  reset        guest  a  b  sent 0 B, received 0 B in 0s\n"
            ),
            "{lines}"
        );
    }
}
