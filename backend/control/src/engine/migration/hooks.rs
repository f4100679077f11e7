//! Commands of the operator's that move a guest's addresses from host to host.
use crate::config::{Hooks, Vm};
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a command that runs.
const LOOK: Duration = Duration::from_millis(2);
/// Of a command's output, so much is logged at most.
const OUTPUT_MAX: u64 = 4096;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A guest leaves this host.
    Departure,
    /// A guest is about to run here.
    Arrival,
    /// A guest that was about to leave runs here again.
    Return,
}

impl Moment {
    fn name(self) -> &'static str {
        match self {
            Moment::Departure => "depart",
            Moment::Arrival => "arrive",
            Moment::Return => "return",
        }
    }
}

/// Runs the hook for this moment and waits for its end, at most as long as the configuration says, or until `cancelled`. What it
/// says, and how it fails, is in the log; nothing depends on it.
pub(super) fn run(hooks: &Hooks, moment: Moment, vm: &Vm, cancelled: &Arc<AtomicBool>) {
    let command = if moment == Moment::Departure { &hooks.depart } else { &hooks.arrive };
    let Some((program, arguments)) = command.split_first() else { return };
    let address = |address: Option<String>| address.unwrap_or_default();
    let mut child = Command::new(program);
    child.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    child.env("VONIC_EVENT", moment.name()).env("VONIC_VM", &vm.name).env("VONIC_MAC", vm.mac.to_string());
    child.env("VONIC_ADDRESS4", address(vm.address4.map(|a| a.to_string())));
    child.env("VONIC_ADDRESS6", address(vm.address6.map(|a| a.to_string())));
    vonic_front::close_on_exec(&mut child);
    let (name, event) = (&vm.name, moment.name());
    let begun = Instant::now();
    match child.spawn() {
        Ok(mut child) => {
            let ended = wait(&mut child, begun + hooks.limit, cancelled);
            let took = begun.elapsed();
            let output = output(&mut child);
            match ended {
                Some(status) if status.success() => log::info!("{name}: hook {event} took {took:.1?}{output}"),
                Some(status) => log::error!("{name}: hook {event}: {program} ended with {status}{output}"),
                None => log::error!("{name}: hook {event}: {program} was killed after {took:.1?}{output}"),
            }
        }
        Err(error) => log::error!("{name}: hook {event}: {program} cannot be started: {error}"),
    }
}

fn wait(child: &mut Child, until: Instant, cancelled: &AtomicBool) -> Option<ExitStatus> {
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= until || cancelled.load(Ordering::Relaxed) {
            // It may have ended just now: fine.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
}

/// What it has written, as far as it is there: somebody that it has left behind may hold the pipes.
fn output(child: &mut Child) -> String {
    let mut text = String::new();
    for pipe in [child.stdout.take().map(std::os::fd::OwnedFd::from), child.stderr.take().map(Into::into)] {
        let Some(pipe) = pipe else { continue };
        let file = std::fs::File::from(pipe);
        if rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK).is_ok() {
            let mut bytes = Vec::new();
            // Ends with an error where nothing more is there yet.
            let _ = file.take(OUTPUT_MAX).read_to_end(&mut bytes);
            text.push_str(String::from_utf8_lossy(&bytes).trim());
        }
    }
    if text.is_empty() { text } else { format!(": {}", text.escape_debug()) }
}
