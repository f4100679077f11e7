//! TCP options (RFC 9293 §3.2): those that the leg uses, parsed without failing, and written for its SYN.

/// The largest shift of a window; larger ones count as this (RFC 7323 §2.3).
pub const MAX_WINDOW_SCALE: u8 = 14;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;
const WINDOW_SCALE: u8 = 3;
const WINDOW_SCALE_LEN: u8 = 3;

/// The options that the leg knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Maximum segment size, as sent.
    pub mss: Option<u16>,
    /// Shift of the sender's window, as sent: it can be above [`MAX_WINDOW_SCALE`].
    pub window_scale: Option<u8>,
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
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            _ => {}
        }
    }

    /// The options as they stand in a header, padded to whole words with no-operations.
    pub fn emit(&self) -> OptionBytes {
        let mut out = OptionBytes::EMPTY;
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            out.push(&[MSS, MSS_LEN, high, low]);
        }
        if let Some(shift) = self.window_scale {
            out.push(&[NO_OPERATION, WINDOW_SCALE, WINDOW_SCALE_LEN, shift]);
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

    fn push(&mut self, option: &[u8]) {
        let start = usize::from(self.len);
        if let Some(place) = self.bytes.get_mut(start..start + option.len()) {
            place.copy_from_slice(option);
            self.len += option.len() as u8;
        }
    }
}
