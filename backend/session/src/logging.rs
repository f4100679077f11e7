//! What is to be logged of the guest's memory, as the VMM's messages say piece by piece (vhost-user specification, "Migration").
use std::fs::File;
use std::io;
use std::sync::Arc;
use vonic_queue::DirtyLog;

/// VHOST_F_LOG_ALL: the feature bit by which logging goes on and off while rings run.
pub const LOG_ALL: u64 = 1 << 26;

/// The log, and whether it is kept. Either may be said first.
#[derive(Debug, Default)]
pub struct Logging {
    on: bool,
    log: Option<Arc<DirtyLog>>,
    used: Vec<Option<u64>>,
}

impl Logging {
    /// SET_FEATURES; true if that changes anything.
    pub fn switch(&mut self, features: u64) -> bool {
        let on = features & LOG_ALL != 0;
        std::mem::replace(&mut self.on, on) != on && self.log.is_some()
    }

    /// SET_LOG_BASE; true if that changes anything yet.
    ///
    /// # Errors
    /// The log cannot be mapped.
    pub fn set_log(&mut self, file: File, offset: u64, len: u64) -> io::Result<bool> {
        self.log = Some(Arc::new(DirtyLog::map(file, offset, len)?));
        Ok(self.on)
    }

    /// Where a used ring is to be logged; true if that changes anything yet.
    pub fn set_used(&mut self, ring: u32, address: Option<u64>) -> bool {
        let ring = ring as usize;
        if self.used.len() <= ring {
            self.used.resize(ring + 1, None);
        }
        std::mem::replace(&mut self.used[ring], address) != address && self.on && self.log.is_some()
    }

    /// What is in force.
    pub fn effective(&self) -> (Option<Arc<DirtyLog>>, Vec<Option<u64>>) {
        (self.log.clone().filter(|_| self.on), self.used.clone())
    }
}
