//! One split ring's three areas in guest memory, resolved once (virtio 1.3 §2.7.5 to §2.7.8).
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::map::{MemoryMap, Table};
use crate::{QueueError, RingSetup};

/// The areas, and the map that keeps them valid.
pub(crate) struct RingMemory {
    areas: Areas<'static>,
    map: Arc<MemoryMap>,
}

// SAFETY: the pointers refer to mappings of the process that `map` keeps alive, and are accessed with atomics only.
unsafe impl Send for RingMemory {}

/// The areas' host addresses, in a map that is kept for `'a`. Positions are free-running; they are taken modulo size.
#[derive(Clone, Copy)]
pub(crate) struct Areas<'a> {
    descriptors: *const u8,
    available: *mut u8,
    used: *mut u8,
    /// The size less one.
    mask: u32,
    map: PhantomData<&'a MemoryMap>,
}

/// Chains whose descriptors and used entries lie in a row.
pub(crate) struct Row<'a> {
    descriptors: *const u64,
    used: *mut u64,
    first: u64,
    map: PhantomData<&'a MemoryMap>,
}

/// How many chains those are.
pub(crate) const ROW: usize = 8;

impl Row<'_> {
    /// As [`Areas::descriptor`], of the chain with this number in the row.
    #[inline(always)]
    pub(crate) fn descriptor(&self, i: usize) -> [u64; 2] {
        assert!(i < ROW);
        // SAFETY: `Areas::row` found so many descriptors to be inside the mapped table, which is aligned to 16.
        unsafe { [self.descriptors.add(2 * i).read_volatile(), self.descriptors.add(2 * i + 1).read_volatile()] }
            .map(u64::from_le)
    }

    /// The head of that chain.
    #[inline(always)]
    pub(crate) fn head(&self, i: usize) -> u16 {
        (self.first + i as u64) as u16
    }

    /// As [`Areas::set_read`], of that chain.
    #[inline(always)]
    pub(crate) fn set_read(&self, i: usize) {
        assert!(i < ROW);
        // SAFETY: `Areas::row` found so many entries to be inside the mapped used area; as for `Areas::set_used`.
        unsafe { self.used.add(i).write_unaligned((self.first + i as u64).to_le()) };
    }
}

impl RingMemory {
    /// Bytes in front of the available and used entries: flags and index.
    pub(crate) const HEADER: u64 = 4;
    /// Bytes behind them: the event field.
    pub(crate) const EVENT: u64 = 2;

    /// Where the used entry in a slot is, from the used ring's start; behind the last one is the event field.
    pub(crate) fn used_entry(slot: u16) -> u64 {
        RingMemory::HEADER + 8 * u64::from(slot)
    }

    /// Bytes of the used ring.
    pub(crate) fn used_len(size: u16) -> u64 {
        Self::used_entry(size) + RingMemory::EVENT
    }

    /// Checks size, alignment and mapping of all three areas.
    pub(crate) fn new(map: &Arc<MemoryMap>, setup: &RingSetup) -> Result<RingMemory, QueueError> {
        let size = setup.size;
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(QueueError::BadSize(size));
        }
        let count = u64::from(size);
        let area = |what, address: u64, len, align: u64| {
            if !address.is_multiple_of(align) {
                return Err(QueueError::BadAlignment { what, address });
            }
            let host = map.resolve(address, len).ok_or(QueueError::Unmapped { what, address })?;
            // A region may start at an odd guest address, or be mapped at an odd offset.
            if !(host.addr() as u64).is_multiple_of(align) {
                return Err(QueueError::BadAlignment { what, address });
            }
            Ok(host)
        };
        let areas = Areas {
            descriptors: area("descriptors", setup.descriptors, count * Table::ENTRY, 16)?,
            available: area("available", setup.available, RingMemory::HEADER + count * 2 + RingMemory::EVENT, 2)?,
            used: area("used", setup.used, Self::used_len(size), 4)?,
            mask: u32::from(size) - 1,
            map: PhantomData,
        };
        Ok(RingMemory { areas, map: Arc::clone(map) })
    }

    /// The areas, for as long as the map is kept.
    #[inline(always)]
    pub(crate) fn areas(&self) -> Areas<'_> {
        self.areas
    }

    /// The map in which the areas were found.
    #[inline(always)]
    pub(crate) fn map(&self) -> &Arc<MemoryMap> {
        &self.map
    }

    /// The descriptor table.
    #[inline(always)]
    pub(crate) fn table(&self) -> Table<'_> {
        // SAFETY: `new` checked that `size` descriptors are mapped there, and `map` keeps them so for the borrow of self.
        unsafe { Table::from_raw(self.areas.descriptors, (self.areas.mask + 1) as u16) }
    }
}

impl Deref for RingMemory {
    type Target = Areas<'static>;

    /// The borrow of self keeps the map.
    #[inline(always)]
    fn deref(&self) -> &Areas<'static> {
        &self.areas
    }
}

