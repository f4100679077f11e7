//! The checked map of one VM's memory, and descriptor tables in it.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ptr;

use super::buffer::Buffer;
use super::dumps::leave_out;
use super::truncation::Watch;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// A contiguous range of guest-physical memory and where it is mapped.
#[derive(Clone, Copy)]
pub(super) struct Region {
    start: u64,
    len: u64,
    host: *mut u8,
}

// SAFETY: a region is a plain address range; the mapping behind it belongs to the process, not to a thread, and every
// access to it copes with concurrent change, since the guest may change it at any time anyway.
unsafe impl Send for Region {}
// SAFETY: as above; a shared Region gives out addresses only.
unsafe impl Sync for Region {}

impl Region {
    /// The host address of `address` and the bytes from there to the region's end.
    #[inline(always)]
    pub(super) fn at(&self, address: u64) -> Option<(*mut u8, u64)> {
        let offset = address.wrapping_sub(self.start);
        (offset < self.len).then(|| (self.host.wrapping_add(offset as usize), self.len - offset))
    }
}

/// Checked map of one VM's memory. Immutable: replaced as a whole when the VMM changes it. Used as `Arc<MemoryMap>`.
///
/// A buffer that crosses from one region into an adjacent one is split into two segments. A ring's areas and indirect
/// descriptor tables have to lie in one region each.
pub struct MemoryMap {
    regions: Box<[Region]>,
    /// Given back before the mappings go: fields are dropped in order.
    watches: Box<[Watch]>,
    /// Keeps the mappings alive.
    _memory: GuestMemoryMmap<()>,
}

impl MemoryMap {
    /// Takes the regions of `memory` that are mapped readable and writable; others do not exist for the rings. None of them gets into a core
    /// dump.
    pub fn new(memory: GuestMemoryMmap<()>) -> MemoryMap {
        memory.iter().for_each(|region| leave_out(region.as_ptr(), region.len()));
        const ACCESS: i32 = libc::PROT_READ | libc::PROT_WRITE;
        let mut regions: Vec<Region> = memory
            .iter()
            .filter(|region| region.prot() & ACCESS == ACCESS)
            .map(|region| Region { start: region.start_addr().0, len: region.len(), host: region.as_ptr() })
            .collect();
        regions.sort_by_key(|region| region.start);
        let watches = regions.iter().filter_map(|region| Watch::new(region.host, region.len)).collect();
        MemoryMap { regions: regions.into_boxed_slice(), watches, _memory: memory }
    }

    /// Whether the VMM has truncated the memory: what the guest has there is gone, and reads as zeros. Known only after
    /// an access, and with [`survive_truncation`](crate::survive_truncation) in force.
    pub fn is_lost(&self) -> bool {
        self.watches.iter().any(Watch::is_lost)
    }

    /// The region by its number; an empty one if there is none.
    #[inline]
    pub(super) fn region(&self, number: usize) -> Region {
        self.regions.get(number).copied().unwrap_or(Region { start: 0, len: 0, host: ptr::null_mut() })
    }

    /// The region by its number, for buffers that lie in it.
    #[inline]
    pub(crate) fn window(&self, number: usize) -> Window<'_> {
        Window { map: self, region: self.region(number), len: 0, room: 0 }
    }

    /// The number of the region in which the address lies.
    pub(super) fn search(&self, address: u64) -> Option<usize> {
        let found = self.regions.partition_point(|region| region.start <= address).checked_sub(1)?;
        self.regions.get(found)?.at(address).map(|_| found)
    }

    /// Every region: guest-physical address and bytes.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, u64)> {
        self.regions.iter().map(|region| (region.start, region.len))
    }

    /// The first guest-physical address behind all memory.
    pub(super) fn end(&self) -> u64 {
        self.regions.last().map_or(0, |region| region.start + region.len)
    }

    /// The guest-physical address of what lies at a host address.
    pub(super) fn guest_address(&self, host: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = (host.addr() as u64).wrapping_sub(region.host.addr() as u64);
            (offset < region.len).then(|| region.start + offset)
        })
    }

    /// The host address of a range that lies in one region.
    pub(super) fn resolve(&self, address: u64, len: u64) -> Option<*mut u8> {
        let (host, rest) = self.region(self.search(address)?).at(address)?;
        (rest >= len).then_some(host)
    }

    /// The table of `count` descriptors at `address`, of any alignment (virtio 1.3 asks for none of indirect tables).
    pub(crate) fn table(&self, address: u64, count: u16) -> Option<Table<'_>> {
        let base = self.resolve(address, u64::from(count) * Table::ENTRY)?;
        Some(Table { base, count, map: PhantomData })
    }
}

