//! Captures of a VM's frames (ADR 0023): which frames, and the file that they become.
//!
//! * [`filter`]: expressions that say which frames are wanted.
//! * [`pcapng`]: the file format; it is written here and walked through by the client.
//! * `stream`: from the worker's pages to a client of the API.
pub mod filter;
pub mod pcapng;
pub(crate) mod stream;

pub use stream::Nic;
