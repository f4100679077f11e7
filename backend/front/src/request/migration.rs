//! What a live migration asks of a backend: a log of the memory that it writes, and its state (vhost-user specification,
//! "Migration" and "Migrating back-end state").
use super::{DEVICE_STATE, Front, LOG_ALL, LOG_SHMFD, Verdict};
use crate::carrier;
use crate::handover::LogState;
use crate::memory::Table;
use crate::message::{Message, Request};
use crate::sys;
use std::fs::File;
use std::os::fd::AsFd;

/// Guest memory for which one byte of the log has the bits: eight pages of 4 KiB.
const LOGGED_BY_BYTE: u64 = 8 * 4096;
/// mmap(2) wants offsets in whole pages; the smallest page that any supported host has.
const PAGE: u64 = 4096;
/// Bytes of a log's description: its size and its offset in the file.
const DESCRIPTION: usize = 16;
/// The answer to SET_DEVICE_STATE_FD: no, and no descriptor comes back.
const NO_TRANSFER: u64 = 0x101;

/// The log of guest memory, by SET_LOG_BASE.
#[derive(Debug, Default)]
pub(super) enum Log {
    /// None was sent. LOG_ALL may come first: QEMU starts a device so in the middle of a migration.
    #[default]
    Absent,
    /// What was sent is of no use: logging cannot be turned on.
    Refused(String),
    /// So many bytes.
    Bytes(u64),
}

impl Log {
    pub(super) fn save(&self) -> LogState {
        match self {
            Log::Absent => LogState::Absent,
            Log::Refused(why) => LogState::Refused(why.clone()),
            Log::Bytes(bytes) => LogState::Bytes(*bytes),
        }
    }

    pub(super) fn restore(state: LogState) -> Log {
        match state {
            LogState::Absent => Log::Absent,
            LogState::Refused(why) => Log::Refused(why),
            LogState::Bytes(bytes) => Log::Bytes(bytes),
        }
    }

    /// The engine has taken it.
    pub(super) fn taken(&mut self, message: &Message) {
        *self = Log::Bytes(message.u64_at(0).unwrap_or(0));
    }

    /// Why the memory cannot be logged.
    pub(super) fn fault(&self, table: &Table) -> Option<String> {
        match self {
            Log::Absent => None,
            Log::Refused(why) => Some(why.clone()),
            Log::Bytes(bytes) => too_short(*bytes, table),
        }
    }
}

fn too_short(bytes: u64, table: &Table) -> Option<String> {
    let needed = table.end().div_ceil(LOGGED_BY_BYTE);
    (bytes < needed).then(|| format!("the dirty log has {bytes} bytes, memory up to {:#x} needs {needed}", table.end()))
}

/// Whether a state is on its way.
#[derive(Debug, Default)]
pub(super) enum Transfer {
    #[default]
    None,
    /// Begun, and CHECK_DEVICE_STATE has not asked yet how it went.
    Begun,
    /// The engine died over it.
    Lost,
}

impl Transfer {
    /// Whether CHECK_DEVICE_STATE has yet to ask.
    pub(super) fn is_due(&self) -> bool {
        !matches!(self, Transfer::None)
    }
}

impl Front {
    /// SET_LOG_BASE. With LOG_SHMFD the VMM waits for an answer: the log's description, or that of a log of no bytes, which is a refusal.
    /// (A shorter answer would keep frontends of the vhost crate waiting for the rest.) A VMM that does not look at it, as QEMU, is
    /// refused when it turns logging on, and its migration fails there.
    pub(super) fn judge_log(&mut self, message: Message, warn: impl FnOnce(&str)) -> Verdict {
        if self.protocol & LOG_SHMFD == 0 {
            return Verdict::Done;
        }
        let Some(fault) = log_fault(&message, &self.table) else { return Verdict::Forward(message) };
        if self.features.is_some_and(|features| features & LOG_ALL != 0) {
            return Verdict::Refuse(format!("SET_LOG_BASE while logging: {fault}"));
        }
        warn(&format!("refused: SET_LOG_BASE: {fault}"));
        self.log = Log::Refused(fault);
        Verdict::Answer(vec![0; DESCRIPTION])
    }

    /// SET_VRING_ADDR: the session is told besides where the used ring is to be logged, or that it is no more.
    pub(super) fn judge_used_log(&mut self, ring: u32, message: Message) -> Verdict {
        let was_logged = self.logged_rings.remove(&ring);
        let is_logged = carrier::is_logged(&message);
        if is_logged {
            self.logged_rings.insert(ring);
        }
        if was_logged || is_logged {
            return Verdict::After(vec![carrier::carry(&message)], message);
        }
        Verdict::Forward(message)
    }

    /// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE, whose answers are numbers that can say no.
    pub(super) fn judge_transfer(&mut self, request: Request, message: Message) -> Verdict {
        let offered = self.protocol & DEVICE_STATE != 0;
        let word = |at| message.u32_at(at).unwrap_or(u32::MAX);
        // Save and load are the directions, and the only phase is that in which all rings are stopped.
        let whole = || word(0) <= 1 && word(4) == 0 && message.body.len() == 8 && message.fds.len() == 1;
        match request {
            Request::SetDeviceStateFd if offered && whole() => {
                self.transfer = Transfer::Begun;
                Verdict::Forward(message)
            }
            Request::CheckDeviceState
                if offered && message.body.is_empty() && !matches!(self.transfer, Transfer::Lost) =>
            {
                self.transfer = Transfer::None;
                Verdict::Forward(message)
            }
            _ => {
                self.transfer = Transfer::None;
                Verdict::Answer(Front::no_transfer(&message).body)
            }
        }
    }

    /// The engine is dead.
    pub(crate) fn lose_transfer(&mut self) {
        if matches!(self.transfer, Transfer::Begun) {
            self.transfer = Transfer::Lost;
        }
    }

    /// The answer that a state was not, or will not be, transferred.
    pub(crate) fn no_transfer(message: &Message) -> Message {
        let value = if message.request() == Some(Request::SetDeviceStateFd) { NO_TRANSFER } else { 1 };
        Message::reply(message.code, value.to_ne_bytes().to_vec())
    }
}

/// What is wrong with SET_LOG_BASE: size, offset, and the file.
fn log_fault(message: &Message, table: &Table) -> Option<String> {
    let (DESCRIPTION, Some(bytes), Some(offset), [file]) =
        (message.body.len(), message.u64_at(0), message.u64_at(8), message.fds.as_slice())
    else {
        return Some("a size, an offset and a file are it".into());
    };
    let Some(end) = offset.checked_add(bytes).filter(|_| bytes != 0 && offset.is_multiple_of(PAGE)) else {
        return Some(format!("{bytes} bytes from {offset:#x} on: the offset must be a multiple of {PAGE}"));
    };
    let size = file.try_clone().and_then(|file| File::from(file).metadata()).map(|metadata| metadata.len());
    let usage = sys::fd_use(file.as_fd());
    match (size, usage) {
        (Err(error), _) | (_, Err(error)) => Some(format!("its file cannot be examined: {error}")),
        (Ok(size), _) if end > size => Some(format!("its file has only {size} bytes, not {end}")),
        (_, Ok(usage)) if !usage.writable => Some("its file cannot be written".into()),
        _ => too_short(bytes, table),
    }
}

#[cfg(test)]
mod tests;
