//! The terminal: taken, drawn on, and given back as it was on every way out.
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal::{
    self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// The screen while it is ours.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<File>>,
    /// Columns and lines.
    size: (u16, u16),
    out: File,
    ended: Arc<AtomicBool>,
}

/// Whether there is a screen.
pub(super) fn is_there() -> bool {
    io::stdout().is_terminal()
}

impl Screen {
    /// Takes the terminal of standard output. What is written goes around the standard library's lock, since a panic's hook must not
    /// wait for whoever holds that.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Screen> {
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        give_back_in_panic(out.try_clone()?);
        let size = terminal::size()?;
        let terminal = of_size(size, &out)?;
        // From here on it is given back when it is dropped.
        let mut screen = Screen { terminal, size, out, ended };
        enable_raw_mode()?;
        execute!(screen.out, EnterAlternateScreen, Clear(ClearType::All), cursor::Hide)?;
        Ok(screen)
    }

    /// Draws.
    ///
    /// # Errors
    /// The system's.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let size = terminal::size()?;
        if size != self.size {
            self.terminal = of_size(size, &self.out)?;
            self.size = size;
            execute!(self.out, Clear(ClearType::All))?;
        }
        self.terminal.draw(draw).map(drop)
    }

    /// What the terminal has to say within a time, if anything.
    ///
    /// # Errors
    /// The system's: it is gone.
    pub fn event(&self, limit: Duration) -> io::Result<Option<Event>> {
        if event::poll(limit)? { event::read().map(Some) } else { Ok(None) }
    }

    /// Whether a signal has come that ends the program.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A picture of this size. It is made anew for another one: to have it grow would ask the terminal where its cursor is, and not every
/// terminal answers.
fn of_size((columns, lines): (u16, u16), out: &File) -> io::Result<Terminal<CrosstermBackend<File>>> {
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns, lines));
    Terminal::with_options(CrosstermBackend::new(out.try_clone()?), TerminalOptions { viewport })
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&mut self.out);
    }
}

/// A terminal that is gone has nothing to be given back.
fn give_back(out: &mut File) {
    drop(execute!(out, LeaveAlternateScreen, cursor::Show));
    drop(disable_raw_mode());
}

/// The message of a panic is read on the screen that was there before.
fn give_back_in_panic(out: File) {
    let (before, out) = (panic::take_hook(), Mutex::new(out));
    panic::set_hook(Box::new(move |panic| {
        if let Ok(mut out) = out.try_lock() {
            give_back(&mut out);
        }
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// The hook is the whole process's: it is put back before anything else can panic by it.
    #[test]
    fn a_panic_gives_the_terminal_back_before_its_message() {
        let mut written = tempfile::NamedTempFile::new().unwrap();
        let before = panic::take_hook();
        let end = || File::options().append(true).open(written.path()).unwrap();
        let message = end();
        panic::set_hook(Box::new(move |_| drop((&message).write_all(b"the message"))));
        give_back_in_panic(end());
        assert!(std::thread::spawn(|| panic!("in any thread")).join().is_err());
        panic::set_hook(before);
        let mut text = String::new();
        written.as_file_mut().read_to_string(&mut text).unwrap();
        assert!(text.starts_with("\x1b[?1049l\x1b[?25h") && text.ends_with("the message"), "{text:?}");
    }
}
