//! What describes the programs, made of what they are.
//!
//! * [`man`]: man pages of every command, and vonic.toml(5) of the manual's page of the configuration.
//! * [`completions`]: what shells complete the commands by.
//! * [`commands`], [`api`], [`metrics`], [`reasons`], [`decisions`]: pages of the manual; tests hold those in `backend/docs` against them.
//! * [`bill`]: what the programs are made of, for whoever has to know.
//! * [`outside`]: what the manual leads to that is no page of it.
#![forbid(unsafe_code)]

pub mod api;
pub mod bill;
pub mod commands;
pub mod completions;
pub mod decisions;
pub mod man;
pub mod metrics;
pub mod outside;
mod page;
pub mod reasons;

use std::io;
use std::path::{Path, PathBuf};

/// What the pages of `backend/docs` have to be that are made, by their paths there.
///
/// # Errors
/// The file system's.
pub fn reference() -> io::Result<Vec<(&'static str, String)>> {
    let (decisions, contents) = decisions::pages()?;
    Ok(vec![
        ("reference/commands.md", commands::markdown()),
        ("reference/api.md", api::markdown()?),
        ("reference/metrics.md", metrics::markdown()),
        ("troubleshooting.md", reasons::page()?),
        ("adr/README.md", decisions),
        ("SUMMARY.md", contents),
    ])
}

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The programs' definitions with their names' sections in the manual: what is told of them is the same whatever the environment says.
fn programs() -> [(clap::Command, &'static str); 2] {
    use clap::CommandFactory;
    let vonic = vonic_control::client::definition().version(vonic_daemon::VERSION);
    let vonicd = vonic_daemon::arguments::Arguments::command();
    [(vonic, "1"), (vonicd, "8")].map(|(program, section)| {
        let mut program =
            program.disable_help_subcommand(true).term_width(100).mut_args(|argument| argument.hide_env_values(true));
        program.build();
        (program, section)
    })
}
