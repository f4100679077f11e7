//! What this guest asks vonic: what it is, and what its NIC sees.
mod arguments;
mod connections;
mod http;
mod service;
mod stats;
mod status;
mod table;
mod top;

pub use arguments::Question;

use crate::link::Failure;
use arguments::Command;
use serde::Serialize;
use std::io::{self, Write};

/// Asks, and prints the answer.
///
/// # Errors
/// Why there is none.
pub fn run(question: &Question) -> Result<(), Failure> {
    match question.command {
        Command::Status => status::run(question),
        Command::Stats => stats::run(question),
        Command::Connections if question.follow => connections::follow(question),
        Command::Connections => connections::run(question),
        Command::Top => top::run(question),
    }
}

/// Prints at once, also into a pipe: whoever reads may wait for it.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read this has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        said => said,
    }
}

/// Prints a line of JSON.
fn say_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).map_err(io::Error::from)?;
    line.push('\n');
    Ok(say(&line)?)
}
