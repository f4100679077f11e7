//! vhost-user framing: a 12-byte header, at most 4096 bytes, at most 32 descriptors (vhost-user specification, "Message
//! Specification"). Numbers are in the host's byte order.
use crate::handover::{MessageState, Numbers};
use crate::sys;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const HEADER: usize = 12;
const MAX_BODY: usize = 4096;
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $code:literal),* $(,)?) => {
        /// The requests that the front knows, by their codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Request { $($(#[$doc])* $name = $code),* }

        impl Request {
            /// The request with this code; None if the front does not know it.
            pub fn from_code(code: u32) -> Option<Request> {
                match code { $($code => Some(Request::$name),)* _ => None }
            }
        }
    };
}

requests! {
    /// The virtio features offered.
    GetFeatures = 1,
    /// The virtio features acknowledged.
    SetFeatures = 2,
    /// The VMM claims the session.
    SetOwner = 3,
    /// No longer used; to be ignored.
    ResetOwner = 4,
    /// The whole memory map, a file per region.
    SetMemTable = 5,
    /// The dirty log's memory.
    SetLogBase = 6,
    /// A descriptor to signal that the log changed.
    SetLogFd = 7,
    /// A ring's size.
    SetVringNum = 8,
    /// A ring's addresses, as the VMM's own.
    SetVringAddr = 9,
    /// A ring's position.
    SetVringBase = 10,
    /// Stops a ring and asks for its position.
    GetVringBase = 11,
    /// A ring's kick descriptor; starts it.
    SetVringKick = 12,
    /// A ring's call descriptor.
    SetVringCall = 13,
    /// A ring's error descriptor.
    SetVringErr = 14,
    /// The protocol features offered.
    GetProtocolFeatures = 15,
    /// The protocol features acknowledged.
    SetProtocolFeatures = 16,
    /// How many rings there may be.
    GetQueueNum = 17,
    /// Enables or disables a ring.
    SetVringEnable = 18,
    /// Announce the guest after a migration.
    SendRarp = 19,
    /// The MTU that the host wants.
    NetSetMtu = 20,
    /// A socket on which the backend may ask the VMM for something.
    SetBackendReqFd = 21,
    /// Read the configuration space.
    GetConfig = 24,
    /// Write the configuration space.
    SetConfig = 25,
    /// Back to the state before the driver: rings stopped, features forgotten, memory kept.
    ResetDevice = 34,
    /// How many memory regions there may be.
    GetMaxMemSlots = 36,
    /// One more memory region, with its file.
    AddMemReg = 37,
    /// One memory region less.
    RemMemReg = 38,
    /// The device's status byte.
    SetStatus = 39,
    /// Asks for it.
    GetStatus = 40,
    /// Transfer the device's state through the descriptor that comes with it.
    SetDeviceStateFd = 42,
    /// Asks how that went.
    CheckDeviceState = 43,
}

impl Request {
    /// Answered by a message of its own, whether or not NEED_REPLY is set.
    pub fn has_reply(self) -> bool {
        matches!(
            self,
            Request::GetFeatures
                | Request::GetVringBase
                | Request::GetProtocolFeatures
                | Request::GetQueueNum
                | Request::GetConfig
                | Request::GetMaxMemSlots
                | Request::GetStatus
                | Request::SetLogBase
                | Request::SetDeviceStateFd
                | Request::CheckDeviceState
        )
    }

    /// Memory is mapped or unmapped for it: while that lasts, everything in the engine that comes upon a page for the first time waits.
    pub(crate) fn maps_memory(self) -> bool {
        matches!(self, Request::SetMemTable | Request::SetLogBase | Request::AddMemReg | Request::RemMemReg)
    }
}

/// One message and the descriptors that came with it.
#[derive(Debug)]
pub struct Message {
    /// The request's number; a reply has its request's.
    pub code: u32,
    /// Version, REPLY, NEED_REPLY.
    pub flags: u32,
    /// At most 4096 bytes.
    pub body: Vec<u8>,
    /// At most 32.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A request without descriptors that asks for no reply.
    pub fn new(request: Request, body: Vec<u8>) -> Message {
        Message { code: request as u32, flags: VERSION, body, fds: Vec::new() }
    }

    /// The answer to a request with this code.
    pub fn reply(code: u32, body: Vec<u8>) -> Message {
        Message { code, flags: VERSION | REPLY, body, fds: Vec::new() }
    }

