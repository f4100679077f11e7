//! Rings and bursts, while the driver changes its memory under the reader's hands.
//!
//! Whatever it does: every address that leaves the queue lies in the guest's memory, nothing is longer than it says, and the used index
//! moves by what was pushed.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use vonic_queue::{
    Burst, Direction, Front, Gather, Part, Passed, RingSetup, SplitRing, Terms, copy_payload, keep_payload,
    move_payload, pass_payload, pass_posted,
};

use crate::bytes::Bytes;
use crate::memory::{BUFFERS, Memory, SIZE, lie, setup};

/// Descriptors as a driver makes them: mostly sound.
fn descriptor(bytes: &mut Bytes<'_>, memory: &Memory, ring: &RingSetup) {
    let sound = bytes.byte() < 200;
    let table = if sound && bytes.flag() { ring.descriptors } else { BUFFERS + 16 * u64::from(bytes.byte()) };
    let address = if sound { BUFFERS + u64::from(bytes.half()) } else { bytes.number() };
    let len = if sound { u32::from(bytes.half()) % 3000 } else { bytes.number() as u32 };
    let flags = bytes.of(&[0, 2, 1, 3, 4, 0, 2, 5, 6, 7]);
    memory.descriptor(table, u16::from(bytes.byte()) % ring.size, (address, len), flags, u16::from(bytes.byte()));
}

/// An input is the rings' sizes, and then steps of the driver's and of the device's; some of the driver's go on on a thread of its own
/// while the device works.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let Some(memory) = Memory::new() else { return };
    let choices = bytes.byte();
    let size = 1 << (bytes.byte() % 9);
    let rings = [0, 1, 2].map(|queue| setup(queue, size, choices >> queue & 1 != 0));
    let start = bytes.half();
    for ring in &rings {
        memory.put(ring.used + 2, start);
        memory.put(ring.available + 2, start);
    }
    let map = memory.map();
    let ways = [Direction::GuestToHost, Direction::HostToGuest, Direction::Control];
    let all: Result<Vec<SplitRing>, _> =
        rings.iter().zip(ways).map(|(setup, way)| SplitRing::new(&map, setup, way)).collect();
    let Ok(mut all) = all else { return };
    let capacity = if choices & 8 != 0 { 16 } else { 1024 };
    let mut device = Device {
        memory: memory.clone(),
        bursts: [0, 1, 2].map(|_| Burst::with_capacity(32, capacity)),
        copied: AtomicU64::new(0),
    };
    while !bytes.is_empty() {
        match bytes.byte() % 16 {
            0..5 => {
                let ring = bytes.of(&rings);
                descriptor(&mut bytes, &memory, &ring);
            }
            5 | 6 => {
                let ring = &bytes.of(&rings);
                let index = memory.get(ring.available + 2);
                memory.post(ring, index, u16::from(bytes.byte()));
            }
            7 => {
                let at = lie(&mut bytes, &rings);
                memory.put(at, bytes.number() as u16);
            }
            8 => memory.write(u64::from(bytes.word()) % SIZE, bytes.take(24)),
            9 | 10 => hammered(&mut bytes, &memory, &rings, |bytes| device.round(bytes, &mut all)),
            11 => all.iter_mut().for_each(|ring| _ = ring.remap(&memory.map())),
            _ => device.round(&mut bytes, &mut all),
        }
    }
}

/// A driver that changes one place to and fro while the device works.
fn hammered(bytes: &mut Bytes<'_>, memory: &Memory, rings: &[RingSetup], work: impl FnOnce(&mut Bytes<'_>)) {
    let places = [lie(bytes, rings), lie(bytes, rings)];
    let values = [bytes.number() as u16, bytes.number() as u16];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let before = places.map(|place| memory.get(place));
            while !stop.load(Ordering::Relaxed) {
                for i in 0..2 {
                    memory.put(places[i], values[i]);
                    memory.put(places[i], before[i]);
                }
            }
        });
        work(bytes);
        stop.store(true, Ordering::Relaxed);
    });
}

struct Device {
    memory: Memory,
    bursts: [Burst; 3],
    copied: AtomicU64,
}

impl Device {
    /// What a worker does with a ring, once.
    fn round(&mut self, bytes: &mut Bytes<'_>, rings: &mut [SplitRing]) {
        let which = bytes.below(3);
        if bytes.byte() < 40 {
            return self.pass(bytes, rings);
        }
        let Some(ring) = rings.get_mut(which) else { return };
        let before = ring.next_used();
        self.bursts[which].clear();
        let fetched = if ring.direction() == Direction::Control {
            ring.fetch_control(&mut self.bursts[which]).map(|chain| usize::from(chain.is_some()))
        } else {
            ring.fetch(&mut self.bursts[which], 1 + bytes.below(40))
        };
        let Ok(fetched) = fetched else { return };
        assert!(fetched <= 32 && fetched == self.bursts[which].len() && fetched <= ring.size().into());
        self.look(bytes, which);
        if bytes.byte() < 30 {
            let back = bytes.below(fetched + 1);
            ring.unfetch(back as u16);
            self.bursts[which].truncate(fetched - back);
        }
        let burst = &self.bursts[which];
        for chain in burst.chains() {
            assert!(chain.fault.is_none() || chain.len == 0);
            ring.push_used(chain.head, chain.len);
        }
        ring.publish();
        assert_eq!(ring.next_used().wrapping_sub(before), burst.len() as u16);
        let _ = (ring.call_needed(), ring.arm(), ring.available());
        if bytes.flag() {
            ring.disarm();
        }
    }

