//! `GET /v1/events`: established and ended connections, in batches.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_body_util::{Channel, Either};
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use vonic_agent::connection::{BATCH_MAX, Batch, DELAY_MAX, Event, Happened, Opener, WAIT_MAX};
use vonic_datapath::{Notification, What};

use super::listening::{Listener, Terms, listen};
use super::query;
use super::server::{Body, Session};
use super::{Guest, Host, routes};
use crate::api::ApiError;

/// The least time between two empty batches of a stream.
const BEAT: Duration = Duration::from_secs(1);

/// What a request says: where to go on, the terms, and whether batches go on coming.
#[derive(Debug)]
struct Wanted {
    after: Option<String>,
    terms: Terms,
    stream: bool,
}

impl Wanted {
    fn read(text: Option<&str>) -> Result<Wanted, ApiError> {
        let [after, batch, delay, wait, stream] =
            query::read(text, ["after", "batch", "delay_ms", "wait_ms", "stream"])?;
        let millis = |name, text: Option<String>, most, default| {
            let number = query::number(name, text.as_deref(), (0, most), default)?;
            Ok::<_, ApiError>(Duration::from_millis(number.into()))
        };
        let terms = Terms {
            batch: query::number("batch", batch.as_deref(), (1, BATCH_MAX), 256)?,
            delay: millis("delay_ms", delay, DELAY_MAX, 100)?,
            wait: millis("wait_ms", wait, WAIT_MAX, 5000)?,
        };
        let stream = query::number("stream", stream.as_deref(), (0, 1), 0)? == 1;
        Ok(Wanted { after, terms, stream })
    }
}

/// Answers with one batch, or with one line of JSON for each that there will be.
pub(super) async fn respond(
    query: Option<&str>,
    guest: &Arc<Guest>,
    host: &Arc<Host>,
    session: &Arc<Session>,
) -> Result<Response<Body>, ApiError> {
    let Wanted { after, terms, stream } = Wanted::read(query)?;
    let listener = listen(guest, host).await?;
    let begin = begin(after.as_deref(), &listener.epoch, listener.last())?;
    let next = begin.unwrap_or(listener.last());
    let mut reader = Reader { listener, host: Arc::clone(host), terms, next };
    if stream {
        return Ok(streaming(reader, begin.is_none(), session));
    }
    let batch = if begin.is_none() { reader.beginning() } else { reader.next().await };
    Ok(routes::json(&batch))
}

/// Behind which number a cursor goes on; `None`: it is of another epoch, or there is none.
fn begin(cursor: Option<&str>, epoch: &str, last: u64) -> Result<Option<u64>, ApiError> {
    let Some(cursor) = cursor else { return Ok(None) };
    let wrong = |message| ApiError::bad_request(message).field("after").mend("use the cursor of the last batch");
    let (of, number) = cursor.rsplit_once('-').ok_or_else(|| wrong("after is no cursor"))?;
    let number: u64 = number.parse().map_err(|_| wrong("after is no cursor"))?;
    match of == epoch {
        false => Ok(None),
        true if number <= last => Ok(Some(number)),
        true => Err(wrong("after is no cursor of a batch so far")),
    }
}

/// Batches one after the other.
struct Reader {
    listener: Listener,
    host: Arc<Host>,
    terms: Terms,
    next: u64,
}

impl Reader {
    /// Says where the epoch begins for this reader.
    fn beginning(&self) -> Batch {
        Batch { restarted: true, ..self.batch(vonic_datapath::Batch { next: self.next, ..Default::default() }) }
    }

    async fn next(&mut self) -> Batch {
        let batch = self.listener.next(self.next, &self.terms, || self.host.elapsed()).await;
        self.next = batch.next;
        self.batch(batch)
    }

    fn batch(&self, batch: vonic_datapath::Batch) -> Batch {
        let vonic_datapath::Batch { notifications, missed, next } = batch;
        let now = micros(self.host.elapsed());
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, micros);
        let waited_us = notifications.first().map_or(0, |first| now.saturating_sub(first.at));
        let at_us = |notification: &Notification| unix.saturating_sub(now.saturating_sub(notification.at));
        let events = notifications.iter().map(|notification| event(notification, at_us(notification)));
        let epoch = self.listener.epoch.clone();
        let cursor = format!("{epoch}-{next}");
        Batch { epoch, cursor, restarted: false, missed, waited_us, events: events.collect() }
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

fn event(notification: &Notification, at_us: u64) -> Event {
    let Notification { number, id, what, guest_opens, guest, remote, at, opened, bytes } = *notification;
    Event {
        number,
        id: name(id),
        event: match what {
            What::Established => Happened::Established,
            What::Closed => Happened::Closed,
            What::Reset => Happened::Reset,
        },
        direction: Opener::of(guest_opens),
        guest: guest.to_string(),
        remote: end(remote),
        at_us,
        age_us: at.saturating_sub(opened),
        bytes_guest_to_host: bytes[0],
        bytes_host_to_guest: bytes[1],
    }
}

/// A connection's name: more bits than a number in JSON is sure to keep.
pub(super) fn name(id: u64) -> String {
    format!("{id:016x}")
}

/// The far end; an echo has no port there.
pub(super) fn end(remote: SocketAddr) -> String {
    if remote.port() == 0 { remote.ip().to_string() } else { remote.to_string() }
}

/// A line for each batch, and an empty batch where nothing happens for a while: so both sides know that the other is there. What the
/// guest does not read holds up the next line, and if it reads none for long, its connection ends.
fn streaming(mut reader: Reader, restarted: bool, session: &Arc<Session>) -> Response<Body> {
    reader.terms.wait = reader.terms.wait.max(BEAT);
    let (mut sender, body) = Channel::new(1);
    let lasts = Arc::clone(session);
    session.spawn(async move {
        let mut batch = if restarted { reader.beginning() } else { reader.next().await };
        while let Ok(mut line) = serde_json::to_vec(&batch) {
            line.push(b'\n');
            if sender.send_data(Bytes::from(line)).await.is_err() {
                return;
            }
            lasts.touch();
            batch = reader.next().await;
        }
    });
    let mut answer = Response::new(Either::Right(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_go_on_where_they_can_and_others_are_told() {
        assert_eq!(begin(None, "ab", 9), Ok(None));
        assert_eq!(begin(Some("ab-7"), "ab", 9), Ok(Some(7)));
        assert_eq!(begin(Some("cd-700"), "ab", 9), Ok(None), "another epoch");
        for wrong in ["", "7", "ab-", "ab-x", "ab-10", "ab-18446744073709551616"] {
            assert_eq!(begin(Some(wrong), "ab", 9).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn terms_have_bounds() {
        let wanted = Wanted::read(Some("batch=1024&delay_ms=0&wait_ms=5000&stream=1&after=x-1")).unwrap();
        assert_eq!((wanted.terms.batch, wanted.terms.delay, wanted.stream), (1024, Duration::ZERO, true));
        let wanted = Wanted::read(None).unwrap();
        assert_eq!((wanted.terms.batch, wanted.terms.delay), (256, Duration::from_millis(100)));
        for wrong in ["batch=0", "batch=1025", "delay_ms=2001", "wait_ms=5001", "stream=2", "since=1"] {
            assert_eq!(Wanted::read(Some(wrong)).unwrap_err().status, 400, "{wrong}");
        }
    }
}
