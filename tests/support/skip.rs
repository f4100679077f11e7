//! Tests that this machine cannot run say so, and are counted.

use std::fs::File;
use std::io::Write;

/// Writes "SKIPPED: REASON" past the test harness's capture, and a line into the file `$VONIC_SKIPPED` that `make test` counts.
pub fn skipped(reason: &str) {
    drop(writeln!(std::io::stderr(), "SKIPPED: {reason}"));
    if let Some(path) = std::env::var_os("VONIC_SKIPPED") {
        drop(File::options().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{reason}")));
    }
}

/// Ends the test here as skipped, with the reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::skipped(&format!($($reason)+));
        return;
    }};
}
