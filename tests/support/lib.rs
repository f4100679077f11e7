//! The test bed: real guests and peers in a lab root, the service under test, a mock frontend, network namespaces.
//!
//! A test reads: isolate the thread's network, open the lab, make a directory, start vonicd, boot guests, run commands in them. Whatever
//! it starts ends with it, also if it is killed; whatever it waits for has a deadline; logs and consoles are shown if it fails.

mod bed;
pub mod burst;
pub mod capture;
pub mod churn;
mod console;
pub mod corpus;
pub mod crash;
pub mod crowd;
pub mod datagram;
mod directory;
mod dns;
pub mod fleet;
pub mod flood;
mod follower;
pub mod fragments;
pub mod frames;
mod guest;
pub mod http;
mod initramfs;
mod lab;
pub mod lan;
pub mod layer;
pub mod lies;
pub mod line;
mod manager;
mod member;
pub mod mock;
mod netns;
mod netperf;
mod process;
mod programs;
mod qmp;
pub mod relay;
mod server;
mod skip;
pub mod stalls;
mod successor;
mod sys;
pub mod testpmd;
pub mod trace;
pub mod usage;
mod verify;
mod vonicd;
mod wait;
pub mod wire;
pub mod witness;

pub use anyhow::{Context, Error, Result, ensure};
pub use bed::Bed;
pub use console::Output;
pub use directory::TempDir;
pub use dns::DnsServer;
pub use follower::{Follower, Told};
pub use guest::{Guest, GuestConfig, Ip4, Job, QemuConfig, Vmm};
pub use lab::{Lab, agent_program, peer_program};
pub use manager::ServiceManager;
pub use member::Member;
pub use netns::{Netns, ip, isolate};
pub use netperf::netperf;
pub use process::Process;
pub use qmp::Qmp;
pub use server::{PeerServer, peer};
pub use skip::skipped;
pub use sys::{CountingAllocator, connect_as, hang, make_blocking, wait_readable};
pub use verify::verify;
pub use vonicd::{TestConfig, Vonicd};
pub use wait::{wait_for, wait_until};

use std::time::Duration;

/// Shorthand for deadlines.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
