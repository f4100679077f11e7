//! `vonic completions`: what has a shell complete the command.
use std::io::{self, Write};

use clap_complete::Shell;

/// Prints it; the shell reads that as its own script.
pub(super) fn print(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::definition(), "vonic", &mut script);
    out.write_all(&script)
}
