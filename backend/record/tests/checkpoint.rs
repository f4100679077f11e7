//! Is what one mapping writes what another reads, whole or not at all, and are strangers refused?
#![allow(clippy::unwrap_used, reason = "a test may fail")]
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use vonic_record::{Bits, Checkpoint, CheckpointError, Kind, Local, Options, Record, VERSION};

fn end(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn record(n: u16) -> Record {
    Record {
        kind: Kind::GuestOpens,
        bits: Bits::SYNCHRONIZED,
        descriptor: i32::from(n),
        cookie: u64::from(n) << 40 | 7,
        session: u64::MAX - u64::from(n),
        guest: end("192.0.2.2", n),
        remote: end("203.0.113.7", 443),
        host: end("2001:db8::7", 53),
        iss: 0xffff_fff0,
        timestamps: 0x8000_0001,
        irs: 0x8765_4321,
        options: Options { mss: 1448, send_scale: 14, scaled: true, sack: false, timestamps: true },
        opened: 1 << 50,
        base: (0xfedc_ba98, 0x89ab_cdef),
    }
}

fn again(checkpoint: &Checkpoint) -> Checkpoint {
    Checkpoint::open(checkpoint.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn another_mapping_sees_what_was_written() {
    let first = Checkpoint::create(8).unwrap();
    let second = again(&first);
    assert_eq!((second.capacity(), second.records().count(), second.free_numbers().count()), (8, 0, 8));
    let world = Record {
        kind: Kind::WorldOpens,
        bits: Bits::default(),
        guest: "[2001:db8::2]:80".parse().unwrap(),
        remote: "[2001:db8:1::9]:65535".parse().unwrap(),
        host: "127.0.0.1:9".parse().unwrap(),
        options: Options::default(),
        irs: 0,
        ..record(9)
    };
    first.write(3, &record(3));
    first.write(7, &world);
    assert_eq!(second.records().collect::<Vec<_>>(), [(3, record(3)), (7, world)]);
    assert_eq!(second.free_numbers().collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6]);
    let options = Options { mss: 536, send_scale: 0, scaled: false, sack: true, timestamps: false };
    first.synchronize(7, 77, options);
    first.add(7, Bits::ESTABLISHED);
    first.add(7, Bits::GUEST_FIN);
    let seen = second.read(7).unwrap();
    assert_eq!((seen.irs, seen.options), (77, options));
    assert!(seen.bits.has(Bits::SYNCHRONIZED) && seen.bits.has(Bits::GUEST_FIN) && !seen.bits.has(Bits::ABORTED));
    first.free(3);
    assert_eq!((second.read(3), second.read(8)), (None, None));
}

#[test]
fn a_flow_by_a_forward_has_an_address_beside_its_ends() {
    let checkpoint = Checkpoint::create(3).unwrap();
    let bits = Bits(Bits::FORWARDED.0 | Bits::STREAM.0);
    let v4 = Record { kind: Kind::Datagrams, bits, guest: end("192.0.2.2", 53), ..record(1) };
    let v6 = Record { guest: end("2001:db8::2", 53), remote: end("2001:db8::9", 9), ..v4 };
    for (id, record, address, interface) in [(0, v4, "198.51.100.9", 0), (1, v6, "fe80::ffff:ffff:ffff:fffe", u32::MAX)]
    {
        let local = Local { address: address.parse().unwrap(), interface };
        checkpoint.write_forwarded(id, &record, local);
        let seen = again(&checkpoint);
        assert_eq!(seen.local(id), Some(local));
        let read = seen.read(id).unwrap();
        assert_eq!(
            (read.kind, read.bits, read.guest, read.remote, read.host),
            (record.kind, bits, record.guest, record.remote, record.host)
        );
        assert_eq!(
            (read.descriptor, read.cookie, read.session, read.opened),
            (record.descriptor, record.cookie, record.session, record.opened)
        );
    }
}

#[test]
fn every_kind_comes_back() {
    let checkpoint = Checkpoint::create(8).unwrap();
    let kinds =
        [Kind::GuestOpens, Kind::WorldOpens, Kind::Datagrams, Kind::Listener, Kind::Tap, Kind::Claim, Kind::Packet];
    for (id, kind) in kinds.into_iter().enumerate() {
        let record = Record::endless(kind, 7, (id as i32, 9), Bits::LIVE.only_if(id == 4));
        checkpoint.write(id as u32, &record);
        assert_eq!(again(&checkpoint).read(id as u32), Some(record));
        assert_eq!(kind.is_connection(), id < 2);
    }
}

#[test]
fn secrets_and_clock_outlive_engines_and_epochs_count_them() {
    let first = Checkpoint::create(1).unwrap();
    let second = again(&first);
    assert_eq!((first.header().begin_epoch(), second.header().begin_epoch()), (1, 2));
    assert_eq!(first.header().secrets(), second.header().secrets());
    assert_ne!(first.header().secrets(), Checkpoint::create(1).unwrap().header().secrets());
    let (before, after) = (first.header().elapsed(), second.header().elapsed());
    assert!(before <= after && after < std::time::Duration::from_secs(60));
    assert!(!format!("{:?}", first.header().secrets()).contains(&first.header().secrets().0[0].to_string()));
}

#[test]
fn strangers_are_refused_by_name() {
    let refusal = |fd: OwnedFd| {
        let error = Checkpoint::open(fd).unwrap_err();
        *error.get_ref().unwrap().downcast_ref::<CheckpointError>().unwrap()
    };
    let path = std::env::temp_dir().join(format!("vonic-record-{}", std::process::id()));
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.write_all(&[1; 8192]).unwrap();
    assert_eq!(refusal(file.into()), CheckpointError::Foreign, "it could shrink");
    let with = |at: u64, byte: u8| {
        use std::os::unix::fs::FileExt;
        let checkpoint = Checkpoint::create(4).unwrap();
        let fd = checkpoint.as_fd().try_clone_to_owned().unwrap();
        File::from(fd.try_clone().unwrap()).write_at(&[byte], at).unwrap();
        fd
    };
    assert_eq!(refusal(with(0, 0)), CheckpointError::Foreign);
    assert_eq!(refusal(with(8, VERSION as u8 + 1)), CheckpointError::Version(VERSION + 1));
    assert_eq!(refusal(with(8, 0)), CheckpointError::Version(0));
    assert_eq!(refusal(with(16, 200)), CheckpointError::Damaged);
    assert_eq!(refusal(with(12, 64)), CheckpointError::Damaged);
    let newer = CheckpointError::Version(9).to_string();
    assert!(newer.contains("newer") && newer.contains('9'), "{newer}");
}

#[test]
fn every_option_comes_back() {
    let checkpoint = Checkpoint::create(1).unwrap();
    for flags in 0..8u8 {
        let flag = |at: u8| flags >> at & 1 == 1;
        let options = Options { mss: 65495, send_scale: flags, scaled: flag(0), sack: flag(1), timestamps: flag(2) };
        checkpoint.write(0, &Record { options, ..record(1) });
        assert_eq!(checkpoint.read(0).unwrap().options, options);
    }
}

/// A look at every record takes the time and the memory of those that were used, not of all that there could be.
#[test]
fn records_that_were_never_used_take_no_memory() {
    let checkpoint = Checkpoint::create(1 << 20).unwrap();
    (0..100).for_each(|id| checkpoint.write(id, &record(id as u16)));
    checkpoint.free(50);
    let second = again(&checkpoint);
    let mut free = second.free_numbers();
    assert_eq!((second.records().count(), [(); 3].map(|()| free.pop())), (99, [Some(50), Some(100), Some(101)]));
    free.push(7);
    assert_eq!((free.pop(), free.pop()), (Some(7), Some(102)));
    assert_eq!(second.read(100), None);
    let file = std::fs::File::from(second.as_fd().try_clone_to_owned().unwrap());
    // In units of 512 bytes: the header, and four pages of records.
    assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) <= 5 * 8);
}

