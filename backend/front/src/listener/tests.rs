use super::*;
use std::os::unix::net::UnixStream;
use vmm_sys_util::tempdir::TempDir;

fn directory() -> TempDir {
    TempDir::new().unwrap()
}

#[test]
fn permissions_and_removal() {
    let dir = directory();
    let path = dir.as_path().join("vm.sock");
    let listener = Listener::bind(&path, 0o640, 16).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(listener.accept().unwrap().is_none());
    let _client = UnixStream::connect(&path).unwrap();
    assert!(listener.accept().unwrap().is_some());
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn the_dead_are_replaced_and_the_living_are_not() {
    let dir = directory();
    let path = dir.as_path().join("vm.sock");
    drop(UnixListener::bind(&path).unwrap()); // Its file stays, nobody answers.
    let listener = Listener::bind(&path, 0o600, 16).unwrap();
    let error = Listener::bind(&path, 0o600, 16).unwrap_err();
    assert!(matches!(error, ListenError::Served(_)), "{error}");
    assert!(path.exists() && listener.accept().unwrap().is_some(), "the attempt itself is a connection, which closes");
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_full_backlog_is_somebody() {
    let dir = directory();
    let path = dir.as_path().join("vm.sock");
    let socket = sys::bind(&path).unwrap();
    sys::listen(socket.as_fd(), 16).unwrap();
    // Each probe is a connection that waits to be accepted, and 16 may.
    assert!((0..40).all(|_| sys::is_served(&path).unwrap()));
    assert!(matches!(Listener::bind(&path, 0o600, 16), Err(ListenError::Served(_))));
}

#[test]
fn other_files_are_left_alone() {
    let dir = directory();
    let path = dir.as_path().join("vm.sock");
    fs::write(&path, "precious").unwrap();
    let error = Listener::bind(&path, 0o600, 16).unwrap_err();
    assert!(matches!(error, ListenError::NoSocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let path = dir.as_path().join("other.sock");
    let listener = Listener::bind(&path, 0o600, 16).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody else's").unwrap();
    drop(listener);
    assert!(path.exists(), "what is at the path is no longer ours");
}

#[test]
fn errors_say_what_to_do() {
    let dir = directory();
    let missing = Listener::bind(&dir.as_path().join("no/vm.sock"), 0o600, 16).unwrap_err().to_string();
    assert!(missing.contains("create it"), "{missing}");
    let long = Listener::bind(&dir.as_path().join("x".repeat(120)), 0o600, 16).unwrap_err().to_string();
    assert!(long.contains("1 to 107 bytes"), "{long}");
}
