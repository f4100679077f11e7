//! Signalling a driver by the descriptor that its VMM gave for it. The open file behind it is the VMM's as much as ours: it may clear O_NONBLOCK at
//! any time, and an eventfd whose counter is full, or a full pipe, then holds whoever writes until somebody reads. There is no way of writing
//! an eventfd that cannot be held (RWF_NOWAIT is refused), and no look at its flags that is not too old when the write begins.
//!
//! So whoever writes is watched: a timer interrupts this thread every few milliseconds as long as calls are made, and a write that was waiting
//! ends by that. It stops by itself when no call was made between two ticks.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};

/// How long a call may be held, in nanoseconds.
const PATIENCE: libc::c_long = 5_000_000;

/// What this thread and its own signal handler know of each other.
struct Watch {
    /// Calls begun, and how many there were at the last tick.
    begun: AtomicU64,
    seen: AtomicU64,
    /// A call is being made: the timer must not stop.
    calling: AtomicBool,
    ticking: AtomicBool,
}

thread_local! {
    static WATCH: Watch = const {
        Watch {
            begun: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            calling: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
        }
    };
    /// The timer's number, once there is one. It has nothing to drop, so that the handler may look at any time.
    static TIMER: Cell<Option<Timer>> = const { Cell::new(None) };
    /// Deletes it when the thread ends.
    static OWNER: Owner = const { Owner };
}

/// A number that the kernel gave.
#[derive(Clone, Copy)]
struct Timer(libc::timer_t);

struct Owner;

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(Timer(timer)) = TIMER.take() {
            // SAFETY: the timer is this thread's own, and nobody uses it after this.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

/// Signals the driver. A descriptor that is full has been signalled already, and one that is broken is nobody's loss but its VMM's.
///
/// # Errors
/// The descriptor held this thread until the watch ended that: its VMM has made it block.
pub fn call(file: &File) -> Result<(), Held> {
    WATCH.with(|watch| {
        watch.calling.store(true, Ordering::Relaxed);
        watch.begun.store(watch.begun.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // The handler runs on this thread: only the compiler could let it see another order.
        compiler_fence(Ordering::SeqCst);
        if !watch.ticking.load(Ordering::Relaxed) {
            start(watch);
        }
        let mut file = file;
        let result = file.write(&1u64.to_ne_bytes());
        compiler_fence(Ordering::SeqCst);
        watch.calling.store(false, Ordering::Relaxed);
        match result {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(Held),
            _ => Ok(()),
        }
    })
}

/// A call descriptor blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held;

/// Takes what waits in a socket, which must not hold this thread whatever its flags say.
pub fn drain(socket: &File) {
    let mut bytes = [0u8; 512];
    // SAFETY: pointer and length describe `bytes`. An error means that there is nothing.
    unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) };
}

fn start(watch: &Watch) {
    if TIMER.get().is_none() {
        // A thread without a timer calls unwatched, as where there are none.
        TIMER.set(create().ok());
        OWNER.with(|_| ());
    }
    if let Some(timer) = TIMER.get() {
        watch.ticking.store(true, Ordering::Relaxed);
        set(timer, PATIENCE);
    }
}

/// A timer whose signal goes to the calling thread.
fn create() -> io::Result<Timer> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: all-zero bytes are a valid sigaction. Without SA_RESTART a write that waits ends by the signal.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_tick as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler calls async-signal-safe functions only.
        unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
    });
    // SAFETY: all-zero bytes are a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = libc::SIGALRM;
    // SAFETY: takes nothing and cannot fail.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = ptr::null_mut();
    // SAFETY: event and the place for the number are valid for the call.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    if result == 0 { Ok(Timer(timer)) } else { Err(io::Error::last_os_error()) }
}

/// Has it tick every so many nanoseconds; 0: no more.
fn set(Timer(timer): Timer, tick: libc::c_long) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: tick };
    let times = libc::itimerspec { it_interval: time, it_value: time };
    // SAFETY: the timer is there as long as its thread, and the times are valid for the call.
    unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
}

extern "C" fn on_tick(_signal: libc::c_int) {
    // SAFETY: the place of errno is this thread's. What was interrupted finds it as it was.
    let errno = unsafe { *libc::__errno_location() };
    let _ = WATCH.try_with(|watch| {
        let begun = watch.begun.load(Ordering::Relaxed);
        if watch.seen.swap(begun, Ordering::Relaxed) == begun && !watch.calling.load(Ordering::Relaxed) {
            watch.ticking.store(false, Ordering::Relaxed);
            if let Some(timer) = TIMER.get() {
                set(timer, 0);
            }
        }
    });
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    fn eventfd(flags: libc::c_int) -> File {
        // SAFETY: takes two integers and returns a new descriptor.
        let fd = unsafe { libc::eventfd(0, flags) };
        assert!(fd >= 0);
        // SAFETY: it was just opened and belongs to nobody else.
        unsafe { OwnedFd::from_raw_fd(fd) }.into()
    }

    #[test]
    fn a_call_is_made() {
        let event = eventfd(0);
        for _ in 0..3 {
            assert_eq!(call(&event), Ok(()));
        }
        let mut count = [0; 8];
        io::Read::read_exact(&mut &event, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 3);
    }

    #[test]
    fn a_descriptor_that_blocks_holds_nobody_for_long() {
        let event = eventfd(0);
        (&event).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        for _ in 0..5 {
            let began = Instant::now();
            assert_eq!(call(&event), Err(Held));
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
            // Also when the timer has stopped in between.
            std::thread::sleep(Duration::from_millis(30));
            assert!(!WATCH.with(|watch| watch.ticking.load(Ordering::Relaxed)));
        }
    }

    #[test]
    fn one_that_is_full_and_does_not_block_has_been_signalled() {
        let event = eventfd(libc::EFD_NONBLOCK);
        (&event).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(call(&event), Ok(()));
    }

    #[test]
    fn a_socket_that_blocks_holds_nobody_that_drains_it() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let ours = File::from(OwnedFd::from(ours));
        drain(&ours);
        theirs.write_all(b"kick").unwrap();
        drain(&ours);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(io::Read::read(&mut &ours, &mut [0; 8]).unwrap(), 0, "nothing is left");
    }
}
