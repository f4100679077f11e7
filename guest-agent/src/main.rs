//! `vonic-agent`: tells vonic on the host what this guest counts, and asks it what it knows of this guest. One thread, no state but the
//! connection.
#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program; its log is standard error")]

mod arguments;
mod ask;
mod counters;
mod link;
mod pause;
mod sys;

use arguments::{Settings, Task};
use link::{Failure, Link};
use pause::Pause;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

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
            if let Err(failure) = send(&settings, &mut None) {
                eprintln!("vonic-agent: {failure}");
                return ExitCode::FAILURE;
            }
        }
        Ok(Task::Send(settings)) => {
            sys::end_when_asked();
            send_for_ever(&settings);
        }
        Err(message) => {
            eprintln!("vonic-agent: {message}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Sends a message each interval. Only changes are logged: the first success, and the first failure after one.
fn send_for_ever(settings: &Settings) -> ! {
    let (mut link, mut pause, mut works) = (None, Pause::default(), None);
    loop {
        let begin = Instant::now();
        let wait = match send(settings, &mut link) {
            Ok(()) => {
                if works != Some(true) {
                    eprintln!("vonic-agent: connected to vonic");
                }
                works = Some(true);
                pause.reset();
                settings.interval.saturating_sub(begin.elapsed())
            }
            Err(failure) => {
                if works != Some(false) {
                    eprintln!("vonic-agent: {failure}; trying again");
                }
                works = Some(false);
                link = None;
                pause.next()
            }
        };
        std::thread::sleep(wait);
    }
}

/// Sends one message over `link`, or over a new connection if there is none or it has ended.
fn send(settings: &Settings, link: &mut Option<Link>) -> Result<(), Failure> {
    if let Some(mut open) = link.take() {
        match open.post(&body()?) {
            Ok(keep) => {
                *link = keep.then_some(open);
                return Ok(());
            }
            // Its other end may have gone for good reasons; a new one tells.
            Err(Failure::Io(_)) => {}
            Err(failure) => return Err(failure),
        }
    }
    let mut last = Failure::Io(io::ErrorKind::AddrNotAvailable.into());
    for to in settings.candidates(&counters::links6()) {
        match Link::open(to) {
            Ok(mut open) => {
                if open.post(&body()?)? {
                    *link = Some(open);
                }
                return Ok(());
            }
            Err(error) => last = Failure::Io(io::Error::new(error.kind(), format!("{to}: {error}"))),
        }
    }
    Err(last)
}

/// This moment's message.
fn body() -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&counters::message())?)
}
