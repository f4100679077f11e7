//! The VMM's side of a live migration: a log of dirty pages, and the copy of guest memory that is made by it.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VringConfigData};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, VolatileMemory,
};

use super::memory::{BUFFERS, RING_SPACE, RINGS, SLOT};
use super::{MockFrontend, feature};
use crate::sys;

/// Bytes of a page in the log.
pub const PAGE: u64 = 4096;

/// A log that the device sets bits in.
#[derive(Debug)]
pub struct DirtyLog {
    /// Its file.
    pub file: File,
    memory: GuestMemoryMmap,
    size: u64,
}

impl DirtyLog {
    /// For guest memory below `end`.
    ///
    /// # Errors
    /// Of the system.
    pub fn below(end: u64) -> Result<DirtyLog> {
        let size = end.div_ceil(64 * PAGE) * 8;
        let file: File = sys::memfd(c"mock-log").context("a memfd")?.into();
        file.set_len(size)?;
        let range = (GuestAddress(0), size as usize, Some(FileOffset::new(file.try_clone()?, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).context("mapping the log")?;
        Ok(DirtyLog { file, memory, size })
    }

    /// As SET_LOG_BASE tells it.
    pub fn region(&self) -> VhostUserDirtyLogRegion {
        VhostUserDirtyLogRegion { mmap_size: self.size, mmap_offset: 0, mmap_handle: self.file.as_raw_fd() }
    }

    /// Takes the dirty pages' addresses, which are clean from here on.
    ///
    /// # Errors
    /// None in fact.
    pub fn take(&self) -> Result<Vec<u64>> {
        let region = self.memory.find_region(GuestAddress(0)).context("the log")?;
        let words = region.as_volatile_slice()?;
        let mut pages = Vec::new();
        for word in 0..self.size / 8 {
            let at: &AtomicU64 = words.get_atomic_ref(8 * word as usize)?;
            // Most are clean, and looking first costs no bit: one that is set meanwhile is found the next time.
            let mut bits = if at.load(Ordering::Acquire) == 0 { 0 } else { at.swap(0, Ordering::AcqRel) };
            while bits != 0 {
                pages.push((64 * word + u64::from(bits.trailing_zeros())) * PAGE);
                bits &= bits - 1;
            }
        }
        Ok(pages)
    }
}

/// Guest memory as another host has it so far.
pub struct Copy {
    log: DirtyLog,
    source: GuestMemoryMmap,
    copy: GuestMemoryMmap,
    /// Every page that was ever dirty.
    pub dirty: BTreeSet<u64>,
}

impl Copy {
    /// Copies what is dirty; returns how many pages that were.
    ///
    /// # Errors
    /// If a page is logged that does not exist.
    pub fn catch_up(&mut self) -> Result<usize> {
        let pages = self.log.take()?;
        let mut bytes = [0; PAGE as usize];
        for page in &pages {
            self.source.read_slice(&mut bytes, GuestAddress(*page)).with_context(|| format!("page {page:#x}"))?;
            self.copy.write_slice(&bytes, GuestAddress(*page))?;
        }
        self.dirty.extend(&pages);
        Ok(pages.len())
    }

    /// The pages of `range` that differ.
    ///
    /// # Errors
    /// If there is no such memory.
    pub fn differences(&self, range: Range<u64>) -> Result<Vec<u64>> {
        let (mut left, mut right) = ([0; PAGE as usize], [0; PAGE as usize]);
        let mut pages = Vec::new();
        for page in (range.start..range.end).step_by(PAGE as usize) {
            self.source.read_slice(&mut left, GuestAddress(page))?;
            self.copy.read_slice(&mut right, GuestAddress(page))?;
            if left != right {
                pages.push(page);
            }
        }
        Ok(pages)
    }
}

impl MockFrontend {
    /// A log for all of the guest's memory.
    ///
    /// # Errors
    /// Of the system.
    pub fn new_log(&self) -> Result<DirtyLog> {
        DirtyLog::below(self.regions[1].guest + self.regions[1].size)
    }

    /// SET_LOG_BASE.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn set_log(&mut self, log: &DirtyLog) -> Result<()> {
        self.frontend.set_log_base(0, Some(log.region())).context("SET_LOG_BASE")
    }

    /// Turns logging on or off while the rings run, with the used rings' addresses, as QEMU does.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn log_all(&mut self, on: bool) -> Result<()> {
        let features = self.features | if on { feature::LOG_ALL } else { 0 };
        self.frontend.set_features(features).context("SET_FEATURES")?;
        for index in 0..self.rings.len() {
            let config = self.addresses(index);
            let log_addr = on.then_some(self.rings[index].used);
            let config = VringConfigData { flags: on.into(), log_addr, ..config };
            self.frontend.set_vring_addr(index, &config).context("SET_VRING_ADDR")?;
        }
        Ok(())
    }

    /// Begins a migration: logs, and copies all memory once.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn start_copy(&mut self) -> Result<Copy> {
        let log = self.new_log()?;
        self.set_log(&log)?;
        self.log_all(true)?;
        let ranges = self.regions.each_ref().map(|region| (GuestAddress(region.guest), region.size as usize));
        let copy = GuestMemoryMmap::from_ranges(&ranges)?;
        let mut page = vec![0; PAGE as usize];
        for region in &self.regions {
            for address in (region.guest..region.guest + region.size).step_by(PAGE as usize) {
                self.memory.read_slice(&mut page, GuestAddress(address))?;
                copy.write_slice(&page, GuestAddress(address))?;
            }
        }
        Ok(Copy { log, source: self.memory.clone(), copy, dirty: BTreeSet::new() })
    }

    /// The memory that only the device writes: every used ring, and the buffers of the receive queues.
    pub fn device_memory(&self) -> Vec<Range<u64>> {
        let rings = 0..self.rings.len() as u64;
        let used = rings.clone().map(|index| RINGS + index * RING_SPACE + 0x4000).map(|at| at..at + PAGE);
        let data = 2 * self.config.queue_pairs as u64;
        let buffers = rings.filter(|index| *index < data && index.is_multiple_of(2)).map(|index| {
            let at = BUFFERS + index * 256 * SLOT;
            at..at + 256 * SLOT
        });
        used.chain(buffers).collect()
    }

    /// Whether the control queue's buffers are in this page, in which driver and device write.
    pub fn is_command(&self, page: u64) -> bool {
        let at = BUFFERS + self.control() as u64 * 256 * SLOT;
        (at..at + 256 * SLOT).contains(&page)
    }

    /// Stops every ring, as a VMM does at the end; where each stood.
    ///
    /// # Errors
    /// If the backend refuses.
    pub fn stop_rings(&mut self) -> Result<Vec<u16>> {
        (0..self.rings.len()).map(|index| self.stop_ring(index)).collect()
    }
}
