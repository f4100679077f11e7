//! Tells the programs of which commit they are: git says it, else whoever builds from an archive, by VONIC_COMMIT.
#![allow(clippy::print_stdout, reason = "cargo is told so")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VONIC_COMMIT");
    // Whatever moves HEAD is noted there; nothing else has the programs built again.
    for part in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", part]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // An unpacked archive may lie in somebody else's repository.
    let tracked = git(&["ls-files", "--error-unmatch", "build.rs"]);
    let commit = tracked.and_then(|_| git(&["rev-parse", "--short=10", "HEAD"]));
    let commit = commit.or_else(|| std::env::var("VONIC_COMMIT").ok()).filter(|commit| !commit.is_empty());
    println!("cargo::rustc-env=VONIC_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
}

/// What git prints, if it is there and has something to say.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_string())
}
