//! iovecs for one socket call.

/// Checked iovecs over guest memory, borrowed for one call: what they point into stays mapped for the borrow.
pub struct IoVecs<'a> {
    list: &'a mut [libc::iovec],
    count: usize,
    bytes: usize,
}

impl<'a> IoVecs<'a> {
    pub(crate) fn new(list: &'a mut [libc::iovec], bytes: usize) -> IoVecs<'a> {
        let count = list.len();
        IoVecs { list, count, bytes }
    }

    /// The iovecs; none is empty, and there are at most 1024.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.list[..self.count]
    }

    /// Bytes over all iovecs, those in front of a skipped part included.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Cuts the end off so that at most `bytes` are left.
    pub fn truncate(&mut self, bytes: usize) {
        while self.bytes > bytes {
            let last = &mut self.list[self.count - 1];
            let excess = self.bytes - bytes;
            if last.iov_len > excess {
                last.iov_len -= excess;
                self.bytes = bytes;
            } else {
                self.bytes -= last.iov_len;
                self.count -= 1;
            }
        }
    }
}
