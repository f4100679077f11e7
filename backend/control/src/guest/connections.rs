//! `GET /v1/connections`: a guest's connections as the NIC has them, a page at a time.
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;
use tokio::sync::oneshot;
use tokio::time;
use vonic_agent::connection::{Connection, Opener, Page};
use vonic_agent::message::{ADDRESS4, ADDRESS6};
use vonic_datapath::{ConnectionView, ListPart, ListPlace, Reply};

use super::question::Question;
use super::server::Body;
use super::{Guest, Host, events, query, routes};
use crate::api::ApiError;

/// A page ends behind the part in which it has so many.
const PAGE: usize = 256;
/// How long the worker may take for a part.
const PART_LIMIT: Duration = Duration::from_secs(2);
/// How long a page may take: with many connections of others between this guest's the list goes on in the next one.
const PAGE_LIMIT: Duration = Duration::from_secs(3);

/// Answers with the page that begins where the request says.
pub(super) async fn respond(
    text: Option<&str>,
    guest: &Arc<Guest>,
    host: &Arc<Host>,
) -> Result<Response<Body>, ApiError> {
    let [from] = query::read(text, ["from"])?;
    let mut place = match from {
        None => ListPlace::default(),
        Some(text) => read_place(&text).ok_or_else(|| {
            ApiError::bad_request("from is no place in the list").field("from").mend("use the next of the last page")
        })?,
    };
    let end = Instant::now() + PAGE_LIMIT;
    let mut page = Page::default();
    loop {
        let part = part(place, guest, host).await?;
        // What leads to vonic's own service is how this is asked.
        let world = |view: &ConnectionView| ![ADDRESS4.into(), ADDRESS6.into()].contains(&view.remote.ip());
        page.connections.extend(part.views.into_iter().filter(world).map(|view| row(&view)));
        let Some(next) = part.next else { break };
        place = next;
        if page.connections.len() >= PAGE || Instant::now() >= end {
            page.next = Some(write_place(place));
            break;
        }
    }
    Ok(routes::json(&page))
}

/// Asks for one part, in the guest's turn.
async fn part(place: ListPlace, guest: &Arc<Guest>, host: &Arc<Host>) -> Result<ListPart, ApiError> {
    time::sleep(guest.turn_of_part(Instant::now())).await;
    let (sender, answer) = oneshot::channel();
    // Nobody waits any more: fine.
    let reply = Reply::new(move |part| drop(sender.send(part)));
    host.asker.tell(guest, Question::Connections(place, reply));
    routes::answered(answer, PART_LIMIT).await
}

fn row(view: &ConnectionView) -> Connection {
    Connection {
        id: events::name(view.id),
        protocol: view.protocol.into(),
        direction: Opener::of(view.guest_opens),
        guest: view.guest.to_string(),
        remote: events::end(view.remote),
        state: view.state.into(),
        bytes_guest_to_host: view.bytes_guest_to_host,
        bytes_host_to_guest: view.bytes_host_to_guest,
        age_seconds: view.age_seconds,
    }
}

fn write_place(place: ListPlace) -> String {
    let (datagrams, slot) = place.parts();
    format!("{}{slot}", if datagrams { 'd' } else { 'c' })
}

fn read_place(text: &str) -> Option<ListPlace> {
    let datagrams = match text.get(..1)? {
        "c" => false,
        "d" => true,
        _ => return None,
    };
    Some(ListPlace::from_parts(datagrams, text.get(1..)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_travel_as_text() {
        for (text, parts) in [("c0", (false, 0)), ("d512", (true, 512))] {
            assert_eq!(read_place(text).map(ListPlace::parts), Some(parts));
            assert_eq!(write_place(ListPlace::from_parts(parts.0, parts.1)), text);
        }
        for wrong in ["", "c", "x1", "c-1", "ä1", "c4294967296"] {
            assert_eq!(read_place(wrong), None, "{wrong}");
        }
    }
}
