//! What becomes of each message of a VMM: passed on, held back, answered here, or refused.
//!
//! The crates' backend answers a message that it does not like by ending the session. Whatever it would not like is
//! therefore found out here, and refused alone where the VMM asked for an answer.
use crate::memory::{MAX_REGIONS, MemoryError, Table};
use crate::message::{Message, Request};
use crate::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

mod custody;
mod migration;

use migration::{Log, Transfer};

/// VHOST_F_LOG_ALL: dirty logging goes on and off by it.
const LOG_ALL: u64 = 1 << 26;
/// VHOST_USER_F_PROTOCOL_FEATURES: with it, rings start disabled and SET_VRING_ENABLE counts.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VHOST_USER_PROTOCOL_F_LOG_SHMFD, _RARP, _REPLY_ACK, _BACKEND_REQ, _CONFIG, _RESET_DEVICE, _CONFIGURE_MEM_SLOTS, _DEVICE_STATE.
const LOG_SHMFD: u64 = 1 << 1;
const RARP: u64 = 1 << 2;
const REPLY_ACK: u64 = 1 << 3;
const BACKEND_REQ: u64 = 1 << 5;
const CONFIG: u64 = 1 << 9;
const RESET_DEVICE: u64 = 1 << 13;
const MEM_SLOTS: u64 = 1 << 15;
const DEVICE_STATE: u64 = 1 << 19;
/// In SET_VRING_KICK, _CALL and _ERR: no descriptor comes with the message.
const NO_FD: u64 = 1 << 8;
/// The longest ring, as the engine's sessions have it.
const MAX_RING: u32 = 1024;
/// The configuration space's end (vhost-user specification, "Virtio device config space").
const CONFIG_END: u32 = 4096;
const CONFIG_HEADER: usize = 12;

/// What to do with a message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Send it to the engine.
    Forward(Message),
    /// Send these to the engine first, then the last one, which is the VMM's.
    After(Vec<Message>, Message),
    /// The front did it: acknowledge if the VMM asked.
    Done,
    /// Send this body back, whether or not the VMM asked.
    Answer(Vec<u8>),
    /// Cannot be done: say so if the VMM asked. It does no harm to go on.
    Decline(String),
    /// Cannot be done, and the VMM relies on it: say so if it asked, else end the connection.
    Refuse(String),
}

/// One VMM's session as far as the front must know it.
#[derive(Debug, Default)]
pub(crate) struct Front {
    offered: u64,
    offered_protocol: u64,
    rings: u32,
    /// As acknowledged by SET_FEATURES; None before.
    features: Option<u64>,
    /// What the VMM said last of its protocol features, and what is in force of it.
    protocol_asked: u64,
    protocol: u64,
    log: Log,
    /// Rings of which the session was told where they are logged.
    logged_rings: BTreeSet<u32>,
    transfer: Transfer,
    owned: bool,
    /// SET_VRING_ENABLE from before SET_FEATURES: the last value of each ring.
    held: BTreeMap<u32, u32>,
    table: Table,
    status: u64,
    warned_of_seals: bool,
}

impl Front {
    /// What the front itself asks a new session: with it, REPLY_ACK is on, and everything the session can do is allowed.
    /// The crate turns REPLY_ACK on only after GET_FEATURES.
    pub(crate) fn handshake() -> [Message; 2] {
        [Request::GetFeatures, Request::GetProtocolFeatures].map(|request| Message::new(request, Vec::new()))
    }

    /// Takes in the answer to one of the front's own questions; the next ones, if any follow from it.
    pub(crate) fn learn(&mut self, request: Request, reply: &Message) -> Result<Vec<Message>, String> {
        let value = reply.u64_at(0).ok_or_else(|| format!("the session's answer to {request:?} is too short"))?;
        match request {
            Request::GetFeatures => self.offered = value,
            Request::GetProtocolFeatures => {
                self.offered_protocol = value;
                if value & REPLY_ACK == 0 {
                    return Err("the session offers no REPLY_ACK".into());
                }
                let set = Message::new(Request::SetProtocolFeatures, value.to_ne_bytes().to_vec());
                return Ok(vec![set, Message::new(Request::GetQueueNum, Vec::new())]);
            }
            Request::GetQueueNum => self.rings = u32::try_from(value).unwrap_or(0),
            _ if value != 0 => return Err(format!("the session refuses {request:?}")),
            _ => {}
        }
        Ok(Vec::new())
    }

