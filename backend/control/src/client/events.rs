//! `vonic events`: what happens, as it happens, over engines.
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;

use super::command::{Failure, checked};
use super::connection::{self, Ended};
use super::{Arguments, reload};
use crate::api::types::{Event, Happening, Move};

/// How long the next engine is waited for: longer than the master makes one wait after deaths.
const NEXT_ENGINE: Duration = Duration::from_secs(10);
/// How long between two looks for it.
const LOOK: Duration = Duration::from_millis(50);

/// Which ones.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// About this VM, beside those about none
    #[arg(long, value_name = "NAME")]
    vm: Option<String>,
    /// Go on behind this one: the id of an event, as --json prints it
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many
    #[arg(long)]
    count: Option<u64>,
}

/// Prints them until vonicd ends, or there were enough. Whoever reads sees nothing of an engine's end but what is told of it.
pub(super) fn follow(arguments: &Arguments, wanted: &Wanted, out: &mut dyn Write) -> Result<(), Failure> {
    let vm = wanted.vm.as_deref().map(checked).transpose()?;
    let mut printer = Printer {
        out,
        json: arguments.json,
        left: wanted.count,
        last: wanted.after.clone(),
        heard: None,
        rest: Vec::new(),
    };
    loop {
        let pairs = [("vm", vm.map(str::to_string)), ("after", printer.last.as_deref().map(super::escaped))];
        let pairs: Vec<String> =
            pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?))).collect();
        let target = format!("/v1/events?{}", pairs.join("&"));
        let asked = (Method::GET, target.as_str());
        // What an engine has not said to its end when it died, another one says.
        printer.rest.clear();
        match connection::follow(&arguments.socket, asked, Vec::new(), &mut |part| printer.take(part)) {
            Ok(Ended::Stopped) | Err(Failure::Enough) => return Ok(()),
            // Whoever comes next is waited for from here on.
            Ok(Ended::Whole | Ended::Broken) => printer.heard = printer.heard.map(|_| Instant::now()),
            // There is nobody, or nobody any more, or what there is does not answer.
            Err(Failure::Api(error)) if error.status == 503 && printer.waits() => {}
            Err(failure) => return Err(failure),
        }
        thread::sleep(LOOK);
    }
}

struct Printer<'a> {
    out: &'a mut dyn Write,
    json: bool,
    /// How many more.
    left: Option<u64>,
    /// The id of the last.
    last: Option<String>,
    /// When there was somebody.
    heard: Option<Instant>,
    /// Of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Printer<'_> {
    /// Whether another engine may still come.
    fn waits(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < NEXT_ENGINE)
    }

    /// Takes a part of the answer, and prints the lines that are whole with it.
    fn take(&mut self, part: &[u8]) -> Result<(), Failure> {
        self.rest.extend_from_slice(part);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end])?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Failure> {
        let event: Event = super::command::decode(line)?;
        let again = self.heard.replace(Instant::now()).is_some();
        self.last = Some(event.id.clone());
        let begins = matches!(event.what, Happening::Begun { .. });
        if self.json && !(begins && again) {
            self.out.write_all(line)?;
            writeln!(self.out)?;
        } else if !begins {
            self.print(&event)?;
        }
        self.out.flush()?;
        // It is said by each engine; what is missing between two is told by itself.
        match &mut self.left {
            Some(left) if !begins => *left = left.saturating_sub(1),
            _ => {}
        }
        if self.left == Some(0) { Err(Failure::Enough) } else { Ok(()) }
    }

    fn print(&mut self, event: &Event) -> io::Result<()> {
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text(&event.what).chars().map(clean).collect();
        writeln!(self.out, "{}  {text}", time(event.at_ms))
    }
}

/// What has happened, in words.
fn text(what: &Happening) -> String {
    match what {
        Happening::Begun { pid, version, .. } => format!("vonic {version}, engine {pid}"),
        Happening::Lost { count } => format!("{count} events were not read in time"),
        Happening::VmConnected { vm } => format!("{vm}: VMM connected"),
        Happening::VmDisconnected { vm } => format!("{vm}: VMM disconnected"),
        Happening::VmQuarantined { vm } => format!("{vm}: in quarantine"),
        Happening::VmReleased { vm, reason } => format!("{vm}: no longer in quarantine: {reason}"),
        Happening::VmAdded { vm } => format!("{vm}: added"),
        Happening::VmChanged { vm } => format!("{vm}: changed"),
        Happening::VmRemoved { vm } => format!("{vm}: removed"),
        Happening::EngineDied { reason } => format!("the engine {reason}"),
        Happening::EngineReplaced {} => "the engine was replaced, as was asked for".to_string(),
        Happening::EngineTookOver { pid, microseconds } => {
            format!("engine {pid} has taken over in {}.{:03} ms", microseconds / 1000, microseconds % 1000)
        }
        Happening::Upgraded { version, process } => format!("vonicd {version} serves as process {process}"),
        Happening::UpgradeFailed { error } => format!("the upgrade failed: {error}"),
        Happening::MigrationBegun { vm, direction: Move::Leaves } => format!("{vm}: its guest is about to leave"),
        Happening::MigrationBegun { vm, direction: Move::Comes } => format!("{vm}: a guest is about to come"),
        Happening::MigrationDone { vm, direction: Move::Leaves, connections } => {
            format!("{vm}: its guest has left with {connections} connections")
        }
        Happening::MigrationDone { vm, direction: Move::Comes, connections } => {
            format!("{vm}: its guest is here with {connections} connections")
        }
        Happening::MigrationFailed { vm, direction: Move::Leaves, reason } => {
            format!("{vm}: its guest has not left: {reason}")
        }
        Happening::MigrationFailed { vm, direction: Move::Comes, reason } => {
            format!("{vm}: no guest has come: {reason}")
        }
        Happening::ConfigurationReloaded { added, changed, removed, unchanged } => {
            format!("configuration: {added} added, {changed} changed, {removed} removed, {unchanged} unchanged")
        }
        Happening::ConfigurationRefused { errors } => {
            format!("configuration refused: {}", reload::file_errors(errors).join("; "))
        }
    }
}

/// A moment of the universal time as RFC 3339 writes it, from milliseconds since 1970.
fn time(at_ms: u64) -> String {
    let (days, of_day) = (at_ms / 86_400_000, at_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hours, minutes, seconds) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", of_day % 1000)
}

/// The Gregorian date so many days after the first of January 1970. Years are taken to begin in March, so that a leap day is the
/// last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    // From the first of March of the year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_everywhere() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_798_761_599_001, "2026-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(at), text);
        }
    }
}
