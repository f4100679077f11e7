//! What a VMM's session consists of: enough to bring a fresh backend to the same state, without the VMM.
use crate::handover::MessageState;
use crate::memory::{Effective, Table};
use crate::message::{Message, Request};
use std::collections::BTreeMap;

/// Ring messages, in the order in which a backend accepts them: the kick starts the ring, so it comes after all that a
/// start needs, and enabling comes last.
const RING_ORDER: [Request; 7] = [
    Request::SetVringNum,
    Request::SetVringBase,
    Request::SetVringAddr,
    Request::SetVringErr,
    Request::SetVringCall,
    Request::SetVringKick,
    Request::SetVringEnable,
];

/// The last effective value of each state-changing message, with its descriptors.
#[derive(Debug, Default)]
pub struct Journal {
    owner: Option<Message>,
    protocol: Option<Message>,
    backend_channel: Option<Message>,
    features: Option<Message>,
    memory: Effective,
    log: Option<Message>,
    /// By ring, then by the message's place in [`RING_ORDER`].
    rings: BTreeMap<u32, BTreeMap<usize, Message>>,
}

impl Journal {
    /// Takes in a message that the engine has carried out. Messages that change nothing are dropped.
    pub fn note(&mut self, message: Message) {
        match message.request() {
            Some(Request::SetOwner) => self.owner = Some(message),
            Some(Request::SetProtocolFeatures) => self.protocol = Some(message),
            Some(Request::SetBackendReqFd) => self.backend_channel = Some(message),
            Some(Request::SetFeatures) => self.features = Some(message),
            Some(Request::SetLogBase) => self.log = Some(message),
            Some(Request::SetMemTable) => self.memory.set(message),
            Some(Request::AddMemReg) => self.memory.add(message),
            Some(Request::RemMemReg) => self.memory.remove(&message),
            Some(Request::ResetDevice) => self.reset(),
            Some(Request::GetVringBase) => self.stop(ring_of(&message)),
            Some(request) => {
                if let Some(place) = RING_ORDER.iter().position(|&r| r == request) {
                    self.rings.entry(ring_of(&message)).or_default().insert(place, message);
                }
            }
            None => {}
        }
    }

    /// The messages that bring a fresh backend to this state, in an order that it accepts. None is answered before
    /// GET_FEATURES and SET_PROTOCOL_FEATURES with REPLY_ACK have been sent: the replaying side begins as it does for
    /// every session, and then sends these.
    ///
    /// A ring whose memory was removed stands still, and no backend takes its addresses: it is replayed as not started.
    pub fn replay(&self) -> Vec<&Message> {
        let session = [&self.owner, &self.protocol, &self.backend_channel, &self.features].map(Option::as_ref);
        let table = self.memory.table();
        let rings = self.rings.values().flat_map(|ring| started(ring, &table));
        session.into_iter().chain([self.memory.message(), self.log.as_ref()]).flatten().chain(rings).collect()
    }

    /// Every message that is held.
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        let session = [&self.owner, &self.protocol, &self.backend_channel, &self.features].map(Option::as_ref);
        let rings = self.rings.values().flat_map(BTreeMap::values);
        session.into_iter().flatten().chain(self.memory.message()).chain(&self.log).chain(rings)
    }

    /// Messages that bring an empty journal to this state, noted in their order.
    pub(crate) fn save(&self) -> Vec<MessageState> {
        let Journal { owner, protocol, backend_channel, features, memory, log, rings } = self;
        let session = [owner, protocol, backend_channel, features].map(Option::as_ref);
        let rings = rings.values().flat_map(BTreeMap::values);
        session.into_iter().flatten().chain(memory.message()).chain(log).chain(rings).map(Message::save).collect()
    }

    /// GET_VRING_BASE: the crates drop kick and call, and a VMM sets base and addresses anew before it starts the ring
    /// again. Size, error descriptor and the enabled flag stay.
    fn stop(&mut self, ring: u32) {
        if let Some(messages) = self.rings.get_mut(&ring) {
            messages.retain(|&place, _| stays_when_stopped(place));
        }
    }

    /// RESET_DEVICE: what belongs to the session outlives it (vhost-user specification): ownership, protocol features, memory,
    /// and the error descriptors, which QEMU sends but once. What the driver made does not.
    fn reset(&mut self) {
        self.features = None;
        for messages in self.rings.values_mut() {
            messages.retain(|&place, _| RING_ORDER.get(place) == Some(&Request::SetVringErr));
        }
    }
}

fn stays_when_stopped(place: usize) -> bool {
    let stays = [Request::SetVringNum, Request::SetVringErr, Request::SetVringEnable];
    RING_ORDER.get(place).is_some_and(|request| stays.contains(request))
}

/// A ring's messages, or those of a stopped one if its addresses are in no memory region.
fn started<'a>(ring: &'a BTreeMap<usize, Message>, table: &Table) -> impl Iterator<Item = &'a Message> {
    let lost = ring
        .values()
        .any(|message| message.request() == Some(Request::SetVringAddr) && table.ring_fault(message).is_some());
    ring.iter().filter(move |&(&place, _)| !lost || stays_when_stopped(place)).map(|(_, message)| message)
}

/// The ring that a ring message is about: a 32-bit index, or the low byte where descriptors come with it.
fn ring_of(message: &Message) -> u32 {
    match message.request() {
        Some(Request::SetVringKick | Request::SetVringCall | Request::SetVringErr) => {
            message.u64_at(0).map_or(0, |value| (value & 0xff) as u32)
        }
        _ => message.u32_at(0).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
