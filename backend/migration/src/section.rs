//! The body's parts: a tag, a length, and so many bytes. Lengths are bounds: nothing is allocated for bytes that do not come.
use crate::header::StreamError;
use crc32fast::Hasher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// Bytes that are allocated ahead of what is read, at most.
const AHEAD: u64 = 1 << 16;
/// Bytes of a section's head.
const HEAD: u64 = 9;

/// Counts and sums what is written to it.
#[derive(Default)]
pub(crate) struct Sum {
    pub hasher: Hasher,
    pub length: u64,
}

impl Write for Sum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one section: plain data, and behind it bytes as they are.
pub(crate) fn write(to: &mut impl Write, tag: u8, data: &impl Serialize, bulk: &[&[u8]]) -> Result<(), StreamError> {
    let data = postcard::to_stdvec(data).map_err(|error| StreamError::Io(io::Error::other(error)))?;
    let length = 4 + data.len() as u64 + bulk.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    to.write_all(&[tag])?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&(data.len() as u32).to_le_bytes())?;
    to.write_all(&data)?;
    bulk.iter().try_for_each(|bytes| to.write_all(bytes))?;
    Ok(())
}

/// The body while it is read.
pub(crate) struct Body<R> {
    from: R,
    hasher: Hasher,
    /// Bytes of the body, and of the section, that are left.
    left: u64,
    section: u64,
}

impl<R: Read> Body<R> {
    pub(crate) fn new(from: R, length: u64) -> Body<R> {
        Body { from, hasher: Hasher::new(), left: length, section: 0 }
    }

    /// The next section's tag; `None` at the body's end. The section before was read whole.
    pub(crate) fn next(&mut self) -> Result<Option<u8>, StreamError> {
        if self.section != 0 {
            return Err(StreamError::Damaged("a section is longer than what it holds"));
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.section = HEAD.min(self.left);
        let head = self.bytes(HEAD)?;
        let length = head[1..].iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte));
        if length > self.left {
            return Err(StreamError::Damaged("a section is longer than the rest"));
        }
        self.section = length;
        Ok(Some(head[0]))
    }

    /// The section's plain data, of at most so many bytes, all of which it takes.
    pub(crate) fn data<T: DeserializeOwned>(&mut self, limit: u64) -> Result<T, StreamError> {
        let length = self.bytes(4)?.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte));
        if length > limit {
            return Err(StreamError::Damaged("a section's data is too long"));
        }
        let bytes = self.bytes(length)?;
        match postcard::take_from_bytes(&bytes) {
            Ok((data, [])) => Ok(data),
            Ok(_) => Err(StreamError::Damaged("a section's data has bytes left over")),
            Err(_) => Err(StreamError::Damaged("a section's data makes no sense")),
        }
    }

    /// So many of the section's bytes.
    pub(crate) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, StreamError> {
        if length > self.section {
            return Err(StreamError::Damaged("a section is shorter than what it holds"));
        }
        let mut bytes = Vec::with_capacity(length.min(AHEAD) as usize);
        let got = Read::take(&mut self.from, length).read_to_end(&mut bytes)? as u64;
        if got < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.hasher.update(&bytes);
        self.left -= length;
        self.section -= length;
        Ok(bytes)
    }

    /// Everything was read, and is what was written; nothing follows.
    pub(crate) fn finish(mut self, crc: u32) -> Result<(), StreamError> {
        if self.hasher.finalize() != crc {
            return Err(StreamError::Damaged("its checksum is another one"));
        }
        match self.from.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(StreamError::Damaged("it goes on behind its end")),
        }
    }
}