impl fmt::Debug for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions.iter().map(|region| region.start..region.start + region.len)).finish()
    }
}

/// One region of a map, which is borrowed for as long as buffers in it are used; of these all are of one length, until another is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Window<'a> {
    map: &'a MemoryMap,
    region: Region,
    len: u32,
    /// Invariant: at so many first bytes of the region a buffer of this length, which is not 0, may begin.
    room: u64,
}

impl<'a> Window<'a> {
    /// From now on for buffers of `len` bytes; none are found if that is 0.
    #[inline(always)]
    pub(crate) fn resize(&mut self, len: u32) {
        self.len = len;
        let behind = self.region.len.checked_sub(u64::from(len));
        self.room = behind.filter(|_| len != 0).map_or(0, |last| last + 1);
    }

    /// The buffer at a guest-physical address, if it lies within the region.
    #[inline(always)]
    pub(crate) fn buffer(&self, address: u64) -> Option<Buffer<'a>> {
        let offset = address.wrapping_sub(self.region.start);
        (offset < self.room).then(|| Buffer::new(self.region.host.wrapping_add(offset as usize), self.len))
    }

    /// The same around the address.
    #[cold]
    #[inline(never)]
    pub(crate) fn around(self, address: u64) -> Option<Window<'a>> {
        let mut window = Window { region: self.map.region(self.map.search(address)?), ..self };
        window.resize(self.len);
        Some(window)
    }
}

/// A descriptor as it was read, once (virtio 1.3 §2.7.5).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    /// Of the two words in which it lies.
    #[inline(always)]
    pub(super) fn new(words: [u64; 2]) -> Descriptor {
        let rest = u64::from_le(words[1]);
        Descriptor {
            address: u64::from_le(words[0]),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// A descriptor table in guest memory, borrowed from the map in which it was found.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    base: *const u8,
    count: u16,
    map: PhantomData<&'a MemoryMap>,
}

impl<'a> Table<'a> {
    /// Bytes of one descriptor.
    pub(super) const ENTRY: u64 = 16;

    /// The table at `base`.
    ///
    /// # Safety
    ///
    /// `count` descriptors from `base` have to be mapped readable for `'a`.
    #[inline(always)]
    pub(super) unsafe fn from_raw(base: *const u8, count: u16) -> Table<'a> {
        Table { base, count, map: PhantomData }
    }

    /// Reads descriptor `index`, each byte of it once; None past the table's end.
    #[inline(always)]
    pub(crate) fn get(&self, index: u16) -> Option<Descriptor> {
        if index >= self.count {
            return None;
        }
        let entry = self.base.wrapping_add(usize::from(index) * Self::ENTRY as usize);
        let words = if entry.addr().is_multiple_of(align_of::<u64>()) {
            let entry = entry.cast::<u64>();
            // SAFETY: `index` is below `count`, so that the entry's 16 bytes are inside the mapped table; it is aligned.
            unsafe { [entry.read_volatile(), entry.add(1).read_volatile()] }
        } else {
            self.unaligned(entry)
        };
        Some(Descriptor::new(words))
    }

    #[cold]
    fn unaligned(&self, entry: *const u8) -> [u64; 2] {
        let mut words = [[0u8; 8]; 2];
        for (offset, byte) in words.as_flattened_mut().iter_mut().enumerate() {
            // SAFETY: called by `get` for an entry inside the mapped table; bytes need no alignment.
            *byte = unsafe { entry.add(offset).read_volatile() };
        }
        words.map(u64::from_ne_bytes)
    }
}
