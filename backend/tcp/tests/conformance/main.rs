//! Twenty-five cases of how a TCP must look from the guest's side, each under every overlay: IPv4 and IPv6, segment-sized and
//! 64 KiB frames, without options and with timestamps and SACK, on a clean ring and after loss, reordering and duplication in
//! it. A case is a test named by its mechanism, with its number in front of it; what is particular to one mechanism alone
//! is tested in `mechanisms`.
//!
//! Case 11 (checksums) is decided before a segment reaches its leg: see the frame and datapath crates.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod bench;
mod closing;
mod opening;
mod receiving;
mod ring;
mod sending;
mod strangers;

use bench::{Bench, Overlay};
use vonic_tcp::{DEFAULT_MSS, DEFAULT_MSS_IPV6};

/// Every overlay: each pair of choices in four dimensions.
fn overlays() -> Vec<Overlay> {
    let mut overlays = vec![];
    for (family, mss, default_mss) in [("IPv4", 1460, DEFAULT_MSS), ("IPv6", 1440, DEFAULT_MSS_IPV6)] {
        for frame in [u32::from(mss), 64_000] {
            for options in [false, true] {
                for lossy in [false, true] {
                    overlays.push(Overlay { family, mss, default_mss, frame, options, lossy });
                }
            }
        }
    }
    overlays
}

/// Runs a case on an established connection under every overlay, and afterwards, if the connection still stands, moves bytes
/// both ways: no case may leave anything bent.
fn each(case: impl Fn(&mut Bench)) {
    for overlay in overlays() {
        let mut bench = Bench::established(overlay);
        if overlay.lossy {
            bench.exercise(300_000);
        }
        bench.begin();
        case(&mut bench);
        bench.finish();
    }
}
