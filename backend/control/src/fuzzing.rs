//! For the fuzz targets (`tests/fuzz`), and nothing else: what is not to be reached from outside otherwise.
use std::net::SocketAddr;

/// The resolvers that a resolv.conf(5) of this text names, and what cannot be used in it. There is one interface: `eth0`.
pub fn resolvers(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    crate::engine::resolvers::parse(text, |name| (name == "eth0").then_some(2))
}