    /// Everything that can be done with chains.
    fn look(&mut self, bytes: &mut Bytes<'_>, which: usize) {
        let burst = &mut self.bursts[which];
        let chains = burst.len();
        let range = bytes.below(chains + 1)..bytes.below(chains + 2);
        let (offset, len) = (bytes.number() as u32, bytes.number() as u32);
        // What is beyond the end is cut.
        let cut = range.start..range.end.min(chains);
        let total: u64 = burst.chains().get(cut).unwrap_or_default().iter().map(|c| u64::from(c.len)).sum();
        let left = total.saturating_sub(offset.into()).min(len.into());
        for i in 0..chains {
            let mut head = [0; 128];
            let read = burst.read(i, 0, &mut head);
            assert_eq!(read, (burst.chain(i).len as usize).min(128));
            burst.front(i, &mut Front::default());
        }
        let data = [0x5a; 200];
        assert!(burst.write(range.clone(), offset, &data) as u64 <= total.saturating_sub(offset.into()));
        burst.sum(range.clone(), offset, len);
        let mut kept = vec![0; bytes.half().into()];
        assert!(keep_payload(burst, range.clone(), offset, &mut kept, &self.copied) as usize <= kept.len());
        move_payload(burst, range.clone(), offset, bytes.number() as u32, len, &self.copied);
        let memory = self.memory.clone();
        let held =
            |iovecs: &[libc::iovec]| iovecs.iter().all(|iovec| memory.holds(iovec.iov_base.addr(), iovec.iov_len));
        let iovecs = burst.iovecs(range.clone(), offset, len);
        assert!(held(iovecs.as_slice()) && iovecs.len_bytes() as u64 <= left);
        let bytes_of = |iovecs: &[libc::iovec]| iovecs.iter().map(|iovec| iovec.iov_len).sum::<usize>();
        assert_eq!(bytes_of(iovecs.as_slice()), iovecs.len_bytes());
        let (mut front, mut behind) = ([0; 12], [0; 2000]);
        let between = burst.iovecs_between(&mut front, range.clone(), offset, len, &mut behind);
        assert_eq!(bytes_of(between.as_slice()), between.len_bytes());
        assert!(between.as_slice().len() <= 1024);
        let skip = usize::from(bytes.half());
        let mut scratch = [0; 100];
        let skipped = burst.iovecs_behind(&mut scratch, skip, range.clone(), offset, len);
        assert!(skipped.as_slice().len() <= 1024);
        let mut gather = Gather::default();
        let mut gathering = gather.start();
        gathering.guest(Part { burst, chains: range, offset, len });
        let gathered = gathering.finish();
        assert!(held(gathered.as_slice()));
    }

    /// From guest to guest, both of which are this one.
    fn pass(&mut self, bytes: &mut Bytes<'_>, rings: &mut [SplitRing]) {
        let [from, to, _] = rings else { return };
        let [burst, other, _] = &mut self.bursts;
        burst.clear();
        other.clear();
        let most = bytes.number() as u32;
        let terms = Terms { lens: 0..=most, header: [1, 2] };
        let held = |passed: Passed, max: usize, before: u16, to: &SplitRing| {
            assert!(passed.chains <= max && passed.bytes <= u64::from(most) * passed.chains as u64);
            assert_eq!(to.next_used().wrapping_sub(before), passed.chains as u16);
        };
        let (before, max) = (to.next_used(), bytes.below(32));
        held(pass_posted(from, max as u16, to, &terms, |_, len| len <= most), max, before, to);
        let Ok(fetched) = from.fetch(burst, 32) else { return };
        let (before, first) = (to.next_used(), bytes.below(fetched + 1));
        held(pass_payload(burst, first, to, &terms, |_, len| len <= most), fetched - first, before, to);
        if let Ok(places @ 1..) = to.fetch(other, 32) {
            let chain = bytes.below(fetched.max(1));
            let (offset, at, len) = (bytes.number() as u32, bytes.number() as u32, bytes.number() as u32);
            let done = copy_payload(burst, chain, offset, other, 0..places, at, len, &self.copied);
            assert!(done <= len);
            let places: Vec<u16> = other.chains().iter().map(|chain| chain.head).collect();
            places.into_iter().for_each(|head| to.push_used(head, done));
        }
        to.publish();
        let burst = &self.bursts[0];
        from.push_read(burst);
        from.publish();
    }
}
