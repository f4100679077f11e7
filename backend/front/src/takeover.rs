//! Taking over from an older vonicd: the other end of [`crate::upgrade`].
use crate::channel::EngineLink;
use crate::engine::{Maker, Start};
use crate::handover::{self, MasterState, Numbers, Offer};
use crate::master::Master;
use crate::run::{self, MasterConfig, MasterError, system};
use crate::service::ServiceManager;
use crate::sys::{self, Signals};
use crate::upgrade::{Channel, FromSuccessor, PREPARE_LIMIT, SWITCH_LIMIT, ToSuccessor};
use event_manager::EventManager;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use vonic_record::Checkpoint;

/// Runs as [`crate::run`], but with everything that an older vonicd hands over by standard input. `inspect` is given the bytes that the
/// older one's engine has left as [`crate::Upgrade::essential`], and gives what this master needs, or a reason not to take over. Until the
/// engine serves, the older master goes on if anything fails here.
///
/// # Errors
/// As [`crate::run`], and [`MasterError::TakeOver`].
pub fn take_over(
    inspect: impl FnOnce(&[u8]) -> Result<MasterConfig, String>,
    engine: impl Fn(EngineLink, Start) -> i32,
) -> Result<i32, MasterError> {
    run::alone()?;
    let channel = Channel::new(sys::take_stdin().map_err(system("standard input cannot be taken"))?);
    let asked = prepare(&channel, inspect);
    let (config, checkpoint) = match asked {
        Ok(asked) => asked,
        Err(why) => {
            // Without an older vonicd there is nobody to be told.
            let _ = channel.send(&FromSuccessor::Refused(why.clone()), &[]);
            return Err(MasterError::TakeOver(why));
        }
    };
    let told = channel.send(&FromSuccessor::Ready(env!("CARGO_PKG_VERSION").into()), &[]);
    told.map_err(system("the older vonicd cannot be told"))?;
    sys::take_turns_of(Some(run::SHORT_TURN));
    sys::map_large_blocks();
    sys::raise_descriptor_limit().map_err(system("the limit of descriptors cannot be raised"))?;
    let limit = Instant::now() + PREPARE_LIMIT + SWITCH_LIMIT;
    let (state, channel) = receive_state(channel, limit).map_err(|why| MasterError::TakeOver(why.to_string()))?;
    // Behind the last descriptor that has its number from before: its socket is this master's own.
    let runner = run::confine(&config, true)?;
    let (signals, _) = Signals::new().map_err(system("signals cannot be received"))?;
    let manager = EventManager::new().map_err(MasterError::Events)?;
    let service = ServiceManager::find(true);
    let mut own = sys::open_descriptors().map_err(system("its own descriptors cannot be listed"))?;
    own.retain(|fd| !state.descriptors.contains(fd) && *fd != channel.as_raw_fd());
    let numbers = receive_descriptors(&channel, &state, limit).map_err(|e| MasterError::TakeOver(e.to_string()))?;
    let maker = Maker::resume(Box::new(engine), config.engine_pid_file.as_deref(), runner, (checkpoint, own));
    let master = Master::resume((signals, service), maker, &config, channel, state, numbers)?;
    run::serve(manager, master)
}

/// Reads what the older one offers; decides whether this version can go on with it.
fn prepare(
    channel: &Channel,
    inspect: impl FnOnce(&[u8]) -> Result<MasterConfig, String>,
) -> Result<(MasterConfig, Arc<Checkpoint>), String> {
    let (text, fds) = channel
        .recv_bytes(Instant::now() + PREPARE_LIMIT)
        .map_err(|e| format!("nothing to take over: {e}; --take-over is for vonicd itself, use 'vonic upgrade'"))?;
    let Offer { vonic } = handover::open(&text).map_err(|e| e.to_string())?;
    log::info!("asked to take over from vonicd {vonic}");
    let fds: [OwnedFd; 2] = fds.try_into().map_err(|_| String::from("this hand-over lacks its descriptors"))?;
    let [checkpoint, essential] = fds;
    let checkpoint = Checkpoint::open(checkpoint).map_err(|e| e.to_string())?;
    let left = fs::read(format!("/proc/self/fd/{}", essential.as_raw_fd()));
    let left = left.map_err(|e| format!("what the engine left cannot be read: {e}"))?;
    Ok((inspect(&left)?, Arc::new(checkpoint)))
}

/// Reads the state, and keeps the numbers of its descriptors free for them.
fn receive_state(channel: Channel, limit: Instant) -> io::Result<(MasterState, Channel)> {
    let invalid = |why: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
    let (ToSuccessor::State, fds) = channel.recv(limit)? else { return Err(invalid(&"out of order")) };
    let [file] = fds.as_slice() else { return Err(invalid(&"the state is missing")) };
    let text = fs::read(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    drop(fds);
    let state: MasterState = handover::open(&text).map_err(|e| invalid(&e))?;
    let numbers = &state.descriptors;
    let channel = channel.move_off(numbers)?;
    if let Some(taken) = sys::open_descriptors()?.intersection(numbers).next() {
        let what = fs::read_link(format!("/proc/self/fd/{taken}")).unwrap_or_default();
        return Err(invalid(&format_args!("descriptor {taken} is in use in the new process ({})", what.display())));
    }
    sys::reserve(numbers, io::stdin().as_fd())?;
    Ok((state, channel))
}

/// Puts each descriptor where the older one has it.
fn receive_descriptors(channel: &Channel, state: &MasterState, limit: Instant) -> io::Result<Numbers> {
    let mut come = BTreeSet::new();
    while come.len() < state.descriptors.len() {
        let (ToSuccessor::Descriptors(numbers), fds) = channel.recv(limit)? else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor is missing"));
        };
        let known = numbers.iter().all(|number| state.descriptors.contains(number));
        if numbers.len() != fds.len() || !known {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors do not fit their numbers"));
        }
        for (number, fd) in numbers.into_iter().zip(fds) {
            sys::place(fd, number)?;
            come.insert(number);
        }
    }
    Ok(Numbers::new(come))
}

#[cfg(test)]
mod tests;
