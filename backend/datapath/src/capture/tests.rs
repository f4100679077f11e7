//! What is taken is what was there, in order; what finds no room is counted, and nobody waits.
use super::*;
use std::io::Read;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vonic_frame::VNET_HEADER_LEN;
use vonic_queue::{Direction, MemoryMap, RingSetup, SplitRing};

const SIZE: u16 = 16;
const FRAMES: u64 = 0x8000;

/// Chains of a guest's, fetched: each has a virtio-net header of 12 bytes and a frame, in two buffers.
fn burst(frames: &[Vec<u8>]) -> Burst {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 21)]).unwrap();
    let write = |at: u64, bytes: &[u8]| memory.write_slice(bytes, GuestAddress(at)).unwrap();
    let setup = RingSetup { size: SIZE, descriptors: 0, available: 0x1000, used: 0x2000, event_idx: false };
    let mut at = FRAMES;
    for (i, frame) in (0u16..).zip(frames) {
        let bytes = [vec![i as u8; VNET_HEADER_LEN], frame.clone()].concat();
        write(at, &bytes);
        let cut = (VNET_HEADER_LEN + 5).min(bytes.len());
        let parts = [(at, cut, 1u64, 2 * i + 1), (at + cut as u64, bytes.len() - cut, 0, 0)];
        for (n, (address, len, flags, next)) in (2 * u64::from(i)..).zip(parts) {
            let words = [address, len as u64 | flags << 32 | u64::from(next) << 48];
            write(16 * n, &words.map(u64::to_le_bytes).concat());
        }
        write(0x1004 + 2 * u64::from(i), &(2 * i).to_le_bytes());
        at += bytes.len() as u64;
    }
    write(0x1002, &(frames.len() as u16).to_le_bytes());
    let map = Arc::new(MemoryMap::new(memory));
    let mut burst = Burst::with_capacity(BURST, 1024);
    let mut ring = SplitRing::new(&map, &setup, Direction::GuestToHost).unwrap();
    assert_eq!(ring.fetch(&mut burst, BURST).unwrap(), frames.len());
    burst
}

fn spec(snaplen: u32, filter: Option<Filter>) -> CaptureSpec {
    CaptureSpec { number: 1, ways: [true, false], snaplen, filter }
}

fn take(capturer: &mut Capturer, burst: &Burst, chain: usize, copied: &Counter) -> Option<(usize, usize)> {
    let len = burst.chain(chain).len - VNET_HEADER_LEN as u32;
    let what =
        Captured { at: chain as u64, lost: 0, len, vnet: [7; 12], way: Way::GuestToHost, pair: 0, dropped: None };
    capturer.take(&Shown { burst, chains: chain..chain + 1, offset: VNET_HEADER_LEN as u32, what, copied })
}

fn frames(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| (0..len).map(|byte| (byte * 3 + i) as u8).collect()).collect()
}

/// What is there for the reader: lengths, what was lost in front, bytes.
fn read(reader: &mut CaptureReader) -> Vec<(u32, u64, Vec<u8>)> {
    let mut read = Vec::new();
    while reader.read(|frame, bytes| read.push((frame.len, frame.lost, bytes.to_vec()))) {}
    read
}

#[test]
fn frames_come_as_they_were_cut_at_the_snaplen_and_counted() {
    let (frames, copied) = (frames(3, 100), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, _sign) = capture(spec(60, None)).unwrap();
    (0..3).for_each(|i| assert!(take(&mut capturer, &burst, i, &copied).is_some()));
    assert_eq!(read(&mut reader), [], "nothing before it is published");
    capturer.publish(false);
    let expected: Vec<_> = frames.iter().map(|frame| (100, 0, frame[..60].to_vec())).collect();
    assert_eq!(read(&mut reader), expected);
    assert_eq!(copied.get(), 3 * 60);
    assert_eq!(reader.counts(), CaptureCounts { seen: 3, accepted: 3, lost: 0 });
}

#[test]
fn a_filter_sees_the_first_bytes_and_decides() {
    let (frames, copied) = (frames(4, 1000), Counter::default());
    let burst = burst(&frames);
    let second = |head: &[u8]| head.len() == HEAD && head[0] == 1;
    let (mut capturer, mut reader, _sign) = capture(spec(u32::MAX, Some(Box::new(second)))).unwrap();
    (0..4).for_each(|i| assert_eq!(take(&mut capturer, &burst, i, &copied).is_some(), i == 1));
    capturer.publish(true);
    assert_eq!(read(&mut reader), [(1000, 0, frames[1].clone())]);
    assert_eq!(reader.counts(), CaptureCounts { seen: 4, accepted: 1, lost: 0 });
    assert_eq!(copied.get(), 1000, "what is not wanted is not copied");
}

