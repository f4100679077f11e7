//! From the worker's pages to a client of the API: frames become a file, part by part. A client that reads slowly loses frames, and
//! nobody else anything.
use std::os::unix::net::UnixStream as StdStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time;
use vonic_datapath::{CaptureReader, CaptureSpec, Captured, Capturer, Way, capture};
use vonic_frame::MacAddr;

use super::filter::Filter;
use super::pcapng::{self, Interface, Statistics};
use crate::api::ApiError;
use crate::api::types::CaptureTerms;

/// Captures at once, of all VMs together: each takes 8 MiB for its frames.
const CAPTURES: usize = 8;
static PLACES: Semaphore = Semaphore::const_new(CAPTURES);
/// Of the last capture.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Parts of the file that wait for the client beside the worker's pages.
pub(crate) const PARTS: usize = 2;
/// How long more frames are waited for before the worker has to wake the reader: a call for each frame would be many.
const LINGER: Duration = Duration::from_millis(2);
/// How often a quiet capture looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(250);
/// How old the last statistics in the file may be: a client that is interrupted has no others.
const STATISTICS: Duration = Duration::from_secs(1);
/// The least and the usual bytes of a frame.
const SNAPLEN_MIN: u32 = 14;
const SNAPLEN: u32 = 262_144;

/// Why a capture that its client has not ended is over: the port is no more.
pub(crate) const GONE: &str = "the VM is gone, or its NIC is another one now";

/// What is to be captured, checked.
pub(crate) struct Terms {
    ways: [bool; 2],
    snaplen: u32,
    filter: Option<(Filter, String)>,
    frames: u64,
    bytes: u64,
    limit: Option<Duration>,
}

impl Terms {
    /// # Errors
    /// 400.
    pub fn check(terms: CaptureTerms) -> Result<Terms, ApiError> {
        let CaptureTerms { direction, filter, snaplen, frames, bytes, seconds } = terms;
        let ways = match direction.as_deref() {
            None => [true; 2],
            Some(name) if Way::ALL.iter().any(|way| way.name() == name) => Way::ALL.map(|way| way.name() == name),
            Some(name) => {
                let [one, other] = Way::ALL.map(Way::name);
                let error = ApiError::bad_request(format!("'{name}' is no direction")).field("direction");
                return Err(error.mend(format!("give {one}, {other}, or none for both")));
            }
        };
        let parsed = filter.map(|text| Filter::parse(&text).map(|filter| (filter, text)));
        let filter = parsed
            .transpose()
            .map_err(|error| ApiError::bad_request(format!("the filter cannot be read: {error}")).field("filter"))?;
        let snaplen = snaplen.unwrap_or(SNAPLEN);
        if snaplen < SNAPLEN_MIN {
            let error = ApiError::bad_request(format!("{snaplen} bytes of a frame are too few")).field("snaplen");
            return Err(error.mend(format!("give {SNAPLEN_MIN} or more")));
        }
        let limit = |name: &str, value: Option<u64>| match value {
            Some(0) => {
                Err(ApiError::bad_request("a capture of nothing").field(name).mend("give 1 or more, or nothing"))
            }
            value => Ok(value),
        };
        Ok(Terms {
            ways,
            snaplen,
            filter,
            frames: limit("frames", frames)?.unwrap_or(u64::MAX),
            bytes: limit("bytes", bytes)?.unwrap_or(u64::MAX),
            limit: limit("seconds", seconds)?.map(Duration::from_secs),
        })
    }
}

/// The NIC whose frames these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Its address.
    pub mac: MacAddr,
    /// When the worker's clock stood at 0, in microseconds since 1970.
    pub epoch: u64,
}

/// A capture's reader.
pub(crate) struct Stream {
    number: u64,
    reader: CaptureReader,
    sign: StdStream,
    terms: Terms,
    _place: SemaphorePermit<'static>,
}

/// Both ends of a capture.
///
/// # Errors
/// 429: there are too many already; 503: there is no descriptor left.
pub(crate) fn open(terms: Terms) -> Result<(Capturer, Stream), ApiError> {
    let place = PLACES
        .try_acquire()
        .map_err(|_| ApiError::new(429, format!("{CAPTURES} captures run already")).mend("end one of them"))?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
    let filter = terms.filter.as_ref().map(|(filter, _)| filter.clone());
    let filter = filter.map(|filter| -> vonic_datapath::Filter { Box::new(move |head| filter.matches(head)) });
    let spec = CaptureSpec { number, ways: terms.ways, snaplen: terms.snaplen, filter };
    let (capturer, reader, sign) =
        capture(spec).map_err(|error| ApiError::unavailable(format!("no descriptor for the capture: {error}")))?;
    Ok((capturer, Stream { number, reader, sign, terms, _place: place }))
}

impl Stream {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Writes the file until the client has gone, a limit is reached or the port is no more.
    pub async fn run(mut self, vm: &str, nic: Nic, to: mpsc::Sender<Bytes>) {
        let Ok(sign) = self.sign.try_clone().and_then(UnixStream::from_std) else { return };
        let mut file = File::begin(vm, nic, &self.terms);
        let until = self.terms.limit.map(|limit| Instant::now() + limit);
        let why = loop {
            // Looked at first: behind it nothing comes any more.
            let over = self.reader.is_over();
            let there = self.reader.read(|frame, bytes| file.frame(frame, bytes, &self.terms));
            let late = until.is_some_and(|until| Instant::now() >= until);
            let why = file.why.take().or_else(|| late.then(|| "its time is over".to_string()));
            let why = why.or_else(|| (over && !there).then(|| GONE.to_string()));
            if let Some(why) = why {
                break why;
            }
            if file.is_due() {
                file.count(&self.reader, None);
            }
            if !file.part.is_empty() && to.send(file.take()).await.is_err() {
                return;
            }
            if !there {
                let left = until.map_or(LOOK, |until| until.saturating_duration_since(Instant::now()).min(LOOK));
                self.rest(&sign, left).await;
            }
            if to.is_closed() {
                return;
            }
        };
        file.count(&self.reader, Some(&why));
        // Whoever has gone does not read it.
        drop(to.send(file.take()).await);
    }

