use super::*;
use crate::testing::{memory_file, some_fd};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsFd, RawFd};

/// What a vonicd that is offered this says to itself and to the older one.
fn offered(text: &[u8], fds: &[RawFd], inspect: impl FnOnce(&[u8]) -> Result<MasterConfig, String>) -> String {
    let (older, newer) = sys::seqpacket_pair().unwrap();
    let (older, newer) = (Channel::new(older), Channel::new(newer));
    older.send_bytes(text, fds).unwrap();
    match prepare(&newer, inspect) {
        Ok(_) => "ready".into(),
        Err(why) => why,
    }
}

/// A checkpoint whose layout calls itself by this version.
fn checkpoint_of(version: u32) -> OwnedFd {
    let checkpoint = Checkpoint::create(4).unwrap();
    let fd = checkpoint.as_fd().try_clone_to_owned().unwrap();
    let mut file = fs::File::from(fd.try_clone().unwrap());
    file.seek(SeekFrom::Start(8)).unwrap();
    file.write_all(&version.to_ne_bytes()).unwrap();
    fd
}

fn good(left: &[u8]) -> Result<MasterConfig, String> {
    if left == b"the configuration" { Ok(MasterConfig::default()) } else { Err("unreadable".into()) }
}

#[test]
fn an_offer_is_taken_whole_or_refused_by_name() {
    let offer = handover::seal(&Offer { vonic: "0.0.9".into() }).unwrap();
    let left = sys::memory_file(b"the configuration").unwrap();
    let sound = checkpoint_of(vonic_record::VERSION);
    let with = |checkpoint: &OwnedFd| offered(&offer, &[checkpoint.as_raw_fd(), left.as_raw_fd()], good);
    assert_eq!(with(&sound), "ready");
    let newer = with(&checkpoint_of(vonic_record::VERSION + 1));
    assert!(newer.contains("this checkpoint is of a newer vonic"), "{newer}");
    let older = with(&checkpoint_of(vonic_record::OLDEST - 1));
    assert!(older.contains("this checkpoint is of an older vonic"), "{older}");
    for none in [memory_file(8192), some_fd()] {
        let said = with(&none);
        assert!(said.contains("this is no checkpoint"), "{said}");
    }
    let both = [sound.as_raw_fd(), left.as_raw_fd()];
    assert_eq!(offered(&offer, &both, |_| Err("vonic.toml:1: no".into())), "vonic.toml:1: no");
    assert!(offered(&offer, &both[..1], good).contains("lacks its descriptors"));
    let mut damaged = offer.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(offered(&damaged, &both, good).contains("damaged"));
    assert!(offered(b"GET / HTTP/1.1\r\n\r\n and more", &both, good).contains("no hand-over of vonic's"));
    let mut future = offer.clone();
    future[8] += 9;
    assert!(offered(&future, &both, good).contains("a newer vonic"));
}

/// The state, as an older vonicd sends it, with descriptors of its own.
fn state(descriptors: impl IntoIterator<Item = RawFd>) -> MasterState {
    MasterState {
        descriptors: descriptors.into_iter().collect(),
        kept: Default::default(),
        entrances: Default::default(),
        connections: Default::default(),
        last_session: 0,
        upgrades: 0,
        history: Default::default(),
        blames: Default::default(),
    }
}

/// Numbers that this process does not use, and no other test gets.
const FAR: RawFd = 700;

#[test]
fn every_descriptor_gets_its_own_number() {
    let limit = Instant::now() + std::time::Duration::from_secs(10);
    let (older, newer) = sys::seqpacket_pair().unwrap();
    let (older, newer) = (Channel::new(older), Channel::new(newer));
    // More than one message can carry, of two kinds.
    let wanted: Vec<RawFd> = (FAR..FAR + 300).collect();
    let files = [memory_file(1), memory_file(2)];
    let text = sys::memory_file(&handover::seal(&state(wanted.clone())).unwrap()).unwrap();
    older.send(&ToSuccessor::State, &[text.as_raw_fd()]).unwrap();
    let (state, newer) = receive_state(newer, limit).unwrap();
    for batch in wanted.chunks(sys::SCM_MAX_FD) {
        let sent: Vec<RawFd> = batch.iter().map(|n| files[*n as usize % 2].as_raw_fd()).collect();
        older.send(&ToSuccessor::Descriptors(batch.to_vec()), &sent).unwrap();
    }
    let mut numbers = receive_descriptors(&newer, &state, limit).unwrap();
    for number in wanted {
        let file = fs::File::from(numbers.take(number).unwrap());
        assert_eq!((file.as_raw_fd(), file.metadata().unwrap().len()), (number, number as u64 % 2 + 1));
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let limit = Instant::now() + std::time::Duration::from_secs(10);
    let told = |messages: &[(ToSuccessor, &[RawFd])], numbers: &[RawFd]| {
        let (older, newer) = sys::seqpacket_pair().unwrap();
        let (older, newer) = (Channel::new(older), Channel::new(newer));
        messages.iter().for_each(|(message, fds)| older.send(message, fds).unwrap());
        drop(older);
        receive_descriptors(&newer, &state(numbers.iter().copied()), limit).map(drop).unwrap_err().to_string()
    };
    let fd = [1];
    assert!(told(&[], &[FAR + 400]).contains("end of file"));
    assert!(told(&[(ToSuccessor::Go, &[])], &[FAR + 400]).contains("missing"));
    let short = ToSuccessor::Descriptors(vec![FAR + 400, FAR + 401]);
    assert!(told(&[(short, &fd)], &[FAR + 400, FAR + 401]).contains("do not fit"));
    // A number that was not announced may be anything's.
    assert!(told(&[(ToSuccessor::Descriptors(vec![0]), &fd)], &[FAR + 400]).contains("do not fit"));
    let (older, newer) = sys::seqpacket_pair().unwrap();
    let (older, newer) = (Channel::new(older), Channel::new(newer));
    let text = sys::memory_file(&handover::seal(&state([1])).unwrap()).unwrap();
    older.send(&ToSuccessor::State, &[text.as_raw_fd()]).unwrap();
    let taken = receive_state(newer, limit).unwrap_err().to_string();
    assert!(taken.contains("descriptor 1 is in use in the new process"), "{taken}");
}
