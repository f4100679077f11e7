use super::*;
use crate::connection::Connection;
use crate::history::{BlamedState, History};
use crate::limit::VmLog;
use crate::message::{Message, Reader, Request};
use crate::request::Front;
use crate::testing::{QEMU, memory_file, message, number, recorded_requests, ring, some_fd, table};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// One of everything, as the first format has it.
const GOLDEN: &[u8] = include_bytes!("../../tests/handover/format-1");

fn sample() -> MasterState {
    let message = |code: u32, fds: &[i32]| MessageState { code, flags: 1, body: vec![1, 0, 255, 7], fds: fds.to_vec() };
    let front = FrontState {
        offered: 1 << 32 | 1 << 30,
        offered_protocol: 0xa209,
        rings: 2,
        features: Some(1 << 32),
        protocol_asked: 0x9,
        protocol: 0x8,
        log: LogState::Bytes(4096),
        logged_rings: [0, 1].into(),
        transfer: true,
        owned: true,
        held: BTreeMap::from([(0, 1), (1, 0)]),
        table: vec![[0, 4096, 1 << 40, 0]],
        status: 15,
        warned_of_seals: true,
    };
    let connection = ConnectionState {
        name: "web1".into(),
        vmm: 20,
        partial: message(0, &[21]),
        front,
        journal: vec![message(3, &[]), message(5, &[22])],
        queued: vec![(message(18, &[]), true)],
        declined: [99].into(),
    };
    let listener = Door::Listener { path: "/run/vonic/web1.sock".into(), socket: 23, file: (8, u64::MAX), lent: true };
    let connector = Door::Connector { path: "/run/vonic/web2.sock".into(), connected: false, delay_ms: 400 };
    MasterState {
        descriptors: (20..=24).collect(),
        kept: BTreeMap::from([("config".into(), 24)]),
        entrances: BTreeMap::from([
            ("web1".into(), EntranceState { door: listener, session: Some(3) }),
            ("web2".into(), EntranceState { door: connector, session: None }),
        ]),
        connections: BTreeMap::from([(3, connection)]),
        last_session: 3,
        upgrades: 1,
        history: History::default(),
        blames: BTreeMap::from([(
            7,
            BlamedState {
                deaths: 3,
                lately: vec![1000, 20],
                quarantined: true,
                unheard: true,
                ..BlamedState::default()
            },
        )]),
    }
}

/// The text as another version writes it.
fn of_format(format: u32) -> Vec<u8> {
    let mut text = seal(&sample()).unwrap();
    text[8..12].copy_from_slice(&format.to_le_bytes());
    text
}

#[test]
fn what_the_first_format_says_is_read_for_ever() {
    assert_eq!(open::<MasterState>(GOLDEN), Ok(sample()));
    assert_eq!(open::<MasterState>(&seal(&sample()).unwrap()), Ok(sample()));
    #[cfg(not(feature = "next-format"))]
    assert_eq!(GOLDEN, seal(&sample()).unwrap(), "whoever changes what is written changes the format");
}

#[test]
fn other_formats_are_refused_by_name() {
    let refusal = |format: u32| open::<MasterState>(&of_format(format)).unwrap_err().to_string();
    let newer = refusal(FORMAT + 1);
    assert!(newer.contains("a newer vonic") && newer.contains(&format!("format {}", FORMAT + 1)), "{newer}");
    let older = refusal(OLDEST - 1);
    assert!(older.contains("an older vonic") && older.contains(&format!("format {}", OLDEST - 1)), "{older}");
}

#[test]
fn damage_is_found_wherever_it_is() {
    for length in 0..GOLDEN.len() {
        assert!(open::<MasterState>(&GOLDEN[..length]).is_err(), "cut to {length}");
    }
    for bit in 0..GOLDEN.len() * 8 {
        let mut text = GOLDEN.to_vec();
        text[bit / 8] ^= 1 << (bit % 8);
        assert!(open::<MasterState>(&text).is_err(), "bit {bit}");
    }
    let longer = [GOLDEN, b" "].concat();
    assert_eq!(open::<MasterState>(&longer), Err(FormatError::Damaged));
    // What is whole and says something else.
    let other = seal(&Offer { vonic: "0".into() }).unwrap();
    assert!(matches!(open::<MasterState>(&other), Err(FormatError::Body(_))));
}

