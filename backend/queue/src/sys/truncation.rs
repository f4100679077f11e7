//! What happens when a VMM truncates memory that it has shared: the next access raises SIGBUS, which would end the process
//! for everybody. The handler maps zero pages over the range and marks it as lost; its port is then taken out of service.
#![allow(unsafe_code)]

use super::dumps::leave_out;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Ranges that can be watched at once: 64 VMs of 32 regions. A map beyond that is served, but not guarded.
const SLOTS: usize = 2048;

struct Slot {
    /// Host address; 0: free. The other fields are set before it, and cleared after it.
    start: AtomicUsize,
    len: AtomicUsize,
    taken: AtomicBool,
    lost: AtomicBool,
}

static RANGES: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

/// A watched range; given back on drop, before the range is unmapped.
#[derive(Debug)]
pub(super) struct Watch(usize);

impl Watch {
    /// Watches a mapped range. None if there are too many.
    pub(super) fn new(start: *mut u8, len: u64) -> Option<Watch> {
        let index = RANGES.iter().position(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
        RANGES[index].len.store(len as usize, Ordering::Relaxed);
        RANGES[index].lost.store(false, Ordering::Relaxed);
        RANGES[index].start.store(start.addr(), Ordering::Release);
        Some(Watch(index))
    }

    /// Whether memory behind the range has gone.
    pub(super) fn is_lost(&self) -> bool {
        RANGES[self.0].lost.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        RANGES[self.0].start.store(0, Ordering::Release);
        RANGES[self.0].taken.store(false, Ordering::Release);
    }
}

/// Installs the handler for the whole process.
///
/// # Errors
/// The system's.
pub fn survive_truncation() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler calls async-signal-safe functions only.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, whose address field SIGBUS fills in.
    let at = unsafe { (*info).si_addr() }.addr();
    let mut healed = false;
    for slot in &RANGES {
        let start = slot.start.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if start != 0 && at.wrapping_sub(start) < len {
            slot.lost.store(true, Ordering::Relaxed);
            healed = healed || map_zeros(start, len);
        }
    }
    if !healed {
        // Not ours, or beyond help: the instruction is repeated and ends the process as if nobody had looked.
        // SAFETY: restores the default action; signal(2) is async-signal-safe.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
}

fn map_zeros(start: usize, len: usize) -> bool {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let place = ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a mapping of guest memory that this process owns and watches; every access to it copes with any
    // content. It is unmapped later as it would have been.
    let mapped = unsafe { libc::mmap(place, len, access, flags, -1, 0) };
    // What the device writes there from now on is a guest's, too.
    if mapped != libc::MAP_FAILED {
        leave_out(mapped.cast(), len as u64);
    }
    mapped != libc::MAP_FAILED
}
