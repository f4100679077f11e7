//! Commands on the control queue (virtio 1.3 §5.1.6.5).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use vm_memory::{Bytes, GuestAddress};

use super::ring::{Descriptor, Used, flag};
use super::{MockFrontend, feature};

/// Where in a command's buffer the device writes its answer.
const ANSWER: u64 = 0x1000;
/// What stands there before it does.
const UNANSWERED: u8 = 0xee;

impl MockFrontend {
    /// The control queue's index.
    pub fn control(&self) -> usize {
        if self.features & feature::MQ == 0 { 2 } else { 2 * self.config.queue_pairs }
    }

    /// Gives a command and waits for its answer: VIRTIO_NET_OK is 0, VIRTIO_NET_ERR is 1.
    ///
    /// # Errors
    /// If none comes within five seconds, or not as one byte.
    pub fn command(&mut self, class: u8, command: u8, data: &[u8]) -> Result<u8> {
        let bytes = [&[class, command], data].concat();
        let used = self.control_chain(&bytes, &[(0, bytes.len() as u32, 0), (ANSWER, 1, flag::WRITE)])?;
        if used.length != 1 {
            bail!("the answer has {} bytes", used.length);
        }
        let index = self.control();
        let answer: u8 = self.memory.read_obj(GuestAddress(self.rings[index].buffer(used.head) + ANSWER))?;
        if answer == UNANSWERED {
            bail!("the command was returned without an answer");
        }
        Ok(answer)
    }

    /// Puts any chain into the control queue, as (offset in its buffer, length, flags), and waits for its return.
    ///
    /// # Errors
    /// If it does not come back within five seconds.
    pub fn control_chain(&mut self, content: &[u8], descriptors: &[(u64, u32, u16)]) -> Result<Used> {
        let index = self.control();
        let ring = &mut self.rings[index];
        let places = ring.reserve(descriptors.len())?;
        let head = *places.first().context("a chain without descriptors")?;
        let buffer = ring.buffer(head);
        self.memory.write_slice(content, GuestAddress(buffer))?;
        self.memory.write_obj(UNANSWERED, GuestAddress(buffer + ANSWER))?;
        for (place, (offset, length, flags)) in descriptors.iter().enumerate() {
            let next = places.get(place + 1).copied();
            let flags = flags | next.map_or(0, |_| flag::NEXT);
            let descriptor =
                Descriptor { address: buffer + offset, length: *length, flags, next: next.unwrap_or_default() };
            ring.write_descriptor(&self.memory, places[place], descriptor)?;
        }
        ring.make_available(&self.memory, head)?;
        ring.notify(&self.memory)?;
        self.wait_used(index, Duration::from_secs(5))?.context("the control queue's chain was not returned")
    }
}