#[test]
fn the_sum_is_that_of_ieee_802_3() {
    assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
}

/// The numbers of a message's descriptors, whose owner gives them up.
fn give_up(message: Message) -> impl Iterator<Item = i32> {
    message.fds.into_iter().map(IntoRawFd::into_raw_fd)
}

/// A connection in the middle of everything: recorded requests noted, one in flight, half of the next one there.
#[test]
fn a_connection_goes_on_where_it_was() {
    let now = Instant::now();
    let (ours, vmm) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let front = Front::restore(sample().connections[&3].front.clone());
    let journal: Vec<MessageState> = recorded_requests(QEMU)
        .into_iter()
        .filter(|m| m.request().is_some_and(|request| !request.has_reply()))
        .map(|m| {
            let state = m.save();
            give_up(m).for_each(drop);
            state
        })
        .collect();
    let regions = table(&[[0, 4096, 0x7000_0000, 0]], vec![memory_file(4096)]);
    let queued = vec![
        (number(Request::SetFeatures, 1 << 32).save(), true),
        (ring(Request::SetVringEnable, 0, 1).save(), false),
        (regions.save(), true),
    ];
    let state = ConnectionState {
        name: "web1".into(),
        vmm: ours.as_raw_fd(),
        partial: MessageState::default(),
        front: front.save(),
        journal,
        queued,
        declined: [7].into(),
    };
    let of = |messages: &[MessageState]| messages.iter().flat_map(|m| m.fds.clone()).collect::<Vec<_>>();
    let waiting: Vec<MessageState> = state.queued.iter().map(|(m, _)| m.clone()).collect();
    let mut numbers = Numbers::new([ours.into_raw_fd()].into_iter().chain(of(&state.journal)).chain(of(&waiting)));
    give_up(regions).for_each(drop);
    let restore = |state: &ConnectionState, numbers: &mut Numbers| {
        Connection::restore(state.clone(), VmLog::new("web1"), Duration::from_secs(10), now, numbers)
    };
    let connection = restore(&state, &mut numbers).unwrap();
    let saved = connection.save();
    // A journal forgets what later messages have made void: saved once more, it is the same.
    let mut again = Numbers::new(connection.descriptors());
    assert_eq!(restore(&saved, &mut again).map(|twin| (twin.save(), std::mem::forget(twin))).unwrap().0, saved);
    assert_eq!(
        ConnectionState { journal: Vec::new(), ..saved.clone() },
        ConnectionState { journal: Vec::new(), ..state }
    );
    assert!(!saved.journal.is_empty() && connection.shared);
    drop(connection);
    vmm.set_nonblocking(true).unwrap();
    let closed = Reader::default().read(&vmm);
    assert!(
        matches!(closed, Err(crate::message::ReadError::Closed)),
        "the last descriptor of it is closed: {closed:?}"
    );
}

#[test]
fn half_a_message_and_its_descriptors_are_kept() {
    let (ours, vmm) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let whole = message(Request::SetVringKick, 1u64.to_ne_bytes(), vec![some_fd()]);
    whole.send(&vmm).unwrap();
    let text = {
        let mut reader = Reader::default();
        reader.read(&ours).unwrap().unwrap().save()
    };
    let (head, rest) = text.body.split_at(4);
    let header: Vec<u8> = [text.code, text.flags, 8].into_iter().flat_map(u32::to_ne_bytes).collect();
    let fd = some_fd().into_raw_fd();
    let partial = MessageState { body: [&header, head].concat(), fds: vec![fd], ..MessageState::default() };
    let mut reader = Reader::restore(partial.clone(), &mut Numbers::new([fd])).unwrap();
    assert_eq!(reader.save(), partial);
    assert!(reader.read(&ours).unwrap().is_none());
    std::io::Write::write_all(&mut &vmm, rest).unwrap();
    let read = reader.read(&ours).unwrap().unwrap();
    assert_eq!((read.code, &read.body, read.fds.len()), (whole.code, &whole.body, 1));
}

#[test]
fn a_descriptor_is_taken_once_and_only_if_it_came() {
    let fd = some_fd().into_raw_fd();
    let mut numbers = Numbers::new([fd]);
    assert!(numbers.take(fd + 1000).is_err());
    drop(numbers.take(fd).unwrap());
    assert!(numbers.take(fd).is_err());
}
