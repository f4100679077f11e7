//! What the programs `vonicd` and `vonic` and those that describe them have in common: vonicd's arguments, and the version.
#![forbid(unsafe_code)]

pub mod arguments;

/// What `--version` says of both: the version, and the commit that they were built from, as in `0.1.0 (2b227a36de)`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("VONIC_COMMIT"), ")");