    /// Decides about one message of the VMM. `warn` gets what an operator should know of a message that is passed on.
    pub(crate) fn judge(&mut self, mut message: Message, warn: impl FnOnce(&str)) -> Verdict {
        let Some(request) = message.request() else {
            return Verdict::Decline(format!("unknown request {}", message.code));
        };
        // Those of a migration have answers of their own that can say no.
        let own_shape = [Request::SetMemTable, Request::SetLogBase, Request::SetDeviceStateFd];
        if !own_shape.contains(&request) && message.fds.len() > 1 {
            return Verdict::Refuse(format!("{request:?} with {} descriptors", message.fds.len()));
        }
        if let Some(length) = fixed_length(request)
            && message.body.len() != length
        {
            return Verdict::Refuse(format!("{request:?} with {} bytes, not {length}", message.body.len()));
        }
        if !takes_fd(request) {
            message.fds.clear(); // The crate ends the session over one that it does not expect.
        }
        self.decide(request, message, warn)
    }

    /// Decides about a message of the right shape.
    fn decide(&mut self, request: Request, message: Message, warn: impl FnOnce(&str)) -> Verdict {
        match request {
            Request::GetFeatures => Verdict::Answer(self.offered.to_ne_bytes().to_vec()),
            Request::GetProtocolFeatures => Verdict::Answer(self.offered_protocol.to_ne_bytes().to_vec()),
            Request::GetQueueNum => Verdict::Answer(u64::from(self.rings).to_ne_bytes().to_vec()),
            Request::GetStatus => Verdict::Answer(self.status.to_ne_bytes().to_vec()),
            Request::SetStatus => {
                self.status = message.u64_at(0).unwrap_or(0);
                Verdict::Done
            }
            Request::SetOwner if self.owned => Verdict::Done,
            Request::SetOwner => Verdict::Forward(message),
            // "It is recommended that back-ends either ignore this message, or …" (vhost-user specification).
            Request::ResetOwner | Request::SetLogFd => Verdict::Done,
            Request::SendRarp if self.protocol & RARP != 0 => Verdict::Forward(message),
            // Not offered, and nothing that the engine could act upon (ADR 0006).
            Request::SendRarp | Request::NetSetMtu => {
                log::debug!("{request:?} with {:#x}: noted, without effect", message.u64_at(0).unwrap_or(0));
                Verdict::Done
            }
            Request::SetLogBase => self.judge_log(message, warn),
            Request::SetDeviceStateFd | Request::CheckDeviceState => self.judge_transfer(request, message),
            Request::SetFeatures => self.judge_features(message),
            Request::SetProtocolFeatures => self.judge_protocol_features(message),
            Request::GetMaxMemSlots => Verdict::Answer(u64::from(MAX_REGIONS).to_ne_bytes().to_vec()),
            Request::AddMemReg | Request::RemMemReg if self.protocol & MEM_SLOTS == 0 => {
                Verdict::Decline(format!("{request:?} without its protocol feature"))
            }
            Request::SetMemTable | Request::AddMemReg | Request::RemMemReg => self.judge_memory(request, message, warn),
            Request::ResetDevice => self.judge_reset(message),
            Request::SetVringNum
            | Request::SetVringBase
            | Request::GetVringBase
            | Request::SetVringAddr
            | Request::SetVringEnable => self.judge_ring(request, message),
            Request::SetVringKick | Request::SetVringCall | Request::SetVringErr => {
                self.judge_ring_fd(request, message)
            }
            Request::SetBackendReqFd => self.judge_backend_channel(message),
            Request::GetConfig => self.judge_get_config(message),
            // Nothing in it is the driver's to write (virtio 1.3 §5.1.4.2).
            Request::SetConfig => Verdict::Decline("the configuration space is read-only".into()),
        }
    }

