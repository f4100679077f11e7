//! `vonic-agent`: tells vonic on the host what this guest counts, and asks it what it knows of this guest. One thread, no state but the
//! connection.
#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program; its log is standard error")]

mod arguments;
mod ask;
mod link;
mod pause;
mod read;
mod report;
mod sys;

use arguments::Task;
use std::process::ExitCode;

fn main() -> ExitCode {
    match arguments::read(std::env::args().skip(1)) {
        Ok(Task::Help(help)) => print!("{help}"),
        Ok(Task::Ask(question)) => {
            if let Err(failure) = ask::run(&question) {
                eprintln!("vonic-agent: {failure}");
                return ExitCode::FAILURE;
            }
        }
        Ok(Task::Version) => println!("vonic-agent {}", env!("CARGO_PKG_VERSION")),
        Ok(Task::Send(settings)) if settings.once => {
            if let Err(failure) = report::send_once(&settings) {
                eprintln!("vonic-agent: {failure}");
                return ExitCode::FAILURE;
            }
        }
        Ok(Task::Send(settings)) => {
            sys::end_when_asked();
            report::send_for_ever(&settings);
        }
        Err(message) => {
            eprintln!("vonic-agent: {message}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
