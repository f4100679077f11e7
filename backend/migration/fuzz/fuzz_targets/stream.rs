//! Streams of whatever bytes: as they are, and as a body whose header agrees with it. What is read is written and read again.
#![no_main]

use vonic_migration::{Header, PortState, Stream, StreamError, VERSION, write};

fn read(bytes: &[u8]) -> Result<PortState, StreamError> {
    Stream::read(bytes).and_then(PortState::try_from)
}

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    drop(read(body));
    let header = Header { version: VERSION, length: body.len() as u64, crc: crc32fast::hash(body) };
    if let Ok(port) = read(&[&header.to_bytes(), body].concat()) {
        let mut again = Vec::new();
        write(&port, &mut again).expect("memory takes it");
        assert_eq!(read(&again).expect("it was written so"), port);
    }
});