    /// Takes in that the engine did what a message asked; returns what is now to be sent after it.
    pub(crate) fn done(&mut self, message: &Message) -> Vec<Message> {
        match message.request() {
            Some(Request::SetOwner) => self.owned = true,
            Some(Request::SetProtocolFeatures) => self.protocol = self.protocol_asked,
            // Enabling is held back again until the next SET_FEATURES.
            Some(Request::ResetDevice) => {
                self.features = None;
                self.held.clear();
                self.status = 0;
            }
            Some(Request::SetLogBase) => self.log.taken(message),
            Some(Request::SetFeatures) => {
                let features = message.u64_at(0).unwrap_or(0);
                self.features = Some(features);
                let held = std::mem::take(&mut self.held);
                if features & PROTOCOL_FEATURES != 0 {
                    return held.into_iter().map(|(ring, value)| ring_state(ring, value)).collect();
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn judge_features(&self, message: Message) -> Verdict {
        let features = message.u64_at(0).unwrap_or(0);
        let unknown = features & !self.offered;
        if unknown != 0 {
            return Verdict::Refuse(format!("SET_FEATURES with bits that were not offered: {unknown:#x}"));
        }
        match self.log.fault(&self.table).filter(|_| features & LOG_ALL != 0) {
            Some(fault) => Verdict::Refuse(format!("SET_FEATURES with VHOST_F_LOG_ALL: {fault}")),
            None => Verdict::Forward(message),
        }
    }

    fn judge_protocol_features(&mut self, mut message: Message) -> Verdict {
        let features = message.u64_at(0).unwrap_or(0);
        let unknown = features & !self.offered_protocol;
        if unknown != 0 {
            return Verdict::Refuse(format!("SET_PROTOCOL_FEATURES with bits that were not offered: {unknown:#x}"));
        }
        // Between front and engine every message is acknowledged, and some are carried in SET_CONFIG, whatever the VMM wants for itself.
        self.protocol_asked = features;
        message.body = (features | REPLY_ACK | CONFIG).to_ne_bytes().to_vec();
        Verdict::Forward(message)
    }

    fn judge_memory(&mut self, request: Request, message: Message, warn: impl FnOnce(&str)) -> Verdict {
        // The engine's answer is not awaited for the table: if it refuses, the session ends.
        let before = self.table.clone();
        let checked = match request {
            Request::AddMemReg => self.table.add(&message).map(|sealed| (message, sealed)),
            Request::RemMemReg => self.table.remove(&message).map(|()| (message, true)),
            _ => Table::sort(message).map(|(message, table, sealed)| {
                self.table = table;
                (message, sealed)
            }),
        };
        let logging = self.features.is_some_and(|features| features & LOG_ALL != 0);
        let unlogged = self.log.fault(&self.table).filter(|_| logging && checked.is_ok());
        if let Some(fault) = unlogged {
            self.table = before;
            return Verdict::Refuse(format!("{request:?} while logging: {fault}; SET_LOG_BASE comes first"));
        }
        match checked {
            Ok((message, sealed)) => {
                if !sealed && !std::mem::replace(&mut self.warned_of_seals, true) {
                    warn("guest memory is not sealed against shrinking (F_SEAL_SHRINK): the VMM must not truncate it");
                }
                Verdict::Forward(message)
            }
            // What is not there need not go.
            Err(e @ MemoryError::Unknown(_)) => Verdict::Decline(e.to_string()),
            Err(e) => Verdict::Refuse(e.to_string()),
        }
    }

    /// The crate disables the rings at RESET_DEVICE but does not stop them; a ring that is not stopped would come up again
    /// with its old state at the next message about it. GET_VRING_BASE stops them, and waits for the worker.
    fn judge_reset(&self, message: Message) -> Verdict {
        if self.protocol & RESET_DEVICE == 0 {
            return Verdict::Decline("RESET_DEVICE without its protocol feature".into());
        }
        let stop = |ring: u32| Message::new(Request::GetVringBase, [ring, 0].map(u32::to_ne_bytes).concat());
        Verdict::After((0..self.rings).map(stop).collect(), message)
    }

    fn judge_ring(&mut self, request: Request, message: Message) -> Verdict {
        let (ring, value) = (message.u32_at(0).unwrap_or(0), message.u32_at(4).unwrap_or(0));
        if ring >= self.rings {
            return self.no_such_ring(request, ring);
        }
        match request {
            Request::SetVringNum if !value.is_power_of_two() || value > MAX_RING => Verdict::Refuse(format!(
                "ring {ring} with {value} descriptors: a power of two up to {MAX_RING} is possible"
            )),
            Request::SetVringAddr if value & !1 != 0 => {
                Verdict::Refuse(format!("ring {ring}: unknown flags in SET_VRING_ADDR"))
            }
            Request::SetVringAddr => match self.table.ring_fault(&message) {
                Some(fault) => Verdict::Refuse(format!("ring {ring}: {fault}")),
                None => self.judge_used_log(ring, message),
            },
            Request::SetVringEnable if value > 1 => {
                Verdict::Refuse(format!("SET_VRING_ENABLE of ring {ring} to {value}"))
            }
            Request::SetVringEnable => match self.features {
                // QEMU enables rings at device reset, before any SET_FEATURES, which the crates answer by hanging up.
                None => {
                    self.held.insert(ring, value);
                    Verdict::Done
                }
                Some(features) if features & PROTOCOL_FEATURES == 0 => {
                    Verdict::Refuse("SET_VRING_ENABLE without VHOST_USER_F_PROTOCOL_FEATURES".into())
                }
                Some(_) => Verdict::Forward(message),
            },
            _ => Verdict::Forward(message),
        }
    }

    fn judge_ring_fd(&self, request: Request, message: Message) -> Verdict {
        let value = message.u64_at(0).unwrap_or(0);
        let ring = value & 0xff;
        if ring >= u64::from(self.rings) {
            return self.no_such_ring(request, ring as u32);
        }
        if (value & NO_FD == 0) != (message.fds.len() == 1) {
            return Verdict::Refuse(format!("{request:?} of ring {ring}: its no-descriptor bit contradicts what came"));
        }
        Verdict::Forward(message)
    }

    fn no_such_ring(&self, request: Request, ring: u32) -> Verdict {
        Verdict::Refuse(format!("{request:?} of ring {ring}: there are {}", self.rings))
    }

    fn judge_backend_channel(&self, message: Message) -> Verdict {
        if self.protocol & BACKEND_REQ == 0 {
            return Verdict::Decline("SET_BACKEND_REQ_FD without its protocol feature".into());
        }
        match message.fds.as_slice() {
            [fd] if sys::is_unix_stream(fd.as_fd()) => Verdict::Forward(message),
            _ => Verdict::Refuse("SET_BACKEND_REQ_FD without a unix stream socket".into()),
        }
    }

    /// A failure is told by an answer without payload (vhost-user specification, VHOST_USER_GET_CONFIG).
    fn judge_get_config(&self, message: Message) -> Verdict {
        let word = |at| message.u32_at(at).unwrap_or(u32::MAX);
        let (offset, size, flags) = (word(0), word(4), word(8));
        let inside = size != 0 && offset.checked_add(size).is_some_and(|end| end <= CONFIG_END);
        let whole = message.body.len().checked_sub(CONFIG_HEADER).is_some_and(|payload| payload == size as usize);
        if self.protocol & CONFIG != 0 && inside && whole && flags <= 3 {
            return Verdict::Forward(message);
        }
        Verdict::Answer([offset, 0, flags].into_iter().flat_map(u32::to_ne_bytes).collect())
    }
}

/// SET_VRING_ENABLE, as the front itself sends it.
fn ring_state(ring: u32, value: u32) -> Message {
    Message::new(Request::SetVringEnable, [ring, value].into_iter().flat_map(u32::to_ne_bytes).collect())
}

/// The body's length where the specification fixes one and the crate insists on it.
fn fixed_length(request: Request) -> Option<usize> {
    match request {
        Request::SetFeatures
        | Request::SetProtocolFeatures
        | Request::SetVringNum
        | Request::SetVringBase
        | Request::GetVringBase
        | Request::SetVringEnable
        | Request::SetVringKick
        | Request::SetVringCall
        | Request::SetVringErr
        | Request::SetStatus
        | Request::SendRarp => Some(8),
        Request::SetVringAddr => Some(40),
        Request::SetOwner | Request::ResetDevice => Some(0),
        _ => None,
    }
}

fn takes_fd(request: Request) -> bool {
    matches!(
        request,
        Request::SetMemTable
            | Request::AddMemReg
            | Request::SetVringKick
            | Request::SetVringCall
            | Request::SetVringErr
            | Request::SetLogBase
            | Request::SetLogFd
            | Request::SetBackendReqFd
            | Request::SetDeviceStateFd
    )
}

#[cfg(test)]
mod tests;
