//! Guest memory: one memfd, two regions with a hole between them, as guests of more than 3 GiB have it.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::sys;

/// Guest address of the region in which the rings lie.
pub const RINGS: u64 = 0x1_0000;
/// Guest address of the region in which the buffers lie.
pub const BUFFERS: u64 = 0x1_0000_0000;
/// Room per buffer: 64 KiB, headers, and some.
pub(super) const SLOT: u64 = 0x1_1000;
/// Bytes per ring in the rings' region: descriptors, available and used ring, indirect tables of 16 entries per head.
pub(super) const RING_SPACE: u64 = 0x8_0000;

/// One region as SET_MEM_TABLE tells it.
#[derive(Debug, Clone)]
pub struct Region {
    /// Guest-physical address.
    pub guest: u64,
    /// Bytes.
    pub size: u64,
    /// Address in this process, which ring addresses are given in.
    pub user: u64,
    /// Offset in the file.
    pub offset: u64,
    /// The file.
    pub file: RawFd,
}

impl Region {
    /// The same as the vhost crate has it.
    pub fn info(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: self.guest,
            memory_size: self.size,
            userspace_addr: self.user,
            mmap_offset: self.offset,
            mmap_handle: self.file,
        }
    }

    pub(super) fn user_address(&self, guest: u64) -> u64 {
        self.user + (guest - self.guest)
    }
}

/// For so many rings: their areas, and 256 buffers for each; behind them so much more for buffers to roam over.
pub(super) fn create(rings: u64, more: u64) -> Result<(GuestMemoryMmap, [Region; 2])> {
    let (rings_size, buffers_size) = (rings * RING_SPACE, rings * 256 * SLOT + more);
    let file: File = sys::memfd(c"mock-guest").context("a memfd")?.into();
    file.set_len(rings_size + buffers_size)?;
    let second = FileOffset::new(file.try_clone()?, rings_size);
    let first = FileOffset::new(file, 0);
    let ranges = [
        (GuestAddress(RINGS), rings_size as usize, Some(first)),
        (GuestAddress(BUFFERS), buffers_size as usize, Some(second)),
    ];
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges).context("mapping guest memory")?;
    let region = |guest: u64, size: u64| -> Result<Region> {
        let user = memory.get_host_address(GuestAddress(guest))? as u64;
        let found = memory.find_region(GuestAddress(guest)).and_then(|region| {
            let file = region.file_offset()?;
            Some((file.file().as_raw_fd(), file.start()))
        });
        let (file, offset) = found.context("a region's file")?;
        Ok(Region { guest, size, user, offset, file })
    };
    let regions = [region(RINGS, rings_size)?, region(BUFFERS, buffers_size)?];
    Ok((memory, regions))
}
