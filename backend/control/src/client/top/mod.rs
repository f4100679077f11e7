//! `vonic top`: what the VMs do, as it happens.
mod app;
mod details;
mod list;
mod model;
mod once;
mod page;
mod paint;
mod rate;
mod sample;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{Event, KeyEventKind};

use super::command::Failure;
use app::{App, Step};
use sample::Seen;
use terminal::Screen;

/// How long a sample, or a signal, may wait until it is seen to.
const TICK: Duration = Duration::from_millis(100);
/// The picture is drawn so often although nothing happens: it says for how long nothing has.
const REDRAW: Duration = Duration::from_secs(1);

/// What is asked for.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Seconds between two looks, from 0.1 on
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// Print the rates over one interval and end; with --json as JSON
    #[arg(long)]
    once: bool,
}

/// Shows them until it is told to end.
pub(super) fn run(arguments: &Arguments, socket: &Path, json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let Arguments { interval, once } = *arguments;
    if once {
        return once::print(socket, interval, json, out);
    }
    if json {
        return Err(Failure::Refused("--json: a screen is not JSON: add --once, or use vonic stats --json".into()));
    }
    if !terminal::is_there() {
        let mend = "use vonic top --once, or for programs vonic stats --json";
        return Err(Failure::Refused(format!("standard output is no terminal: {mend}")));
    }
    let unusable = |e: io::Error| Failure::Refused(format!("the terminal cannot be used ({e}): use vonic top --once"));
    let (pages, samples) = sample::start(socket.to_path_buf(), interval).map_err(unusable)?;
    let screen = Screen::open().map_err(unusable)?;
    show(App::new(interval), screen, &pages, &samples).map_err(unusable)
}

fn show(mut app: App, mut screen: Screen, pages: &Sender<Option<String>>, samples: &Receiver<Seen>) -> io::Result<()> {
    let (mut changed, mut drawn) = (true, Instant::now());
    while !screen.is_ended() {
        for seen in samples.try_iter() {
            app.take(seen);
            changed = true;
        }
        if changed || drawn.elapsed() >= REDRAW {
            screen.draw(|frame| view::draw(frame, &mut app))?;
            (changed, drawn) = (false, Instant::now());
        }
        let mut wait = TICK;
        while let Some(event) = screen.event(wait)? {
            // All that has come before the next drawing.
            (changed, wait) = (true, Duration::ZERO);
            let Event::Key(key) = event else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            match app.press(key) {
                Step::Draw => {}
                Step::Quit => return Ok(()),
                // The thread ends with this function only.
                Step::Look(page) => drop(pages.send(page)),
            }
        }
    }
    Ok(())
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds from 0.1 to 3600, as 1 or 0.5".to_string())
}
