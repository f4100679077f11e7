//! The events' way to the clients: one ring for all of them, in which each has a place of its own.
//!
//! Nobody waits for a client: what one has not read before it is overwritten, it is told to have lost.
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time;

use super::ApiError;
use super::events::{Event, Happening};
use super::session::{Place, Session};

/// The media type of a stream: one JSON text in each line.
pub const LINES: &str = "application/x-ndjson";
/// How many events are kept. They are rare: a client that reads at all reads them.
const ROOM: usize = 1024;
/// How long a client may read nothing while there is something for it.
const STALL: Duration = Duration::from_secs(60);

/// Where events are told, and read.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Sets this engine's numbers apart from those of any other.
    epoch: String,
    ring: Mutex<VecDeque<Event>>,
    /// The number of the last one.
    last: watch::Sender<u64>,
}

/// What a client wants to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only what is about this VM, beside what is about none.
    pub vm: Option<String>,
    /// Behind this one.
    pub after: Option<String>,
}

impl Default for Feed {
    fn default() -> Self {
        let now = SystemTime::now();
        let epoch = format!("{:08x}", RandomState::new().hash_one(now) as u32);
        Feed(Arc::new(Shared { epoch, ring: Mutex::default(), last: watch::Sender::new(0) }))
    }
}

impl Feed {
    /// Tells whoever listens; nobody is waited for.
    pub fn tell(&self, what: Happening) {
        let mut ring = self.ring();
        let number = *self.0.last.borrow() + 1;
        if ring.len() == ROOM {
            ring.pop_front();
        }
        ring.push_back(Event { id: self.id(number), at_ms: now(), what });
        self.0.last.send_replace(number);
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.0.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.0.epoch)
    }

    /// Behind which number a client goes on, and whether nothing is missing there.
    fn begin(&self, after: Option<&str>) -> Result<(u64, bool), ApiError> {
        let last = *self.0.last.borrow();
        let Some(after) = after else { return Ok((last, true)) };
        let wrong = || {
            let error = ApiError::bad_request(format!("'{after}' is no event's id")).field("after");
            error.mend("use the id of the last event, or leave it out")
        };
        let (epoch, number) = after.rsplit_once('-').ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        match epoch == self.0.epoch {
            // Of another engine: everything that this one has to tell.
            false => Ok((0, false)),
            true if number <= last => Ok((number, true)),
            true => Err(wrong()),
        }
    }

    /// What is behind a number: how many are lost, and the rest.
    fn behind(&self, number: u64) -> (u64, Vec<Event>) {
        let ring = self.ring();
        let last = *self.0.last.borrow();
        let first = last - ring.len() as u64;
        let lost = first.saturating_sub(number);
        let skip = number.saturating_sub(first) as usize;
        (lost, ring.iter().skip(skip).cloned().collect())
    }

    /// The lines of an answer that goes on for as long as the client reads it. `place` is held meanwhile.
    ///
    /// # Errors
    /// 400: there is no such event.
    pub(super) fn answer(
        &self,
        wanted: Wanted,
        session: &Arc<Session>,
        place: Place,
    ) -> Result<mpsc::Receiver<Bytes>, ApiError> {
        let (next, resumed) = self.begin(wanted.after.as_deref())?;
        let (sender, lines) = mpsc::channel(1);
        let client = Client { sender, vm: wanted.vm };
        let (feed, lasts) = (self.clone(), Arc::clone(session));
        session.go_on(async move {
            feed.stream(client, next, resumed).await;
            lasts.end_at_once();
            drop(place);
        });
        Ok(lines)
    }

    /// Ends when the client does not read any more.
    async fn stream(&self, client: Client, mut next: u64, resumed: bool) -> Option<()> {
        let mut news = self.0.last.subscribe();
        let what = Happening::Begun { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into(), resumed };
        client.say(&Event { id: self.id(next), at_ms: now(), what }).await?;
        loop {
            news.mark_unchanged();
            let (lost, events) = self.behind(next);
            if lost > 0 {
                let id = self.id(next + lost);
                client.say(&Event { id, at_ms: now(), what: Happening::Lost { count: lost } }).await?;
            }
            next += lost + events.len() as u64;
            for event in events.iter().filter(|event| client.wants(&event.what)) {
                client.say(event).await?;
            }
            news.changed().await.ok()?;
        }
    }
}

/// Who listens.
struct Client {
    sender: mpsc::Sender<Bytes>,
    vm: Option<String>,
}

impl Client {
    fn wants(&self, what: &Happening) -> bool {
        match (&self.vm, what.vm()) {
            (Some(wanted), Some(vm)) => wanted == vm,
            _ => true,
        }
    }

    /// One line; `None`: it is not read.
    async fn say(&self, event: &Event) -> Option<()> {
        let mut line = serde_json::to_vec(event).ok()?;
        line.push(b'\n');
        time::timeout(STALL, self.sender.send(Bytes::from(line))).await.ok()?.ok()
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.what.vm().unwrap_or_default()).collect()
    }

    fn added(vm: &str) -> Happening {
        Happening::VmAdded { vm: vm.into() }
    }

    #[test]
    fn each_place_in_the_ring_is_a_clients_own() {
        let feed = Feed::default();
        assert_eq!(feed.begin(None), Ok((0, true)));
        ["a", "b", "c"].iter().for_each(|vm| feed.tell(added(vm)));
        assert_eq!(feed.begin(None), Ok((3, true)));
        let (lost, events) = feed.behind(1);
        assert_eq!((lost, names(&events)), (0, vec!["b", "c"]));
        assert_eq!(feed.begin(Some(&events[0].id)), Ok((2, true)));
        assert_eq!(feed.behind(3), (0, Vec::new()));
    }

    #[test]
    fn what_was_overwritten_is_counted() {
        let feed = Feed::default();
        (0..ROOM + 10).for_each(|n| feed.tell(added(&n.to_string())));
        let (lost, events) = feed.behind(4);
        assert_eq!((lost, events.len(), names(&events)[0]), (6, ROOM, "10"));
        let (lost, events) = feed.behind(20);
        assert_eq!((lost, events.len(), names(&events)[0]), (0, ROOM - 10, "20"));
    }

    #[test]
    fn another_engines_ids_begin_anew_and_others_are_refused() {
        let (feed, other) = (
            Feed::default(),
            Feed(Arc::new(Shared { epoch: "other".into(), ring: Mutex::default(), last: watch::Sender::new(0) })),
        );
        feed.tell(added("a"));
        other.tell(added("b"));
        let id = other.behind(0).1[0].id.clone();
        assert_eq!(id, "other-1");
        assert_eq!(feed.begin(Some(&id)), Ok((0, false)), "everything is told");
        let own = |number: &str| format!("{}-{number}", feed.0.epoch);
        for wrong in ["", "1", "-", &own("x"), &own("2"), &own("")] {
            assert_eq!(feed.begin(Some(wrong)).unwrap_err().field.as_deref(), Some("after"), "{wrong}");
        }
        assert_eq!(feed.begin(Some(&own("0"))), Ok((0, true)));
    }
}