#[test]
fn without_room_frames_are_lost_counted_and_told_with_the_next() {
    let (frames, copied) = (frames(1, 60_000), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, _sign) = capture(spec(u32::MAX, None)).unwrap();
    // Two in a page.
    let taken = (0..2 * PAGES + 7).filter(|_| take(&mut capturer, &burst, 0, &copied).is_some()).count();
    assert_eq!(taken, 2 * PAGES);
    capturer.publish(false);
    assert!(take(&mut capturer, &burst, 0, &copied).is_none(), "the reader has all of them");
    let all = read(&mut reader);
    assert!(all.len() == 2 * PAGES && all.iter().all(|frame| *frame == (60_000, 0, frames[0].clone())));
    assert!(take(&mut capturer, &burst, 0, &copied).is_some());
    capturer.publish(false);
    assert_eq!(read(&mut reader)[0].1, 8);
    let accepted = 2 * PAGES as u64 + 9;
    assert_eq!(reader.counts(), CaptureCounts { seen: accepted, accepted, lost: 8 });
}

#[test]
fn a_page_waits_for_more_while_the_reader_has_one() {
    let (frames, copied) = (frames(1, 100), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, _sign) = capture(spec(u32::MAX, None)).unwrap();
    let rounds = |capturer: &mut Capturer, count: usize, all| {
        for _ in 0..count {
            take(capturer, &burst, 0, &copied);
            capturer.publish(all);
        }
    };
    rounds(&mut capturer, 5, false);
    assert_eq!(
        (reader.read(|_, _| ()), reader.read(|_, _| ())),
        (true, false),
        "the first one, and not the four behind it"
    );
    rounds(&mut capturer, 1, false);
    assert_eq!(read(&mut reader).len(), 5);
    rounds(&mut capturer, 2, true);
    assert_eq!(read(&mut reader).len(), 2, "before it sleeps the worker keeps nothing");
    rounds(&mut capturer, 3, false);
    drop(capturer);
    assert_eq!(read(&mut reader).len(), 3, "nor at its end");
    assert!(reader.is_over() && !reader.rests());
}

#[test]
fn reasons_reach_the_frames_of_the_burst_at_hand_only() {
    let (frames, copied) = (frames(3, 100), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, _sign) = capture(spec(u32::MAX, None)).unwrap();
    for i in 0..3 {
        capturer.marks[i] = take(&mut capturer, &burst, i, &copied);
    }
    capturer.refuse(1, DropReason::SpoofedMac);
    capturer.publish(false);
    capturer.refuse(2, DropReason::SpoofedMac);
    let mut reasons = Vec::new();
    assert!(reader.read(|frame, _| reasons.push(frame.dropped)));
    assert_eq!(reasons, [None, Some(DropReason::SpoofedMac), None]);
}

#[test]
fn a_reader_that_rests_is_woken_once() {
    let (frames, copied) = (frames(1, 100), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, mut sign) = capture(spec(u32::MAX, None)).unwrap();
    let mut signs = || sign.read(&mut [0; 8]).ok();
    take(&mut capturer, &burst, 0, &copied);
    capturer.publish(false);
    assert_eq!(signs(), None, "nobody rests");
    assert!(!reader.rests(), "there is something");
    read(&mut reader);
    assert!(reader.rests());
    for _ in 0..3 {
        take(&mut capturer, &burst, 0, &copied);
        capturer.publish(true);
    }
    assert_eq!((signs(), signs()), (Some(1), None));
    read(&mut reader);
    assert!(reader.rests());
    drop(capturer);
    assert_eq!(signs(), Some(0), "the end of the stream");
}

#[test]
fn two_threads_lose_nothing_unsaid() {
    let (frames, copied) = (frames(8, 900), Counter::default());
    let burst = burst(&frames);
    let (mut capturer, mut reader, _sign) = capture(spec(u32::MAX, None)).unwrap();
    let total = 40_000;
    let worker = std::thread::spawn(move || {
        for n in 0..total {
            take(&mut capturer, &burst, n % 8, &copied);
            if n % 13 == 0 {
                capturer.publish(n % 26 == 0);
            }
        }
    });
    let (mut got, mut lost) = (0, 0);
    loop {
        let over = reader.is_over();
        let there = reader.read(|frame, bytes| {
            assert_eq!(bytes, frames[frame.at as usize]);
            got += 1;
            lost += frame.lost;
        });
        if over && !there {
            break;
        }
    }
    worker.join().unwrap();
    // What was lost behind the last frame that found room is in the counts alone.
    let counts = reader.counts();
    assert_eq!((counts.accepted, got + counts.lost), (total as u64, total as u64));
    assert!(lost <= counts.lost);
}