#[test]
fn workers_share_the_free_numbers_and_none_has_anothers() {
    let checkpoint = Checkpoint::create(500).unwrap();
    (0..10).for_each(|id| checkpoint.write(id, &record(id as u16)));
    [2, 5, 6].into_iter().for_each(|id| checkpoint.free(id));
    let fresh = checkpoint.fresh_numbers();
    let mut shares = [0, 1, 2].map(|own| checkpoint.share_of_free_numbers((own, 3), &fresh));
    let first: Vec<_> = shares.iter_mut().map(|share| share.pop().unwrap()).collect();
    assert_eq!(first, [6, 10, 2], "of those that were used before each has its own");
    let mut all = first;
    // Some each, and then what is left, by whoever asks.
    for most in [100, 500] {
        shares.iter_mut().for_each(|share| all.extend(share.take(most)));
    }
    all.sort_unstable();
    let expected: Vec<u32> = [2, 5, 6].into_iter().chain(10..500).collect();
    assert_eq!(all, expected);
    assert!(shares.iter_mut().all(|share| share.pop().is_none()));
}

#[test]
fn each_worker_has_its_own_words() {
    let checkpoint = Checkpoint::create(1).unwrap();
    let header = checkpoint.header();
    assert_eq!((header.workers(), header.latest()), (1, (0, 0)), "as an engine left it that knew of one only");
    header.set_workers(3);
    [(0, 9), (1, 7), (2, 8)].into_iter().for_each(|(worker, number)| header.answer(worker, number));
    assert_eq!((header.workers(), header.latest()), (3, (1, 7)));
    for worker in 0..3 {
        header.set_accepting(worker, Some(worker as i32));
        header.work_on(worker, 10 + worker as u64);
    }
    let read = |header: vonic_record::Header<'_>| {
        [0, 1, 2, 3].map(|worker| (header.accepting(worker), header.accepted(worker), header.working_on(worker)))
    };
    let at = |worker: u64| (Some(worker as i32), None, Some(10 + worker));
    assert_eq!(read(header), [at(0), at(1), at(2), (None, None, None)]);
    header.leave_accepted(1, Some(77));
    assert_eq!(read(again(&checkpoint).header()), [at(0), (None, Some(77), Some(11)), at(2), (None, None, None)]);
}
