//! Messages of DHCPv6 as they are read and written (RFC 8415 §8, §21).
use std::net::Ipv6Addr;
use vonic_frame::DropReason;

/// Options (RFC 8415 §21).
pub mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_ADDRESS: u16 = 5;
    pub const REQUEST: u16 = 6;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    /// RFC 3646.
    pub const RESOLVERS: u16 = 23;
    pub const SEARCH: u16 = 24;
    /// RFC 4704.
    pub const CLIENT_NAME: u16 = 39;
}

/// The longest message: with the headers of UDP and IPv6, what every link takes (RFC 8200 §5).
const LONGEST: usize = 1280 - 48;

/// A message under construction.
pub struct Message {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Default for Message {
    fn default() -> Message {
        Message { bytes: [0; LONGEST], len: 0 }
    }
}

impl Message {
    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Adds bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        let end = self.len + bytes.len();
        self.bytes.get_mut(self.len..end).ok_or(DropReason::Oversized)?.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn put_u16(&mut self, value: u16) -> Result<(), DropReason> {
        self.put(&value.to_be_bytes())
    }

    /// Adds a whole option.
    pub fn option(&mut self, code: u16, data: &[u8]) -> Result<(), DropReason> {
        self.put_u16(code)?;
        self.put_u16(data.len() as u16)?;
        self.put(data)
    }

    /// An option that holds others: `fill` writes what is in it.
    pub fn nested(
        &mut self,
        code: u16,
        fill: impl FnOnce(&mut Message) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        self.put_u16(code)?;
        let at = self.len;
        self.put_u16(0)?;
        fill(self)?;
        let len = (self.len - at - 2) as u16;
        self.bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }

    /// Adds a status code.
    pub fn status(&mut self, code: u16) -> Result<(), DropReason> {
        self.option(option::STATUS, &code.to_be_bytes())
    }
}

/// The options in `bytes`; what is cut short ends them.
pub fn options(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d, ref rest @ ..] = bytes else { return None };
        let (data, rest) = rest.split_at_checked(u16::from_be_bytes([c, d]).into())?;
        bytes = rest;
        Some((u16::from_be_bytes([a, b]), data))
    })
}

/// What a client asks.
pub struct Request<'a> {
    pub kind: u8,
    pub transaction: [u8; 3],
    pub options: &'a [u8],
}

impl<'a> Request<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Request<'a>, DropReason> {
        let &[kind, a, b, c, ref options @ ..] = bytes else { return Err(DropReason::BadHeader) };
        Ok(Request { kind, transaction: [a, b, c], options })
    }

    pub fn find(&self, code: u16) -> Option<&'a [u8]> {
        options(self.options).find(|(other, _)| *other == code).map(|(_, data)| data)
    }

    /// The identity associations: their IAID, and what is in them.
    pub fn associations(&self) -> impl Iterator<Item = ([u8; 4], &'a [u8])> {
        let all = options(self.options).filter(|(code, _)| *code == option::IA_NA);
        all.filter_map(|(_, data)| Some((*data.first_chunk()?, data.get(12..)?)))
    }
}

/// The addresses that an association names.
pub fn addresses(association: &[u8]) -> impl Iterator<Item = Ipv6Addr> {
    let all = options(association).filter(|(code, _)| *code == option::IA_ADDRESS);
    all.filter_map(|(_, data)| data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets)))
}
