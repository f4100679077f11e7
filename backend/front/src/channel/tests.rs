use super::*;
use std::os::unix::ffi::OsStrExt;

fn pair() -> (MasterLink, EngineLink) {
    let (ours, theirs) = sys::seqpacket_pair().unwrap();
    (MasterLink::new(ours).unwrap(), EngineLink::new(theirs))
}

#[test]
fn every_message_arrives_as_it_was_sent() {
    let (mut master, engine) = pair();
    let down = [
        ToEngine::Listening { name: "web1".into(), result: Ok(7) },
        ToEngine::Listening { name: API.into(), result: Err("in use".into()) },
        ToEngine::Connected { name: "web1".into(), session: u64::MAX },
        ToEngine::Present,
        ToEngine::Disconnected { session: 3 },
        ToEngine::Marked { number: 5 },
        ToEngine::Reload,
        ToEngine::Stop,
    ];
    for message in down {
        master.send(&message);
        assert_eq!(engine.recv().unwrap(), Some(message));
    }
    let up = [
        ToMaster::Listen { name: "a \"b\"".into(), path: "/run/vonic/ä.sock".into(), mode: 0o600 },
        ToMaster::Unlisten { name: "web1".into() },
        ToMaster::Session { session: 1, fd: 9 },
        ToMaster::SessionRefused { session: 1 },
        ToMaster::Keep { name: "config".into(), fd: 11 },
        ToMaster::Mark { number: u64::MAX },
        ToMaster::Ready,
    ];
    for message in up {
        engine.try_clone().unwrap().send(&message).unwrap();
        assert_eq!(master.recv().unwrap(), Some(message));
    }
    assert_eq!(master.recv().unwrap(), None);
}

#[test]
fn both_ends_see_the_other_go() {
    let (master, engine) = pair();
    drop(master);
    assert_eq!(engine.recv().unwrap(), None);
    assert_eq!(engine.send(&ToMaster::Ready).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let (master, engine) = pair();
    engine.shutdown();
    assert_eq!(master.recv().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(engine.recv().unwrap(), None);
}

#[test]
fn an_engine_that_does_not_read_is_not_waited_for() {
    let (mut master, engine) = pair();
    let mut session = 0;
    while !master.is_crowded() {
        session += 1;
        master.send(&ToEngine::Disconnected { session });
    }
    assert!(master.has_unsent());
    for expected in 1..=session {
        assert_eq!(engine.recv().unwrap(), Some(ToEngine::Disconnected { session: expected }), "in order, none lost");
        master.flush();
    }
    assert!(!master.has_unsent());
}

#[test]
fn nonsense_is_an_error_and_not_the_end() {
    let (master, engine) = pair();
    engine.0.send(b"{\"Sing\":1}").unwrap();
    assert_eq!(master.recv().unwrap_err().kind(), io::ErrorKind::InvalidData);
    engine.send(&ToMaster::Ready).unwrap();
    assert_eq!(master.recv().unwrap(), Some(ToMaster::Ready));
    let unspeakable = std::ffi::OsStr::from_bytes(&[0xff]);
    let listen = ToMaster::Listen { name: "x".into(), path: PathBuf::from(unspeakable), mode: 0 };
    assert_eq!(engine.send(&listen).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_listener_is_duplicated_and_stays_the_masters() {
    let dir = vmm_sys_util::tempdir::TempDir::new().unwrap();
    let path = dir.as_path().join("api.sock");
    let master = UnixListener::bind(&path).unwrap();
    drop(adopt_listener(master.as_raw_fd()).unwrap());
    let engine = adopt_listener(master.as_raw_fd()).unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(engine.accept().is_ok());
    assert!(adopt_listener(1_000_000).is_err());
}
