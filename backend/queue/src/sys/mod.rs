//! All access to guest memory. The rest of the crate sees checked, safe operations only.
//!
//! Soundness rests on three invariants, each held inside one file here:
//!
//! * [`MemoryMap`] keeps its mappings readable and writable for as long as it lives.
//! * [`RingMemory`] and [`Segments`] hold a reference to the map that their pointers were found in.
//! * Guest memory may change under a read. Values by which anything is decided are read volatile or atomic, once; bulk
//!   copies go through raw pointers, and no reference to guest bytes is made.
#![allow(unsafe_code)]

mod buffer;
mod bulk;
mod call;
mod dumps;
mod map;
mod pages;
mod ring;
mod segments;
mod truncation;

pub(crate) use buffer::Buffer;
pub use buffer::{FRONT, Front, Pattern};
pub use call::{Held, call, drain};
pub use dumps::Undumped;
pub use map::MemoryMap;
pub(crate) use map::{Descriptor, Table, Window};
pub use pages::DirtyLog;
pub(crate) use ring::{Areas, ROW, RingMemory};
pub(crate) use segments::{Appender, Buffers, IoVecBuffer, MAX_IOVECS, Refusal, Segments};
pub use truncation::survive_truncation;
