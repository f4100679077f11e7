//! iovecs over parts of several chains, of one burst or of more.
use std::ops::Range;

use crate::Burst;
use crate::iovec::IoVecs;
use crate::sys::IoVecBuffer;

/// [offset, offset + len) of a range of a burst's chains.
pub struct Part<'a> {
    /// Where the chains were fetched.
    pub burst: &'a Burst,
    /// Which chains.
    pub chains: Range<usize>,
    /// First byte, from the start of the first chain.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Part<'_> {
    /// The part's one's-complement sum, as [`Burst::sum`].
    pub fn sum(&self) -> u16 {
        self.burst.sum(self.chains.clone(), self.offset, self.len)
    }
}

/// Room for the iovecs of one call over parts that do not lie side by side. Reused: nothing is allocated after creation.
pub struct Gather {
    iovecs: IoVecBuffer,
}

impl Default for Gather {
    fn default() -> Gather {
        Gather { iovecs: IoVecBuffer::new() }
    }
}

impl Gather {
    /// iovecs over a header, which is not empty, and the parts behind it, for one socket call; cut at the 1024 iovecs that a
    /// call takes, and where a part's chains end.
    pub fn behind<'a>(&'a mut self, header: &'a mut [u8], parts: impl Iterator<Item = Part<'a>>) -> IoVecs<'a> {
        self.iovecs.clear();
        self.iovecs.push(header.as_mut_ptr(), header.len());
        let mut bytes = header.len();
        for part in parts {
            bytes += part.burst.append_iovecs(part.chains, part.offset, part.len, &mut self.iovecs);
        }
        IoVecs::new(self.iovecs.as_mut_slice(), bytes)
    }
}
