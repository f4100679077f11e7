use super::*;
use std::io::Read;
use std::os::unix::net::UnixListener;
use vmm_sys_util::tempdir::TempDir;

const MS: Duration = Duration::from_millis(1);

/// Makes the attempt that is due, and gives the time from `now` until the next one.
fn fails(connector: &mut Connector, now: &mut Instant) -> Duration {
    *now = connector.due().unwrap();
    assert!(!matches!(connector.attempt(*now), Attempt::Connected(_)));
    connector.due().unwrap() - *now
}

#[test]
fn attempts_come_at_once_and_then_ever_more_slowly() {
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("vmm.sock");
    let mut now = Instant::now();
    let mut connector = Connector::new(&path, now);
    assert_eq!(connector.due(), Some(now));
    let delays: Vec<u128> = (0..8).map(|_| fails(&mut connector, &mut now).as_millis()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
}

#[test]
fn an_absent_socket_and_a_dead_one_are_the_same_and_are_told_once() {
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("vmm.sock");
    let now = Instant::now();
    let mut connector = Connector::new(&path, now);
    assert!(matches!(connector.attempt(now), Attempt::Absent { told: false }));
    assert!(matches!(connector.attempt(now), Attempt::Absent { told: true }));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(connector.attempt(now), Attempt::Absent { told: true }));
    assert!(path.exists(), "the VMM's file is the VMM's");
    let living = {
        std::fs::remove_file(&path).unwrap();
        UnixListener::bind(&path).unwrap()
    };
    assert!(matches!(connector.attempt(now), Attempt::Connected(_)));
    assert_eq!(connector.due(), None);
    connector.ended(now);
    drop(living);
    assert!(matches!(connector.attempt(now), Attempt::Absent { told: false }), "told again after a connection");
}

#[test]
fn what_waiting_does_not_mend_is_told_with_its_reason() {
    let dir = TempDir::new().unwrap();
    let now = Instant::now();
    let file = dir.as_path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut connector = Connector::new(&file.join("vmm.sock"), now);
    assert!(matches!(connector.attempt(now), Attempt::Failed(Some(e)) if e.kind() == io::ErrorKind::NotADirectory));
    assert!(matches!(connector.attempt(now), Attempt::Failed(None)));
}

#[test]
fn a_vmm_that_hangs_up_at_once_is_not_run_after() {
    let dir = TempDir::new().unwrap();
    let path = dir.as_path().join("vmm.sock");
    let vmm = UnixListener::bind(&path).unwrap();
    let mut now = Instant::now();
    let mut connector = Connector::new(&path, now);
    let mut delays = Vec::new();
    for _ in 0..7 {
        now = connector.due().unwrap();
        let Attempt::Connected(socket) = connector.attempt(now) else { panic!("no connection") };
        drop(vmm.accept().unwrap());
        socket.set_nonblocking(false).unwrap();
        assert_eq!((&socket).read(&mut [0]).unwrap(), 0);
        now += MS;
        connector.ended(now);
        delays.push((connector.due().unwrap() - now).as_millis());
    }
    assert_eq!(delays, [100, 200, 400, 800, 1600, 2000, 2000]);
    // One that lasts is followed at once, and the delays begin anew.
    now = connector.due().unwrap();
    assert!(matches!(connector.attempt(now), Attempt::Connected(_)));
    now += LAST_DELAY;
    connector.ended(now);
    assert_eq!(connector.due(), Some(now));
    assert!(matches!(connector.attempt(now), Attempt::Connected(_)));
    connector.ended(now);
    assert_eq!(connector.due(), Some(now + FIRST_DELAY));
}
