//! Configuration, registry, API: the engine's control side.
//!
//! * [`config`]: the operator's files, read into checked types; every mistake is reported at once.
//! * [`api`]: HTTP/1 with JSON over a Unix socket, on a thread of its own that knows nothing of the engine.
//! * [`guest`]: what guests can ask of vonic itself, over the service address.
//! * [`capture`]: VMs' frames as pcapng.
//! * [`client`]: the command `vonic`, which speaks to that API.
//! * [`metrics`]: the API's counters for Prometheus.
//! * [`launch`]: what a VMM is started with to have a VM's NIC from vonic.

#![forbid(unsafe_code)]

pub mod api;
pub mod capture;
pub mod client;
pub mod config;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod guest;
pub mod launch;
pub mod metrics;
