//! What is fuzzed: a function of bytes for each border that somebody else's bytes cross, with what must hold whatever they are.
//!
//! libFuzzer calls the functions (`libfuzzer/`, `make fuzz`), and so does a plain test (`tests/corpus.rs`), which goes through the
//! corpora and the regression inputs, and then through mutations of them. See backend/docs/fuzzing.md.
#![allow(clippy::panic, reason = "a broken rule is told by a panic")]

mod agent;
mod bytes;
mod checkpoint;
mod config;
mod decode;
mod filter;
mod frames;
mod http;
mod leg;
mod memory;
mod ring;
mod segments;
mod server;
mod stream;
mod sys;
mod template;
mod vhost;
mod worker;

/// The longest input, in bytes; `run.sh` says the same to libFuzzer.
pub const LEN_MAX: usize = 4096;

/// One of them.
pub struct Target {
    /// Its name: of its corpus, its dictionary, and its libFuzzer program.
    pub name: &'static str,
    /// Takes an input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "agent", run: agent::run },
    Target { name: "api", run: http::api },
    Target { name: "checkpoint", run: checkpoint::run },
    Target { name: "config", run: config::run },
    Target { name: "decode", run: decode::run },
    Target { name: "filter", run: filter::run },
    Target { name: "frames", run: frames::run },
    Target { name: "guest", run: http::guest },
    Target { name: "leg", run: leg::run },
    Target { name: "reload", run: config::reload },
    Target { name: "resolvers", run: decode::resolvers },
    Target { name: "ring", run: ring::run },
    Target { name: "segments", run: segments::run },
    Target { name: "stream", run: stream::run },
    Target { name: "vhost", run: vhost::run },
    Target { name: "worker", run: worker::run },
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    // As in every program of Rust's own: libFuzzer's are none.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(sys::ignore_broken_pipes);
    TARGETS.iter().find(|target| target.name == name)
}
