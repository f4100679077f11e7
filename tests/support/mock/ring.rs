//! The driver's side of a split ring (virtio 1.3 §2.7), with raw access to all of it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{Ordering, fence};

use anyhow::{Context, Result, bail};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::{BUFFERS, RING_SPACE, RINGS, SLOT};

/// Descriptor flags.
#[allow(missing_docs, reason = "named as in the specification")]
pub mod flag {
    pub const NEXT: u16 = 1;
    pub const WRITE: u16 = 2;
    pub const INDIRECT: u16 = 4;
}

const INDIRECT_TABLES: u64 = 0x1_0000;
const INDIRECT_ENTRIES: u64 = 16;

/// One descriptor, unchecked.
#[allow(missing_docs, reason = "named as in the specification")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    pub address: u64,
    pub length: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// A well-formed chain to add.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Bytes of each descriptor.
    pub lengths: Vec<u32>,
    /// For the device to write.
    pub writable: bool,
    /// In an indirect table.
    pub indirect: bool,
}

/// A used entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// The chain's head.
    pub head: u16,
    /// Bytes that the device says it wrote.
    pub length: u32,
    /// Where the chain's buffer lies.
    pub address: u64,
}

/// What the driver knows of a chain that the device has.
#[derive(Debug)]
struct Outstanding {
    descriptors: Vec<u16>,
    address: u64,
    capacity: u32,
}

/// A ring.
pub struct DriverRing {
    /// Entries.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The driver's next available index.
    pub next_available: u16,
    /// The driver's next used index.
    pub last_used: u16,
    /// Tells the device of new chains.
    pub kick: EventFd,
    /// The device's interrupt.
    pub call: EventFd,
    pub(super) event_idx: bool,
    notified: u16,
    buffers: u64,
    /// Where buffers roam instead, one behind the other, and how far the last one has come.
    roam: Range<u64>,
    roamed: u64,
    free: Vec<u16>,
    outstanding: BTreeMap<u16, Outstanding>,
    /// Heads in the order in which they were made available: the device returns them so, negotiated (IN_ORDER) or not.
    order: VecDeque<u16>,
}

impl DriverRing {
    pub(super) fn new(memory: &GuestMemoryMmap, index: u64, size: u16) -> Result<DriverRing> {
        if !size.is_power_of_two() || size > 256 {
            bail!("the mock's rings have up to 256 entries, a power of two");
        }
        let base = RINGS + index * RING_SPACE;
        memory.write_slice(&vec![0; RING_SPACE as usize], GuestAddress(base))?;
        Ok(DriverRing {
            size,
            descriptors: base,
            available: base + 0x2000,
            used: base + 0x4000,
            next_available: 0,
            last_used: 0,
            kick: EventFd::new(EFD_NONBLOCK)?,
            call: EventFd::new(EFD_NONBLOCK)?,
            event_idx: false,
            notified: 0,
            buffers: BUFFERS + index * 256 * SLOT,
            roam: 0..0,
            roamed: 0,
            free: (0..size).rev().collect(),
            outstanding: BTreeMap::new(),
            order: VecDeque::new(),
        })
    }

    /// Has its buffers roam over so much of guest memory from now on.
    pub(super) fn roam(&mut self, over: Range<u64>) {
        self.roamed = over.start;
        self.roam = over;
    }

    /// Where the next buffer with that head lies.
    fn place(&mut self, head: u16) -> u64 {
        if self.roam.is_empty() {
            return self.buffer(head);
        }
        let place = if self.roamed + SLOT > self.roam.end { self.roam.start } else { self.roamed };
        self.roamed = place + SLOT;
        place
    }

    /// Chains that the device has.
    pub fn outstanding(&self) -> u16 {
        self.outstanding.len() as u16
    }

    /// The buffer that belongs to head `head`, in a ring whose buffers do not roam.
    pub fn buffer(&self, head: u16) -> u64 {
        self.buffers + u64::from(head) * SLOT
    }

    /// Adds a chain with `content` and makes it available; the device is not told. Returns its head.
    ///
    /// # Errors
    /// If the ring is full.
    pub fn add(&mut self, memory: &GuestMemoryMmap, chain: &Chain, content: &[u8]) -> Result<u16> {
        let entries = if chain.indirect { 1 } else { chain.lengths.len() };
        if entries > self.free.len() || (chain.indirect && chain.lengths.len() as u64 > INDIRECT_ENTRIES) {
            bail!("the ring is full");
        }
        let descriptors = self.free.split_off(self.free.len() - entries);
        let head = *descriptors.first().context("a chain without descriptors")?;
        let address = self.place(head);
        memory.write_slice(content, GuestAddress(address))?;
        let table = self.descriptors + INDIRECT_TABLES + u64::from(head) * INDIRECT_ENTRIES * 16;
        let mut at = address;
        for (place, length) in chain.lengths.iter().enumerate() {
            let last = place + 1 == chain.lengths.len();
            let next = if chain.indirect { place as u16 + 1 } else { descriptors.get(place + 1).copied().unwrap_or(0) };
            let flags = if chain.writable { flag::WRITE } else { 0 } | if last { 0 } else { flag::NEXT };
            let descriptor = Descriptor { address: at, length: *length, flags, next: if last { 0 } else { next } };
            let to =
                if chain.indirect { table + 16 * place as u64 } else { self.descriptor_address(descriptors[place]) };
            memory.write_slice(&descriptor.encode(), GuestAddress(to))?;
            at += u64::from(*length);
        }
        if chain.indirect {
            let length = 16 * chain.lengths.len() as u32;
            self.write_descriptor(memory, head, Descriptor { address: table, length, flags: flag::INDIRECT, next: 0 })?;
        }
        let capacity = chain.lengths.iter().sum();
        self.outstanding.insert(head, Outstanding { descriptors, address, capacity });
        self.make_available(memory, head)?;
        Ok(head)
    }

