//! The whole stream.
use crate::header::{Header, StreamError, VERSION};
use crate::section::{self, Body, Sum};
use crate::state::{FlowState, PortState};
use crate::v1;
use std::io::{Read, Write};

/// What a stream held, in the version that it was written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Format 1.
    V1(v1::Port),
}

impl Stream {
    /// Reads a whole stream, up to the reader's end.
    ///
    /// # Errors
    /// See [`StreamError`]. Nothing of it is to be used then.
    pub fn read(mut from: impl Read) -> Result<Stream, StreamError> {
        let header = Header::read(&mut from)?;
        match header.version {
            1 => {
                let mut body = Body::new(from, header.length);
                let port = v1::read(&mut body)?;
                body.finish(header.crc)?;
                Ok(Stream::V1(port))
            }
            version => Err(StreamError::Version(version)),
        }
    }
}

impl TryFrom<Stream> for PortState {
    type Error = StreamError;

    fn try_from(stream: Stream) -> Result<PortState, StreamError> {
        match stream {
            Stream::V1(port) => port.try_into(),
        }
    }
}

/// Writes a port in today's version: the header, then everything behind it, each byte of a queue straight from where it is.
///
/// # Errors
/// The writer's.
pub fn write(port: &PortState, to: &mut impl Write) -> Result<(), StreamError> {
    // Twice, since the header in front tells of the whole: the first time it is only counted and summed.
    let mut sum = Sum::default();
    write_body(port, &mut sum)?;
    let header = Header { version: VERSION, length: sum.length, crc: sum.hasher.finalize() };
    to.write_all(&header.to_bytes())?;
    write_body(port, to)
}

fn write_body(port: &PortState, to: &mut impl Write) -> Result<(), StreamError> {
    section::write(to, v1::PORT, &v1::Head::of(port), &[])?;
    for flow in &port.flows {
        let bulk: [&[u8]; 2] = match flow {
            FlowState { socket: Some(socket), .. } => [&socket.received, &socket.send],
            FlowState { socket: None, .. } => [&[], &[]],
        };
        section::write(to, v1::FLOW, &v1::Flow::of(flow), &bulk)?;
    }
    port.datagrams.iter().try_for_each(|flow| section::write(to, v1::DATAGRAMS, &v1::Datagrams::of(flow), &[]))
}
