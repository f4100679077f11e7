//! The log of the pages that the device has written, in memory that the VMM shares (vhost-user specification, "Migration").
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::{FileOffset, MmapRegion};

use super::dumps::leave_out;
use super::map::MemoryMap;
use super::truncation::Watch;

/// Bytes of a page in the log, whatever the host's pages are (vhost-user specification, VHOST_LOG_PAGE).
const PAGE: u64 = 4096;

/// One bit for each 4 KiB of guest-physical memory: page p is bit p % 8 of byte p / 8. The VMM clears the bits and
/// copies the pages while the device sets them, so they are set atomically, and after the page was written: a page whose
/// bit is clear holds nothing new.
pub struct DirtyLog {
    /// Given back before the mapping goes: fields are dropped in order.
    watch: Option<Watch>,
    memory: MmapRegion<()>,
}

impl DirtyLog {
    /// Maps `len` bytes of a file from `offset` on.
    ///
    /// # Errors
    /// `InvalidInput` for a file that is shorter, an offset within a page, or more bytes than there can be; the system's.
    pub fn map(file: File, offset: u64, len: u64) -> io::Result<DirtyLog> {
        let bytes = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        // Mapped is a file of any length, and the first touch beyond its end would be a bus error.
        if bytes == 0 || offset.checked_add(len).is_none_or(|end| file.metadata().map_or(true, |m| m.len() < end)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let memory = MmapRegion::from_file(FileOffset::new(file, offset), bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        leave_out(memory.as_ptr(), len);
        Ok(DirtyLog { watch: Watch::new(memory.as_ptr(), len), memory })
    }

    /// Whether there is a bit for every page of the map.
    pub fn covers(&self, map: &MemoryMap) -> bool {
        map.end().div_ceil(PAGE).div_ceil(8) <= self.memory.size() as u64
    }

    /// Whether the VMM has truncated the log. Known only after an access, and with
    /// [`survive_truncation`](crate::survive_truncation) in force.
    pub fn is_lost(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_lost)
    }

    /// Marks the pages of `len` bytes from the guest-physical address `start`; those that have no bit are left out.
    pub(crate) fn mark(&self, start: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|rest| start.saturating_add(rest) / PAGE) else { return };
        for page in start / PAGE..=last {
            let Some(byte) = self.byte(page / 8) else { return };
            // Not looked at before: that could be done before the page's own stores are visible, and the VMM may clear the
            // bit in between.
            byte.fetch_or(1 << (page % 8), Ordering::Release);
        }
    }

    #[inline]
    fn byte(&self, index: u64) -> Option<&AtomicU8> {
        let inside = index < self.memory.size() as u64;
        // SAFETY: the byte is within the mapping, which lives as long as self. The VMM, another process, accesses it with
        // atomics as well; nothing of it is ever a Rust reference to plain memory.
        inside.then(|| unsafe { AtomicU8::from_ptr(self.memory.as_ptr().wrapping_add(index as usize)) })
    }
}

impl fmt::Debug for DirtyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirtyLog({} bytes)", self.memory.size())
    }
}
