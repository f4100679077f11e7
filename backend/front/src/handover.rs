//! What a master tells a newer one that takes over from it: a sealed text in a format that has a version.
//!
//! The [header](HEADER) can be read without knowing the body: whoever takes over a format that it does not know says so by name, and the
//! older master goes on. The body is JSON of plain data ([`state`]).
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

mod state;

pub(crate) use state::{
    ConnectionState, Door, EntranceState, FrontState, LogState, MasterState, MessageState, Numbers, Offer, RegionState,
};

/// The format that this version writes. Tests build a variant that writes the next one.
pub(crate) const FORMAT: u32 = if cfg!(feature = "next-format") { 2 } else { 1 };
/// The oldest that it reads.
pub(crate) const OLDEST: u32 = 1;

const MAGIC: [u8; 8] = *b"vonichnd";
/// Bytes of the header: magic, format, CRC-32 of the body, length of the body; numbers are little-endian.
const HEADER: usize = 24;

/// Why a hand-over cannot be read. Displayed to the operator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// It is none.
    Foreign,
    /// A format that this version does not know.
    Format(u32),
    /// Its length or its sum is another one.
    Damaged,
    /// It is whole, but does not say what it should.
    Body(String),
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FormatError::Foreign => write!(f, "this is no hand-over of vonic's"),
            FormatError::Format(format) => {
                let age = if *format > FORMAT { "a newer" } else { "an older" };
                write!(f, "this hand-over is of {age} vonic (format {format}; this one knows {OLDEST} to {FORMAT})")
            }
            FormatError::Damaged => write!(f, "this hand-over is damaged: its length or its checksum is wrong"),
            FormatError::Body(what) => write!(f, "this hand-over cannot be read: {what}"),
        }
    }
}

/// The whole text: header and body.
pub(crate) fn seal(content: &impl Serialize) -> Result<Vec<u8>, FormatError> {
    let body = serde_json::to_vec(content).map_err(|e| FormatError::Body(e.to_string()))?;
    let mut text = Vec::with_capacity(HEADER + body.len());
    text.extend(MAGIC);
    text.extend(FORMAT.to_le_bytes());
    text.extend(crc32fast::hash(&body).to_le_bytes());
    text.extend((body.len() as u64).to_le_bytes());
    text.extend(body);
    Ok(text)
}

/// What a sealed text says.
pub(crate) fn open<T: DeserializeOwned>(text: &[u8]) -> Result<T, FormatError> {
    let (header, body) = text.split_at_checked(HEADER).ok_or(FormatError::Foreign)?;
    if header[..8] != MAGIC {
        return Err(FormatError::Foreign);
    }
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let format = word(8);
    if !(OLDEST..=FORMAT).contains(&format) {
        return Err(FormatError::Format(format));
    }
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    if length != body.len() as u64 || word(12) != crc32fast::hash(body) {
        return Err(FormatError::Damaged);
    }
    serde_json::from_slice(body).map_err(|e| FormatError::Body(e.to_string()))
}

#[cfg(test)]
mod tests;