impl Areas<'_> {
    /// Reads the two words of descriptor `index`, each byte of it once; None past the table's end.
    #[inline(always)]
    pub(crate) fn descriptor(&self, index: u16) -> Option<[u64; 2]> {
        let index = u32::from(index);
        if index > self.mask {
            return None;
        }
        let entry = self.descriptors.wrapping_add(index as usize * Table::ENTRY as usize).cast::<u64>();
        // SAFETY: `new` found the table mapped and aligned to 16, and the index is below its size.
        Some(unsafe { [entry.read_volatile(), entry.add(1).read_volatile()] }.map(u64::from_le))
    }

    #[inline(always)]
    fn slot(&self, position: u32) -> usize {
        (position & self.mask) as usize
    }

    /// The chains at this position and the seven behind it, if their heads are descriptors in a row: so a driver posts whose buffers come back
    /// in order. Each head is read once.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn row(&self, position: u32) -> Option<Row<'_>> {
        use std::arch::x86_64::{
            _mm_add_epi16, _mm_cmpeq_epi16, _mm_cvtsi128_si32, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi16,
            _mm_setr_epi16,
        };
        let slot = self.slot(position);
        if slot + ROW > self.mask as usize + 1 {
            return None;
        }
        // SAFETY: every x86-64 has SSE2; the slots are below size, so that the heads lie in the mapped area. The empty assembly makes the copy the
        // only one.
        let (first, in_a_row) = unsafe {
            let mut heads = _mm_loadu_si128(self.available.add(RingMemory::HEADER as usize + 2 * slot).cast());
            std::arch::asm!("/* {0} */", inout(xmm_reg) heads, options(nomem, nostack, preserves_flags));
            let first = _mm_cvtsi128_si32(heads) as u16;
            let wanted = _mm_add_epi16(_mm_set1_epi16(first as i16), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
            (first, _mm_movemask_epi8(_mm_cmpeq_epi16(heads, wanted)) == 0xffff)
        };
        if !in_a_row || usize::from(first) + ROW > self.mask as usize + 1 {
            return None;
        }
        let descriptors = self.descriptors.wrapping_add(usize::from(first) * Table::ENTRY as usize).cast();
        let used = self.used.wrapping_add(RingMemory::HEADER as usize + 8 * slot).cast();
        Some(Row { descriptors, used, first: first.into(), map: PhantomData })
    }

    /// As above; nobody looks for rows.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    pub(crate) fn row(&self, _: u32) -> Option<Row<'_>> {
        None
    }

    /// A 16-bit field of the available area.
    #[inline(always)]
    fn available(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: private, and called with offsets 0 to HEADER + 2·size only, all even: inside the area that `new` found
        // mapped and aligned to 2. Atomics allow for the driver's stores to the same place.
        unsafe { AtomicU16::from_ptr(self.available.add(offset).cast()) }
    }

    /// A 16-bit field of the used area.
    #[inline(always)]
    fn used(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: private, and called with offsets 0, 2 and HEADER + 8·size only: inside the area that `new` found mapped
        // and aligned to 4. Atomics allow for the driver's loads of the same place.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast()) }
    }

    /// The driver's index; what it published before is visible after.
    #[inline(always)]
    pub(crate) fn available_index(&self) -> u16 {
        u16::from_le(self.available(2).load(Ordering::Acquire))
    }

    /// The head that the driver put at `position`, unchecked.
    #[inline(always)]
    pub(crate) fn available_head(&self, position: u32) -> u16 {
        u16::from_le(self.available(RingMemory::HEADER as usize + 2 * self.slot(position)).load(Ordering::Relaxed))
    }

    /// The driver's flags.
    #[inline(always)]
    pub(crate) fn available_flags(&self) -> u16 {
        u16::from_le(self.available(0).load(Ordering::Relaxed))
    }

    /// The used position after which the driver wants an interrupt, with EVENT_IDX.
    #[inline(always)]
    pub(crate) fn used_event(&self) -> u16 {
        u16::from_le(self.available(RingMemory::HEADER as usize + 2 * (self.mask as usize + 1)).load(Ordering::Relaxed))
    }

    /// The device's own index, as it stands in guest memory.
    pub(crate) fn used_index(&self) -> u16 {
        u16::from_le(self.used(2).load(Ordering::Acquire))
    }

    /// Writes the used entry at `position`.
    #[inline(always)]
    pub(crate) fn set_used(&self, position: u32, head: u16, len: u32) {
        let entry = self.used.wrapping_add(RingMemory::HEADER as usize + 8 * self.slot(position));
        // SAFETY: the slot is below size, so that the entry's 8 bytes are inside the mapped used area. They may be written in any way: the driver
        // looks at them only behind the index, which is stored with release.
        unsafe {
            entry.cast::<u32>().write_unaligned(u32::from(head).to_le());
            entry.cast::<u32>().add(1).write_unaligned(len.to_le());
        }
    }

    /// As [`set_used`](Areas::set_used), for a chain that was only read, by one store.
    #[inline(always)]
    pub(crate) fn set_read(&self, position: u32, head: u16) {
        let entry = self.used.wrapping_add(RingMemory::HEADER as usize + 8 * self.slot(position));
        // SAFETY: as for `set_used`.
        unsafe { entry.cast::<u64>().write_unaligned(u64::from(head).to_le()) };
    }

    /// Publishes every entry written before.
    #[inline(always)]
    pub(crate) fn set_used_index(&self, index: u16) {
        self.used(2).store(index.to_le(), Ordering::Release);
    }

    /// Sets the device's flags.
    pub(crate) fn set_used_flags(&self, flags: u16) {
        self.used(0).store(flags.to_le(), Ordering::Relaxed);
    }

    /// Sets the available position after which the device wants a kick, with EVENT_IDX.
    pub(crate) fn set_available_event(&self, position: u16) {
        self.used(RingMemory::HEADER as usize + 8 * (self.mask as usize + 1))
            .store(position.to_le(), Ordering::Relaxed);
    }
}