    /// The same message once more, with descriptors of its own.
    ///
    /// # Errors
    /// No room in the descriptor table.
    pub(crate) fn duplicate(&self) -> io::Result<Message> {
        let fds = self.fds.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Message { code: self.code, flags: self.flags, body: self.body.clone(), fds })
    }

    pub(crate) fn save(&self) -> MessageState {
        let Message { code, flags, body, fds } = self;
        MessageState {
            code: *code,
            flags: *flags,
            body: body.clone(),
            fds: fds.iter().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    pub(crate) fn restore(state: MessageState, numbers: &mut Numbers) -> io::Result<Message> {
        let MessageState { code, flags, body, fds } = state;
        let fds = fds.into_iter().map(|fd| numbers.take(fd)).collect::<io::Result<_>>()?;
        Ok(Message { code, flags, body, fds })
    }

    /// The request, if the front knows it.
    pub fn request(&self) -> Option<Request> {
        Request::from_code(self.code)
    }

    /// Is this an answer?
    pub fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// Did its sender ask for an answer (REPLY_ACK)?
    pub fn needs_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// Sets whether an answer is asked for.
    pub fn set_needs_reply(&mut self, needed: bool) {
        self.flags = VERSION | if needed { NEED_REPLY } else { 0 };
    }

    /// The 32-bit number at byte `at` of the body.
    pub fn u32_at(&self, at: usize) -> Option<u32> {
        self.body.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// The 64-bit number at byte `at` of the body.
    pub fn u64_at(&self, at: usize) -> Option<u64> {
        self.body.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
    }

    /// Sends the whole of it, or fails: it never waits.
    ///
    /// # Errors
    /// `WouldBlock` if the other end does not read; `WriteZero` if only a part went out; what the system says.
    pub fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        for word in [self.code, self.flags, self.body.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.body);
        let fds: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = socket.send_with_fds(&[bytes.as_slice()], &fds);
        let sent = sent.map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// As in the recordings of `tests/traces`: with `RUST_LOG=vonic_front=trace` the log of a session is such a recording.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code={} flags={:#x} fds={} body=", self.code, self.flags, self.fds.len())?;
        self.body.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why nothing more can be read from a connection.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The other end closed it.
    Closed,
    /// The other end closed it within a message.
    Truncated,
    /// A header that no vhost-user peer sends.
    Flags(u32),
    /// A body longer than any message's.
    TooLong(u32),
    /// More descriptors than a message may carry, or than this process may hold.
    TooManyFds,
    /// What the system says.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Closed => write!(f, "connection closed"),
            ReadError::Truncated => write!(f, "connection closed within a message"),
            ReadError::Flags(flags) => write!(f, "not a vhost-user message (flags {flags:#x})"),
            ReadError::TooLong(size) => write!(f, "a message of {size} bytes; {MAX_BODY} are allowed"),
            ReadError::TooManyFds => {
                write!(f, "more than 32 descriptors with a message, or no room for them: see the limit of open files")
            }
            ReadError::Io(e) => write!(f, "{e}"),
        }
    }
}

/// Puts messages together from a non-blocking stream, never reading beyond the one at hand: descriptors come with the
/// bytes that they were sent with.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Reader {
    /// The next message; None if it is not all there yet. After an error the connection is of no use.
    pub(crate) fn read(&mut self, socket: &UnixStream) -> Result<Option<Message>, ReadError> {
        loop {
            let length = HEADER + self.body_length()?;
            let have = self.bytes.len();
            if have >= HEADER && have == length {
                return Ok(Some(self.take()));
            }
            self.bytes.resize(length, 0);
            let read = sys::receive(socket.as_fd(), &mut self.bytes[have..], &mut self.fds);
            self.bytes.truncate(have + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) if have == 0 => return Err(ReadError::Closed),
                Ok(0) => return Err(ReadError::Truncated),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(ReadError::Closed),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Err(ReadError::TooManyFds),
                Err(e) => return Err(ReadError::Io(e)),
            }
        }
    }

    /// What is there of the next message.
    pub(crate) fn save(&self) -> MessageState {
        let Reader { bytes, fds } = self;
        MessageState {
            body: bytes.clone(),
            fds: fds.iter().map(AsRawFd::as_raw_fd).collect(),
            ..MessageState::default()
        }
    }

    pub(crate) fn restore(state: MessageState, numbers: &mut Numbers) -> io::Result<Reader> {
        let Message { body: bytes, fds, .. } = Message::restore(state, numbers)?;
        Ok(Reader { bytes, fds })
    }

    /// Descriptors of a message that is not all there yet.
    pub(crate) fn descriptors(&self) -> &[OwnedFd] {
        &self.fds
    }

    fn word(&self, i: usize) -> Option<u32> {
        self.bytes.get(i * 4..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }

    /// The length that the header gives, once it is there: checked before a byte of the body is read.
    fn body_length(&self) -> Result<usize, ReadError> {
        let (Some(flags), Some(size)) = (self.word(1), self.word(2)) else { return Ok(0) };
        if flags & VERSION_MASK != VERSION || flags & !(VERSION_MASK | REPLY | NEED_REPLY) != 0 {
            return Err(ReadError::Flags(flags));
        }
        match usize::try_from(size) {
            Ok(length) if length <= MAX_BODY => Ok(length),
            _ => Err(ReadError::TooLong(size)),
        }
    }

    fn take(&mut self) -> Message {
        let (code, flags) = (self.word(0).unwrap_or(0), self.word(1).unwrap_or(0));
        let body = self.bytes.split_off(HEADER);
        self.bytes.clear();
        Message { code, flags, body, fds: std::mem::take(&mut self.fds) }
    }
}

#[cfg(test)]
mod tests;
