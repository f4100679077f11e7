use super::*;
use crate::testing::{message, some_fd};
use std::io::Write;

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

fn header(code: u32, flags: u32, size: u32) -> Vec<u8> {
    [code, flags, size].map(u32::to_ne_bytes).concat()
}

#[test]
fn messages_and_their_descriptors_stay_together() {
    let (a, b) = pair();
    message(Request::SetOwner, [], vec![]).send(&a).unwrap();
    message(Request::SetVringKick, [7; 8], vec![some_fd()]).send(&a).unwrap();
    message(Request::SetMemTable, [1; 4096], (0..32).map(|_| some_fd()).collect()).send(&a).unwrap();
    let mut reader = Reader::default();
    let read: Vec<Message> = std::iter::from_fn(|| reader.read(&b).unwrap()).collect();
    let seen: Vec<_> = read.iter().map(|m| (m.request().unwrap(), m.body.len(), m.fds.len())).collect();
    assert_eq!(seen, [(Request::SetOwner, 0, 0), (Request::SetVringKick, 8, 1), (Request::SetMemTable, 4096, 32)]);
}

#[test]
fn received_descriptors_close_on_exec() {
    let (a, b) = pair();
    message(Request::SetVringKick, [0; 8], vec![some_fd()]).send(&a).unwrap();
    let message = Reader::default().read(&b).unwrap().unwrap();
    let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", message.fds[0].as_raw_fd())).unwrap();
    let octal = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
    assert_ne!(i32::from_str_radix(&octal, 8).unwrap() & libc::O_CLOEXEC, 0);
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let (mut a, b) = pair();
    let mut bytes = header(2, 9, 8);
    bytes.extend(0x1234_u64.to_ne_bytes());
    bytes.extend(header(3, 1, 0));
    let mut reader = Reader::default();
    let mut complete = Vec::new();
    for (i, byte) in bytes.iter().enumerate() {
        a.write_all(&[*byte]).unwrap();
        if let Some(message) = reader.read(&b).unwrap() {
            complete.push((i, message.code, message.u64_at(0), message.needs_reply()));
        }
    }
    assert_eq!(complete, [(19, 2, Some(0x1234), true), (31, 3, None, false)]);
}

#[test]
fn an_end_is_told_from_a_broken_off_message() {
    for length in 0..20 {
        let (mut a, b) = pair();
        a.write_all(&[header(2, 1, 8), vec![0; 8]].concat()[..length]).unwrap();
        drop(a);
        let error = Reader::default().read(&b).unwrap_err();
        assert_eq!(matches!(error, ReadError::Closed), length == 0, "{length}: {error}");
        assert_eq!(matches!(error, ReadError::Truncated), length > 0, "{length}: {error}");
    }
}

#[test]
fn garbage_is_found_in_the_header() {
    let cases = [
        (header(1, 0, 0), "flags 0x0"),
        (header(1, 2, 0), "flags 0x2"),
        (header(1, 0x11, 0), "flags 0x11"),
        (header(1, 1, 4097), "4097 bytes"),
        (header(1, 1, u32::MAX), "4294967295 bytes"),
        (b"GET / HTTP/1.1\r\n".to_vec(), "not a vhost-user message"),
    ];
    for (bytes, complaint) in cases {
        let (mut a, b) = pair();
        a.write_all(&bytes).unwrap();
        let error = Reader::default().read(&b).unwrap_err().to_string();
        assert!(error.contains(complaint), "{error}");
    }
}

#[test]
fn too_many_descriptors_are_refused_and_closed() {
    let (a, b) = pair();
    let witness = UnixStream::pair().unwrap();
    let mut fds: Vec<OwnedFd> = (0..32).map(|_| some_fd()).collect();
    fds.push(witness.0.into());
    message(Request::SetMemTable, [0; 8], fds).send(&a).unwrap();
    assert!(matches!(Reader::default().read(&b), Err(ReadError::TooManyFds)));
    assert!(sys::hung_up(witness.1.as_fd()), "a copy of the last descriptor is still open");

    // The same in two portions: 20 with the header, 20 with the body.
    let (a, b) = pair();
    let raw: Vec<OwnedFd> = (0..20).map(|_| some_fd()).collect();
    let raw: Vec<RawFd> = raw.iter().map(AsRawFd::as_raw_fd).collect();
    a.send_with_fds(&[&header(5, 1, 8)[..]], &raw).unwrap();
    a.send_with_fds(&[&[0_u8; 8][..]], &raw).unwrap();
    assert!(matches!(Reader::default().read(&b), Err(ReadError::TooManyFds)));
}

#[test]
fn sending_to_one_who_does_not_read_fails_at_once() {
    let (a, _b) = pair();
    let reply = Message::reply(24, vec![0; 4096]);
    let error = (0..10_000).find_map(|_| reply.send(&a).err()).unwrap();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::WriteZero), "{error}");
}

#[test]
fn codes_and_names_agree() {
    for code in 0..64 {
        if let Some(request) = Request::from_code(code) {
            assert_eq!(request as u32, code);
        }
    }
    assert_eq!(Request::from_code(0), None);
    assert_eq!(Request::from_code(35), None, "VRING_KICK: in-band kicks are not offered");
}
