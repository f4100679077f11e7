//! A terminal's settings and keys.
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A signal has asked for the end.
static ENDS: AtomicBool = AtomicBool::new(false);

extern "C" fn note_end(_signal: libc::c_int) {
    ENDS.store(true, Ordering::SeqCst);
}

fn note_ends() {
    let handler = note_end as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler is a function of the right type that does nothing but what signal-safety(7) allows.
        unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    }
}

/// A terminal on which each key counts at once and nothing is echoed, showing a page of its own; dropped, it is as before.
pub struct Terminal {
    input: RawFd,
    before: libc::termios,
}

/// The alternate screen and no cursor, and both back again (xterm's private modes 1049 and 25).
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l";
const GIVE_BACK: &[u8] = b"\x1b[?25h\x1b[?1049l";

impl Terminal {
    /// Takes the terminal; `None`: input or output is none.
    ///
    /// # Errors
    /// The system's.
    pub fn take() -> io::Result<Option<Terminal>> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(None);
        }
        let input = io::stdin().as_raw_fd();
        let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is to room for what the call writes (tcgetattr(3)).
        if unsafe { libc::tcgetattr(input, before.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has filled it.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        // SAFETY: the pointer is to a whole termios.
        if unsafe { libc::tcsetattr(input, libc::TCSANOW, &raw) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let terminal = Terminal { input, before };
        // An end by a signal gives the terminal back, too.
        note_ends();
        io::stdout().write_all(TAKE)?;
        Ok(Some(terminal))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // The terminal may be gone.
        let _ = out.write_all(GIVE_BACK).and_then(|()| out.flush());
        // SAFETY: the pointer is to a whole termios.
        let _ = unsafe { libc::tcsetattr(self.input, libc::TCSANOW, &self.before) };
    }
}

/// What is pressed, or comes by a pipe.
pub struct Keys {
    open: bool,
}

impl Keys {
    /// Looks at standard input.
    pub fn new() -> Keys {
        Keys { open: true }
    }

    /// Waits so long for q or ^C, or for a signal that asks for the end; true: it came.
    pub fn wait_for_end(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if ENDS.load(Ordering::SeqCst) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if !self.open {
                std::thread::sleep(left.min(Duration::from_millis(200)));
            } else if readable(io::stdin().as_raw_fd(), left) && self.pressed() {
                return true;
            }
        }
    }

    /// Reads what is there; true: it is an end.
    fn pressed(&mut self) -> bool {
        let mut keys = [0; 64];
        match io::stdin().lock().read(&mut keys) {
            Ok(0) => self.open = false,
            Ok(n) => return keys[..n].iter().any(|key| matches!(key, b'q' | b'Q' | 0x03)),
            Err(error) => self.open = error.kind() == io::ErrorKind::Interrupted,
        }
        false
    }
}

/// Waits until there is something to read; a signal ends the wait early.
fn readable(fd: RawFd, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(time.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the pointer is to one pollfd.
    unsafe { libc::poll(&mut poll, 1, millis) > 0 }
}