    /// Waits for frames, for so long.
    async fn rest(&mut self, sign: &UnixStream, limit: Duration) {
        time::sleep(LINGER.min(limit)).await;
        if self.reader.rests() {
            // An error is seen again as the end of the capture.
            let _ = time::timeout(limit, sign.readable()).await;
            let _ = sign.try_read(&mut [0; 16]);
        }
    }
}

/// The file as it grows.
struct File {
    /// What was not sent yet.
    part: Vec<u8>,
    sent: u64,
    epoch: u64,
    statistics: Statistics,
    /// When the last statistics were written, and how many frames there were then.
    counted: (Instant, u64),
    /// Which limit is reached.
    why: Option<String>,
}

impl File {
    fn begin(vm: &str, nic: Nic, terms: &Terms) -> File {
        let mut part = Vec::new();
        let filter = terms.filter.as_ref().map(|(_, text)| text.as_str());
        pcapng::begin(&mut part, &Interface { vm, mac: nic.mac, snaplen: terms.snaplen, filter });
        let statistics = Statistics { times: [now(); 2], ..Statistics::default() };
        File { part, sent: 0, epoch: nic.epoch, statistics, counted: (Instant::now(), 0), why: None }
    }

    /// Appends a frame, if no limit is reached before.
    fn frame(&mut self, frame: &Captured, bytes: &[u8], terms: &Terms) {
        if self.why.is_some() {
            return;
        }
        let before = self.part.len();
        pcapng::frame(&mut self.part, frame, bytes, self.epoch.saturating_add(frame.at));
        if self.sent + self.part.len() as u64 > terms.bytes {
            self.part.truncate(before);
            self.why = Some(format!("the next frame would be behind {} bytes", terms.bytes));
            return;
        }
        self.statistics.written += 1;
        if self.statistics.written >= terms.frames {
            self.why = Some(format!("it has {} frames", terms.frames));
        }
    }

    /// Whether the last statistics are too old, and there would be others.
    fn is_due(&self) -> bool {
        self.counted.1 != self.statistics.written && self.counted.0.elapsed() >= STATISTICS
    }

    fn count(&mut self, reader: &CaptureReader, why: Option<&str>) {
        let counts = reader.counts();
        let Statistics { times: [began, _], written, .. } = self.statistics;
        let (seen, accepted, lost) = (counts.seen, counts.accepted, counts.lost);
        self.statistics = Statistics { times: [began, now()], seen, accepted, lost, written };
        pcapng::statistics(&mut self.part, &self.statistics, why);
        self.counted = (Instant::now(), written);
    }

    fn take(&mut self) -> Bytes {
        let part = std::mem::take(&mut self.part);
        self.sent += part.len() as u64;
        part.into()
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Terms, ApiError> {
        Terms::check(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn terms_are_checked() {
        let terms = check("{}").unwrap();
        assert_eq!((terms.ways, terms.snaplen, terms.frames, terms.limit), ([true; 2], SNAPLEN, u64::MAX, None));
        let json = r#"{"direction":"host_to_guest","filter":"arp","snaplen":64,"frames":5,"bytes":9,"seconds":3}"#;
        let terms = check(json).unwrap();
        assert_eq!((terms.ways, terms.snaplen, terms.frames, terms.bytes), ([false, true], 64, 5, 9));
        assert_eq!((terms.filter.unwrap().1.as_str(), terms.limit), ("arp", Some(Duration::from_secs(3))));
        for (json, field) in [
            (r#"{"direction":"in"}"#, "direction"),
            (r#"{"filter":"porta"}"#, "filter"),
            (r#"{"snaplen":13}"#, "snaplen"),
            (r#"{"frames":0}"#, "frames"),
            (r#"{"bytes":0}"#, "bytes"),
            (r#"{"seconds":0}"#, "seconds"),
        ] {
            let error = check(json).err().unwrap();
            assert_eq!((error.status, error.field.as_deref()), (400, Some(field)), "{json}");
        }
    }

    #[test]
    fn limits_end_the_file_before_they_are_passed() {
        let nic = Nic { mac: MacAddr::default(), epoch: 0 };
        let captured =
            Captured { at: 0, lost: 0, len: 100, vnet: [0; 12], way: Way::GuestToHost, pair: 0, dropped: None };
        let written = |json: &str| {
            let terms = check(json).unwrap();
            let mut file = File::begin("a", nic, &terms);
            (0..10).for_each(|_| file.frame(&captured, &[0; 100], &terms));
            (file.statistics.written, file.part.len(), file.why.is_some())
        };
        let (_, all, ended) = written("{}");
        assert!(!ended);
        assert_eq!(written(r#"{"frames":4}"#).0, 4);
        let (frames, bytes, ended) = written(&format!(r#"{{"bytes":{}}}"#, all - 1));
        assert!(ended && frames == 9 && bytes < all);
        assert_eq!(written(&format!(r#"{{"bytes":{all}}}"#)).0, 10);
    }
}
