//! The stream's first bytes, which can be read without knowing anything else of it, in every version.
use std::fmt;
use std::io::{self, Read};

/// The version that is written.
pub const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"vonicmig";
/// Magic, version, CRC of the body, length of the body, CRC of all that.
const HEADER: usize = 28;

/// Why a stream cannot be used. Displayed to the operator.
#[derive(Debug)]
pub enum StreamError {
    /// It is none.
    Foreign,
    /// It is of a version that this vonic does not know.
    Version(u32),
    /// Bytes are missing, too many, or changed; what about it contradicts the rest.
    Damaged(&'static str),
    /// It cannot be read, or written.
    Io(io::Error),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Foreign => write!(f, "this is no state of vonic's"),
            StreamError::Version(version) if *version > VERSION => {
                write!(
                    f,
                    "this stream is of a newer vonic (format {version}; this one knows {VERSION}): upgrade vonic here first"
                )
            }
            StreamError::Version(version) => {
                write!(f, "this stream is of format {version}, which no vonic has written")
            }
            StreamError::Damaged(what) => write!(f, "this stream is damaged: {what}"),
            StreamError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StreamError {}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> StreamError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => StreamError::Damaged("it ends too early"),
            _ => StreamError::Io(error),
        }
    }
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which format the body has.
    pub version: u32,
    /// Bytes of the body.
    pub length: u64,
    /// CRC-32 of the body.
    pub crc: u32,
}

impl Header {
    /// Reads no more than the header.
    ///
    /// # Errors
    /// See [`StreamError`]; not for a version that is unknown.
    pub fn read(from: &mut impl Read) -> Result<Header, StreamError> {
        let mut bytes = [0; HEADER];
        from.read_exact(&mut bytes)?;
        let (covered, own) = bytes.split_at(HEADER - 4);
        if !covered.starts_with(MAGIC) {
            return Err(StreamError::Foreign);
        }
        if own != crc32fast::hash(covered).to_le_bytes() {
            return Err(StreamError::Damaged("its header has changed"));
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| covered[at + i]));
        let length = u64::from_le_bytes(std::array::from_fn(|i| covered[16 + i]));
        Ok(Header { version: word(8), crc: word(12), length })
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.crc.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}
