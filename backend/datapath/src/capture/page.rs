//! Memory in which captured frames go from the worker to whoever writes them out: each with a header that says what it was.
use crate::stats::Way;
use vonic_frame::{DropReason, VNET_HEADER_LEN};
use vonic_queue::Undumped;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a page: it holds the longest frame with its header.
const PAGE: usize = 128 * 1024;
/// Where records begin: at multiples of this.
const ALIGNED: usize = 8;

/// What stands in front of a frame's bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Head {
    /// Microseconds of the worker's clock.
    at: u64,
    lost: u64,
    /// Bytes of the record.
    size: u32,
    /// Bytes of the frame that are here.
    captured: u32,
    len: u32,
    vnet: [u8; VNET_HEADER_LEN],
    way: u8,
    pair: u8,
    /// A reason's index and one; 0: none.
    reason: u8,
    unused: [u8; 5],
}

const HEAD: usize = size_of::<Head>();

/// What a captured frame was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When, in microseconds of the worker's clock ([`Header::elapsed`](vonic_record::Header::elapsed)): the beginning of the round.
    pub at: u64,
    /// Frames that were lost since the one before, as there was no room.
    pub lost: u64,
    /// Bytes of the whole frame, without its virtio-net header.
    pub len: u32,
    /// Its virtio-net header (virtio 1.3 §5.1.6), as the guest wrote it, or got it; of a legacy driver its last two bytes are 0.
    pub vnet: [u8; VNET_HEADER_LEN],
    /// Which way it went.
    pub way: Way,
    /// The pair of queues that it took.
    pub pair: u8,
    /// Why it went no further.
    pub dropped: Option<DropReason>,
}

/// One page.
pub(super) struct Page {
    bytes: Undumped,
    len: usize,
}

impl Page {
    /// An empty one, whose memory is there: the worker is not to wait for it.
    pub fn new() -> Page {
        let mut bytes = Undumped::new(PAGE);
        // Pages come only when they are touched.
        bytes.fill(0xff);
        Page { bytes, len: 0 }
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether there is room for one more frame, of which so many bytes are to be captured.
    pub fn has_room(&self, captured: usize) -> bool {
        size(captured) <= self.bytes.len() - self.len
    }

    /// Appends a frame, of which `fill` copies as many bytes as there is room for; where its record begins. `None`: there was no room.
    pub fn append(
        &mut self,
        frame: &Captured,
        captured: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<usize> {
        let (start, size) = (self.len, size(captured));
        let record = self.bytes.get_mut(start..)?.get_mut(..size)?;
        let (front, bytes) = record.split_at_mut(HEAD);
        // What was not there to be copied is not shown: it is another frame's.
        let done = fill(&mut bytes[..captured]).min(captured);
        let head = Head {
            at: frame.at,
            lost: frame.lost,
            size: size as u32,
            captured: done as u32,
            len: frame.len,
            vnet: frame.vnet,
            way: frame.way as u8,
            pair: frame.pair,
            reason: frame.dropped.map_or(0, number),
            unused: [0; 5],
        };
        front.copy_from_slice(head.as_bytes());
        self.len += size;
        Some(start)
    }

    /// The frame whose record begins at `start` went no further.
    pub fn refuse(&mut self, start: usize, reason: DropReason) {
        let record = self.bytes.get_mut(start..).unwrap_or(&mut []);
        if let Ok((head, _)) = Head::mut_from_prefix(record) {
            head.reason = number(reason);
        }
    }

    /// Every frame in it, with its bytes.
    pub fn frames(&self) -> impl Iterator<Item = (Captured, &[u8])> {
        let mut rest = &self.bytes[..self.len];
        std::iter::from_fn(move || {
            let (head, _) = Head::read_from_prefix(rest).ok()?;
            let record = rest.get(..head.size as usize)?;
            rest = &rest[record.len()..];
            let bytes = record.get(HEAD..)?.get(..head.captured as usize)?;
            Some((head.frame()?, bytes))
        })
    }
}

impl Head {
    fn frame(&self) -> Option<Captured> {
        let Head { at, lost, len, vnet, way, pair, reason, .. } = *self;
        let way = *Way::ALL.get(usize::from(way))?;
        let dropped = usize::from(reason).checked_sub(1).and_then(|index| DropReason::ALL.get(index)).copied();
        Some(Captured { at, lost, len, vnet, way, pair, dropped })
    }
}

fn number(reason: DropReason) -> u8 {
    reason.index() as u8 + 1
}

fn size(captured: usize) -> usize {
    (HEAD + captured).next_multiple_of(ALIGNED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::FRAME_MAX;
    use proptest::prelude::*;

    fn frame(len: u32, way: Way, dropped: Option<DropReason>) -> Captured {
        Captured { at: 7, lost: u64::from(len) + 1, len, vnet: [3; VNET_HEADER_LEN], way, pair: 1, dropped }
    }

    proptest! {
        #[test]
        fn what_is_appended_is_read(lens in prop::collection::vec((0usize..3000, any::<bool>(), 0usize..80), 0..200)) {
            let mut page = Page::new();
            let mut expected = Vec::new();
            for (i, (len, out, reason)) in lens.into_iter().enumerate() {
                let way = Way::ALL[usize::from(out)];
                let frame = frame(len as u32 + 5, way, DropReason::ALL.get(reason).copied());
                let (room, bytes) = (page.has_room(len), vec![i as u8; len]);
                let start = page.append(&frame, len, |to| {
                    to.copy_from_slice(&bytes);
                    len
                });
                prop_assert_eq!(start.is_some(), room);
                if room {
                    expected.push((frame, bytes));
                }
            }
            let read: Vec<_> = page.frames().map(|(frame, bytes)| (frame, bytes.to_vec())).collect();
            prop_assert_eq!(read, expected);
            page.clear();
            prop_assert_eq!(page.frames().count(), 0);
        }
    }

    #[test]
    fn a_frame_is_refused_later_and_shows_what_was_there_only() {
        let mut page = Page::new();
        let starts = [0, 1].map(|_| page.append(&frame(60, Way::GuestToHost, None), 60, |to| to.len() - 20).unwrap());
        page.refuse(starts[1], DropReason::SpoofedMac);
        page.refuse(PAGE, DropReason::SpoofedMac);
        let read: Vec<_> = page.frames().map(|(frame, bytes)| (frame.dropped, frame.len, bytes.len())).collect();
        assert_eq!(read, [(None, 60, 40), (Some(DropReason::SpoofedMac), 60, 40)]);
    }

    #[test]
    fn the_longest_frame_fits() {
        assert!(Page::new().has_room(FRAME_MAX as usize));
        assert!(DropReason::COUNT < usize::from(u8::MAX));
    }
}
