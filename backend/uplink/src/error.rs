//! Why a network's bridge or interface cannot be reached.
use std::fmt;
use std::io;

/// Why a network's bridge or interface cannot be reached. That network is degraded; the rest goes on, and it is tried again.
#[derive(Debug)]
pub enum UplinkError {
    /// The host lets nobody make a tap.
    NoDevice(io::Error),
    /// This process may make no tap.
    NotPermitted,
    /// There is no such bridge.
    NoBridge(String),
    /// There is, but it is something else: its name, and its kind.
    NotABridge(String, String),
    /// This process may open no packet socket.
    NoPacketSockets,
    /// There is no such interface.
    NoInterface(String),
    /// There is, but no guest can be there: its name, and why.
    Unsuited(String, String),
    /// There is, but it is down: its name.
    Down(String),
    /// A call failed: what it was for, and why.
    Failed(&'static str, io::Error),
}

impl fmt::Display for UplinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UplinkError::NoDevice(error) => {
                write!(
                    f,
                    "/dev/net/tun cannot be opened ({error}): load the module tun, and let vonicd open the device"
                )
            }
            UplinkError::NotPermitted => f.write_str("vonicd may make no tap: give it CAP_NET_ADMIN"),
            UplinkError::NoBridge(name) => {
                write!(
                    f,
                    "there is no bridge '{name}': make it (ip link add {name} type bridge; ip link set {name} up)"
                )
            }
            UplinkError::NotABridge(name, kind) => {
                let kind = if kind.is_empty() { "hardware" } else { kind };
                write!(f, "'{name}' is no bridge ({kind}): name a bridge, or make one and let {name} be a port of it")
            }
            UplinkError::NoPacketSockets => f.write_str("vonicd may open no packet socket: give it CAP_NET_RAW"),
            UplinkError::NoInterface(name) => {
                write!(f, "there is no interface '{name}': make it, or name another one (ip link shows what there is)")
            }
            UplinkError::Unsuited(name, why) => write!(f, "'{name}' {why}"),
            UplinkError::Down(name) => write!(f, "'{name}' is down: put it up (ip link set {name} up)"),
            UplinkError::Failed(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for UplinkError {}

/// What becomes of a failed call on the way to a tap, or to its bridge.
pub fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UplinkError {
    move |error| match error.raw_os_error() {
        Some(libc::EPERM) => UplinkError::NotPermitted,
        _ => UplinkError::Failed(what, error),
    }
}