    fn descriptor_address(&self, index: u16) -> u64 {
        self.descriptors + 16 * u64::from(index)
    }

    /// Writes any descriptor anywhere in the table.
    ///
    /// # Errors
    /// If it lies outside guest memory.
    pub fn write_descriptor(&self, memory: &GuestMemoryMmap, index: u16, descriptor: Descriptor) -> Result<()> {
        Ok(memory.write_slice(&descriptor.encode(), GuestAddress(self.descriptor_address(index)))?)
    }

    /// Takes `count` descriptors for a chain that the test writes itself; they come back when the device returns the first as a head.
    ///
    /// # Errors
    /// If the ring has not so many.
    pub fn reserve(&mut self, count: usize) -> Result<Vec<u16>> {
        if count > self.free.len() {
            bail!("the ring is full");
        }
        let descriptors = self.free.split_off(self.free.len() - count);
        let head = *descriptors.first().context("at least one")?;
        let entry = Outstanding { descriptors: descriptors.clone(), address: self.buffer(head), capacity: SLOT as u32 };
        self.outstanding.insert(head, entry);
        Ok(descriptors)
    }

    /// Puts a head, checked or not, into the available ring and moves the index.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn make_available(&mut self, memory: &GuestMemoryMmap, head: u16) -> Result<()> {
        let slot = self.available + 4 + 2 * u64::from(self.next_available % self.size);
        memory.write_slice(&head.to_le_bytes(), GuestAddress(slot))?;
        self.next_available = self.next_available.wrapping_add(1);
        self.order.push_back(head);
        self.set_available_index(memory, self.next_available)
    }

    /// Stores the available index.
    ///
    /// # Errors
    /// If guest memory cannot be written.
    pub fn set_available_index(&self, memory: &GuestMemoryMmap, index: u16) -> Result<()> {
        Ok(memory.store(index.to_le(), GuestAddress(self.available + 2), Ordering::Release)?)
    }

    /// Kicks if the device asks for it (virtio 1.3 §2.7.13.4.1, §2.7.10).
    ///
    /// # Errors
    /// If guest memory cannot be read, or the kick cannot be written.
    pub fn notify(&mut self, memory: &GuestMemoryMmap) -> Result<()> {
        fence(Ordering::SeqCst);
        let word = |at: u64| -> Result<u16> { Ok(u16::from_le(memory.load(GuestAddress(at), Ordering::Acquire)?)) };
        let old = std::mem::replace(&mut self.notified, self.next_available);
        let wanted = if self.event_idx {
            let event = word(self.used + 4 + 8 * u64::from(self.size))?;
            let new = self.next_available;
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            word(self.used)? & 1 == 0
        };
        if wanted { self.kick.write(1).context("kick") } else { Ok(()) }
    }

    /// Asks for an interrupt at the next used entry.
    pub(super) fn arm(&self, memory: &GuestMemoryMmap) -> Result<()> {
        if self.event_idx {
            let at = self.available + 4 + 2 * u64::from(self.size);
            memory.store(self.last_used.to_le(), GuestAddress(at), Ordering::Release)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// The next used entry, if there is one.
    ///
    /// # Errors
    /// If the device returned a head that it was not given.
    pub fn take_used(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Used>> {
        let index = u16::from_le(memory.load(GuestAddress(self.used + 2), Ordering::Acquire)?);
        if index == self.last_used {
            return Ok(None);
        }
        let at = self.used + 4 + 8 * u64::from(self.last_used % self.size);
        let id = u32::from_le(memory.read_obj(GuestAddress(at))?);
        let length = u32::from_le(memory.read_obj(GuestAddress(at + 4))?);
        self.last_used = self.last_used.wrapping_add(1);
        let head = u16::try_from(id).with_context(|| format!("used id {id}"))?;
        let entry =
            self.outstanding.remove(&head).with_context(|| format!("head {head} was returned but not given"))?;
        if let Some(first) = self.order.pop_front().filter(|first| *first != head) {
            bail!("head {head} was returned before {first}, which was available before it");
        }
        if length > entry.capacity {
            bail!("{length} bytes were written into a buffer of {}", entry.capacity);
        }
        // The chain's buffer is read before its descriptors are used again: see content().
        self.free.extend(entry.descriptors.iter().rev());
        Ok(Some(Used { head, length, address: entry.address }))
    }

    /// What the device wrote into a returned chain; valid until the next [`DriverRing::add`].
    ///
    /// # Errors
    /// If guest memory cannot be read.
    pub fn content(&self, memory: &GuestMemoryMmap, used: &Used) -> Result<Vec<u8>> {
        let mut bytes = vec![0; used.length as usize];
        memory.read_slice(&mut bytes, GuestAddress(used.address))?;
        Ok(bytes)
    }
}
