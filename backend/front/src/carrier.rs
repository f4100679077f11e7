//! How requests reach the engine's session that the crate's daemon ends a session over, or does not pass on whole: in SET_CONFIG, which
//! it does pass on, behind the end of every configuration space (ADR 0014). The VMM's own SET_CONFIG gets no further than the front.
use crate::message::{Message, Request};
use std::os::fd::AsRawFd;

/// Where in the configuration space they stand; as in the session.
const OFFSET: u32 = 0xe00;
/// In SET_VRING_ADDR: writes to the used ring are to be logged (VHOST_VRING_F_LOG).
const LOG_USED: u32 = 1;
const NO_FD: i32 = -1;

/// The message to be sent in place of this one.
pub(crate) fn in_place_of(message: &Message) -> Option<Message> {
    let carried = matches!(message.request(), Some(Request::SetLogBase | Request::SendRarp));
    carried.then(|| carry(message))
}

/// The message to be sent in front of this one: of SET_VRING_ADDR the daemon keeps neither flags nor log address to itself.
pub(crate) fn in_front_of(message: &Message) -> Option<Message> {
    is_logged(message).then(|| carry(message))
}

/// Whether SET_VRING_ADDR wants the used ring logged.
pub(crate) fn is_logged(message: &Message) -> bool {
    message.request() == Some(Request::SetVringAddr) && message.u32_at(4).is_some_and(|flags| flags & LOG_USED != 0)
}

/// The message in the other's guise.
pub(crate) fn carry(message: &Message) -> Message {
    // Both processes share one descriptor table: the number is enough, and the message keeps it open until it is answered.
    let fd = message.fds.first().map_or(NO_FD, AsRawFd::as_raw_fd);
    let len = (8 + message.body.len()) as u32;
    let mut body: Vec<u8> = [OFFSET, len, 0, message.code, fd.cast_unsigned()].map(u32::to_ne_bytes).concat();
    body.extend_from_slice(&message.body);
    Message::new(Request::SetConfig, body)
}
