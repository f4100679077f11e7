//! TCP options (RFC 9293 §3.2): those that the leg uses, parsed without failing, and written.

use crate::{SackBlocks, Seq};

/// The largest shift of a window; larger ones count as this (RFC 7323 §2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;
const WINDOW_SCALE: u8 = 3;
const WINDOW_SCALE_LEN: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK_PERMITTED_LEN: u8 = 2;
const SACK: u8 = 5;
/// Two edges of four bytes each.
const SACK_BLOCK_LEN: usize = 8;
const TIMESTAMPS: u8 = 8;
const TIMESTAMPS_LEN: u8 = 10;

/// Bytes of a timestamps option with its padding (RFC 7323 appendix A).
pub(crate) const TIMESTAMPS_SPACE: u16 = 12;

/// The options that the leg knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Maximum segment size, as sent.
    pub mss: Option<u16>,
    /// Shift of the sender's window, as sent: it can be above [`MAX_WINDOW_SCALE`].
    pub window_scale: Option<u8>,
    /// The sender can use selective acknowledgments (RFC 2018 §2).
    pub sack_permitted: bool,
    /// RFC 7323 §3.
    pub timestamps: Option<Timestamps>,
    /// Selective acknowledgments (RFC 2018 §3).
    pub sack: SackBlocks,
}

/// The timestamps option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timestamps {
    /// TSval: the sender's clock.
    pub val: u32,
    /// TSecr: the other side's clock, echoed; without meaning unless ACK is set.
    pub ecr: u32,
}

impl Options {
    /// Reads the options of a header. Unknown ones and known ones of a wrong length are passed over; one whose length
    /// is below 2 or overruns the header ends the parse, and what was read before it counts.
    pub fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        loop {
            bytes = match bytes {
                [] | [END, ..] => return options,
                [NO_OPERATION, rest @ ..] => rest,
                &[kind, len, ..] if len >= 2 && usize::from(len) <= bytes.len() => {
                    let (option, rest) = bytes.split_at(usize::from(len));
                    options.note(kind, &option[2..]);
                    rest
                }
                _ => return options,
            };
        }
    }

    fn note(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                let (val, ecr) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                self.timestamps = Some(Timestamps { val, ecr });
            }
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (SACK, edges) if edges.len() % SACK_BLOCK_LEN == 0 => {
                for block in edges.chunks_exact(SACK_BLOCK_LEN) {
                    if let &[a, b, c, d, e, f, g, h] = block {
                        let (left, right) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
                        self.sack.push(Seq(left), Seq(right));
                    }
                }
            }
            _ => {}
        }
    }

    /// The options as they stand in a header, in whole words: the gaps are no-operations, so that no padding is needed.
    /// Of more blocks than there is room for, the first are written.
    pub fn emit(&self) -> OptionBytes {
        let mut out = OptionBytes::EMPTY;
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            out.push(&[MSS, MSS_LEN, high, low]);
        }
        if let Some(shift) = self.window_scale {
            out.push(&[NO_OPERATION, WINDOW_SCALE, WINDOW_SCALE_LEN, shift]);
        }
        if self.sack_permitted {
            out.push(&[NO_OPERATION, NO_OPERATION, SACK_PERMITTED, SACK_PERMITTED_LEN]);
        }
        if let Some(Timestamps { val, ecr }) = self.timestamps {
            out.push(&[NO_OPERATION, NO_OPERATION, TIMESTAMPS, TIMESTAMPS_LEN]);
            out.push(&val.to_be_bytes());
            out.push(&ecr.to_be_bytes());
        }
        let room = (out.room().saturating_sub(4)) / SACK_BLOCK_LEN;
        let blocks = &self.sack.as_slice()[..self.sack.as_slice().len().min(room)];
        if !blocks.is_empty() {
            out.push(&[NO_OPERATION, NO_OPERATION, SACK, (2 + blocks.len() * SACK_BLOCK_LEN) as u8]);
            for (left, right) in blocks {
                out.push(&left.0.to_be_bytes());
                out.push(&right.0.to_be_bytes());
            }
        }
        out
    }
}

/// The options of one header, ready to be copied behind its fixed part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionBytes {
    bytes: [u8; 40],
    len: u8,
}

impl OptionBytes {
    /// No options.
    pub const EMPTY: OptionBytes = OptionBytes { bytes: [0; 40], len: 0 };

    /// The bytes; their number is a multiple of 4.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn room(&self) -> usize {
        self.bytes.len() - usize::from(self.len)
    }

    fn push(&mut self, option: &[u8]) {
        let start = usize::from(self.len);
        if let Some(place) = self.bytes.get_mut(start..start + option.len()) {
            place.copy_from_slice(option);
            self.len += option.len() as u8;
        }
    }
}
