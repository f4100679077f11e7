//! One TCP leg towards a guest: no I/O, no clock, no allocation.
//!
//! A [`Leg`] is the end of a TCP connection that vonic keeps towards a guest. Its far end is a socket of the host's
//! kernel, which the caller handles: the leg sees headers, sequence numbers and byte counts, never payload. Payload
//! towards the guest stays in the host socket's receive queue until the guest acknowledges it, so that a
//! retransmission is another peek; payload from the guest is acknowledged only when the host socket took it.
//!
//! It is written after RFC 9293, with its names of states and variables, one short function per step of
//! section 3.10.7.4; with RFC 5681 and 6582 (loss recovery), RFC 5961 sections 3 to 5 (blind attacks),
//! RFC 6298 (retransmission timeout), RFC 7323 (window scale and timestamps), RFC 2018, 2883 and 6675 (selective
//! acknowledgments). What of RFC 9293 is met where, and what is not, stands in `backend/docs/rfc9293.md`.
//!
//! That the crate is `no_std` is the proof of its first sentence.
//!
//! ```
//! use vonic_tcp::{Config, Event, Flags, Instant, Leg, Segment, Seq, Transmit};
//!
//! let config = Config::new(1460, 7);
//! let syn = Segment { seq: Seq(1000), ack: Seq(0), flags: Flags::SYN, window: 64240, options: &[], len: 0 };
//! let mut leg = Leg::accept(&config, &syn, Seq(5000), Instant(0));
//! leg.set_window(65536);
//! assert_eq!(leg.poll(Instant(0), 65000), None); // silent until the host connected
//! leg.host_connected(Instant(10));
//! let Some(Transmit::Control(syn_ack)) = leg.poll(Instant(10), 65000) else { unreachable!() };
//! assert_eq!((syn_ack.flags, syn_ack.ack), (Flags::SYN | Flags::ACK, Seq(1001)));
//! let ack = Segment { seq: Seq(1001), ack: Seq(5001), flags: Flags::ACK, ..syn };
//! assert_eq!(leg.handle_segment(Instant(20), &ack).event, Some(Event::Established));
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod acknowledgment;
mod action;
mod challenge;
mod config;
mod handshake;
mod input;
mod leg;
mod options;
mod output;
mod plan;
mod restore;
mod rto;
mod sack;
mod segment;
mod seq;
mod state;
mod time;
mod timer;
mod timestamps;
mod window;

pub use action::{DataPlan, Effect, Event, Note, Transmit};
pub use config::{AckPolicy, Config, Keepalive};
pub use leg::{DEFAULT_MSS, DEFAULT_MSS_IPV6, Leg, MIN_MSS};
pub use options::{MAX_WINDOW_SCALE, OptionBytes, Options, Timestamps};
pub use restore::{Agreed, Restored};
pub use rto::{INITIAL_RTO, MAX_RTO, MIN_RTO};
pub use sack::SackBlocks;
pub use segment::{Flags, Header, Segment, reset_for};
pub use seq::Seq;
pub use state::State;
pub use time::Instant;
pub use timer::{DATA_RETRIES, FIN_WAIT_2, MSL, SYN_RETRIES};
