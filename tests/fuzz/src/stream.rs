//! Streams of a guest that moves: as they are, and as a body whose header agrees with it. What is read is written and read again.
use vonic_migration::{Header, PortState, Stream, StreamError, VERSION, write};

fn read(bytes: &[u8]) -> Result<PortState, StreamError> {
    Stream::read(bytes).and_then(PortState::try_from)
}

/// An input is a stream's body, or all of it.
pub fn run(body: &[u8]) {
    let whole = read(body);
    let header = Header { version: VERSION, length: body.len() as u64, crc: crc32fast::hash(body) };
    for port in [whole, read(&[&header.to_bytes(), body].concat())].into_iter().flatten() {
        let mut again = Vec::new();
        let written = write(&port, &mut again);
        assert!(written.is_ok(), "memory takes it: {written:?}");
        let read = read(&again);
        assert!(read.as_ref().is_ok_and(|read| *read == port), "{read:?}");
    }
}
