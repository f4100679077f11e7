//! vhost-user messages as bytes: well-formed or not, with any descriptors.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Result, bail};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Request codes of the vhost-user specification.
#[allow(missing_docs, reason = "named as in the specification")]
pub mod code {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const GET_CONFIG: u32 = 24;
    pub const RESET_DEVICE: u32 = 34;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// What came back for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Its body.
    Body(Vec<u8>),
    /// The backend closed the connection.
    Closed,
}

impl Reply {
    /// A REPLY_ACK body: 0 is success, else the backend refused.
    pub fn acknowledged(&self) -> Option<bool> {
        match self {
            Reply::Body(body) => Some(u64::from_le_bytes(body.as_slice().try_into().ok()?) == 0),
            Reply::Closed => None,
        }
    }
}

/// A vhost-user connection on which anything can be said.
#[derive(Debug)]
pub struct RawConnection {
    stream: UnixStream,
}

impl RawConnection {
    /// Over a connected socket; its timeouts hold.
    pub fn new(stream: UnixStream) -> RawConnection {
        RawConnection { stream }
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// Of the socket.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// A message that asks for a reply, and that reply.
    ///
    /// # Errors
    /// If none comes in time, or it answers another request.
    pub fn ask(&mut self, request: u32, body: &[u8], files: &[RawFd]) -> Result<Reply> {
        self.ask_sized(request, body.len() as u32, body, files)
    }

    /// As [`RawConnection::ask`], with a size in the header that need not be the body's.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub fn ask_sized(&mut self, request: u32, size: u32, body: &[u8], files: &[RawFd]) -> Result<Reply> {
        if self.tell(request, size, body, files)? { self.reply(request) } else { Ok(Reply::Closed) }
    }

    /// A message that asks for a reply, which is not waited for; false if the backend has closed the connection.
    ///
    /// # Errors
    /// Of the socket.
    pub fn tell(&mut self, request: u32, size: u32, body: &[u8], files: &[RawFd]) -> Result<bool> {
        let mut message = Vec::with_capacity(12 + body.len());
        for word in [request, VERSION | NEED_REPLY, size] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.extend_from_slice(body);
        match self.stream.send_with_fds(&[&message[..]], files) {
            Ok(sent) if sent == message.len() => Ok(true),
            Ok(sent) => bail!("{sent} of {} bytes were sent", message.len()),
            Err(error) if error.errno() == libc::EPIPE => Ok(false),
            Err(error) => bail!("sending: {error}"),
        }
    }

    /// The reply to `request`.
    ///
    /// # Errors
    /// As [`RawConnection::ask`].
    pub fn reply(&mut self, request: u32) -> Result<Reply> {
        let mut header = [0; 12];
        if let Err(error) = self.stream.read_exact(&mut header) {
            return match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Ok(Reply::Closed),
                _ => Err(error.into()),
            };
        }
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if word(0) != request || word(4) & REPLY == 0 || word(8) > 4096 {
            bail!("an odd reply to request {request}: {header:?}");
        }
        let mut body = vec![0; word(8) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(Reply::Body(body))
    }
}
