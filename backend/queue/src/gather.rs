//! iovecs over parts of several chains, of one burst or of more, and over memory of the host.
use std::marker::PhantomData;
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
    /// Begins with no parts.
    pub fn start<'a>(&'a mut self) -> Gathering<'a> {
        self.iovecs.clear();
        Gathering { iovecs: &mut self.iovecs, bytes: 0, parts: PhantomData }
    }
}

/// iovecs in the making; every part is borrowed until the call is over. Cut at the 1024 that a call takes.
pub struct Gathering<'a> {
    iovecs: &'a mut IoVecBuffer,
    bytes: usize,
    parts: PhantomData<&'a Burst>,
}

impl<'a> Gathering<'a> {
    /// Adds a part of guest memory, cut where its chains end.
    pub fn guest(&mut self, part: Part<'a>) {
        self.bytes += part.burst.append_iovecs(part.chains, part.offset, part.len, self.iovecs);
    }

    /// Adds memory of the host; if it is empty, nothing.
    pub fn host(&mut self, bytes: &'a mut [u8]) {
        if !bytes.is_empty() && self.iovecs.push(bytes.as_mut_ptr(), bytes.len()) {
            self.bytes += bytes.len();
        }
    }

    /// The iovecs of everything added, in that order.
    pub fn finish(self) -> IoVecs<'a> {
        IoVecs::new(self.iovecs.as_mut_slice(), self.bytes)
    }
}
