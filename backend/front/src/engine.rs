//! Making engines: the first one, and each that takes over from a dead one.
use crate::channel::{Begin, EngineLink, MasterLink};
use crate::history::Blame;
use crate::run::{MasterError, system};
use crate::runner::Runner;
use crate::sys::{self, Cloned, Ended, Swept};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use vonic_record::{Checkpoint, WORKERS_MAX};

/// Records of a checkpoint at most: 128 MiB, of which only what is used takes memory.
const RECORDS_MAX: usize = 1 << 20;

/// What an engine finds when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// It takes over from an engine that died: VMMs are connected, and records may stand in the checkpoint.
    pub takes_over: bool,
    /// What all engines of this master share.
    pub checkpoint: Arc<Checkpoint>,
    /// What the last engine left for this one by [`crate::ToMaster::Keep`]. The descriptors stay the master's.
    pub kept: BTreeMap<String, RawFd>,
    /// It is the master's own process, and must not be confined.
    pub is_standalone: bool,
    /// Who runs programs for it.
    pub runner: Runner,
    /// The VMs at whose ports engines before this one died, by their [numbers](vonic_record::vm_number).
    pub blamed: BTreeMap<u64, Blame>,
}

impl Start {
    /// What was left by [`EngineLink::keep`]; None if nothing was.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.kept.get(name).map(|fd| fs::read(format!("/proc/self/fd/{fd}"))).transpose()
    }
}

/// What an engine runs; it ends with the code that this gives.
pub(crate) type Body<'a> = Box<dyn Fn(EngineLink, Start) -> i32 + 'a>;

/// A running engine, as its master has it.
pub(crate) struct Engine {
    /// Its process number.
    pub(crate) pid: i32,
    /// Readable when it has ended.
    pub(crate) pidfd: OwnedFd,
    /// The control channel.
    pub(crate) link: MasterLink,
}

/// A process that is to be an engine and waits for the word. It has opened nothing, and what it knows of the master is as old as it
/// is: all that an engine needs to know comes with the word. Dropped, it is killed and reaped.
pub(crate) struct Standby {
    /// None once it is an engine.
    waiting: Option<(Engine, EngineLink)>,
}

impl Standby {
    /// Every descriptor that belongs to it: the master's ends, and its own.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let waiting = self.waiting.iter();
        waiting.flat_map(|(engine, own)| [engine.pidfd.as_raw_fd(), engine.link.as_raw_fd(), own.as_raw_fd()])
    }

    /// Readable when it has ended.
    pub(crate) fn pidfd(&self) -> Option<&OwnedFd> {
        self.waiting.as_ref().map(|(engine, _)| &engine.pidfd)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        sys::reap(self.pidfd()?.as_fd()).ok().flatten()
    }

    /// Gives the word.
    fn begin(mut self, begin: &Begin) -> Option<Engine> {
        let (mut engine, own) = self.waiting.take()?;
        own.leak(); // The table is shared: closed here, it would be closed there.
        engine.link.begin(begin);
        Some(engine)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some((engine, _)) = &self.waiting {
            end(&engine.pidfd);
        }
    }
}

/// Makes engines out of this process.
pub(crate) struct Maker<'a> {
    body: Body<'a>,
    pub(crate) checkpoint: Arc<Checkpoint>,
    runner: Runner,
    pid_file: Option<PidFile>,
    /// Open before the first engine was, and the master's own as long as it lives.
    own: BTreeSet<RawFd>,
}

impl<'a> Maker<'a> {
    /// To be called when the master's own descriptors are open, and nothing else is but `others`, which come and go.
    pub(crate) fn new(
        body: Body<'a>,
        pid_file: Option<&Path>,
        runner: Runner,
        others: impl Iterator<Item = RawFd>,
    ) -> io::Result<Maker<'a>> {
        let checkpoint = checkpoint()?;
        let mut own = sys::open_descriptors()?;
        for fd in others {
            own.remove(&fd);
        }
        Ok(Maker::resume(body, pid_file, runner, (checkpoint, own)))
    }

    /// As another master's, whose checkpoint this is; `own` are this master's descriptors.
    pub(crate) fn resume(
        body: Body<'a>,
        pid_file: Option<&Path>,
        runner: Runner,
        (checkpoint, own): (Arc<Checkpoint>, BTreeSet<RawFd>),
    ) -> Maker<'a> {
        Maker { body, checkpoint, runner, pid_file: pid_file.map(|path| PidFile(path.to_path_buf())), own }
    }

    /// Another master writes the file from here on.
    pub(crate) fn leave_pid_file(&mut self) {
        std::mem::forget(self.pid_file.take());
    }

    /// Whether a descriptor has been the master's own since before the first engine.
    pub(crate) fn owns(&self, fd: RawFd) -> bool {
        self.own.contains(&fd)
    }

    /// Makes a process that waits until it is to be an engine. In that process this does not return.
    pub(crate) fn prepare(&self) -> Result<Standby, MasterError> {
        let (ours, theirs) = sys::seqpacket_pair().map_err(system("no control channel"))?;
        let link = MasterLink::new(ours).map_err(system("no control channel"))?;
        let parent = std::process::id() as i32;
        let theirs = EngineLink::new(theirs);
        let pid = match sys::clone_sharing_files().map_err(system("the engine cannot be created"))? {
            Cloned::Child => sys::exit_now(self.be_engine(parent, theirs)),
            Cloned::Parent(pid) => pid,
        };
        let pidfd = sys::pidfd_open(pid).map_err(system("the engine cannot be watched"))?;
        Ok(Standby { waiting: Some((Engine { pid, pidfd, link }, theirs)) })
    }

    /// An engine, of the process that waits if there is one.
    pub(crate) fn start(&self, standby: Option<Standby>, begin: &Begin) -> Result<Engine, MasterError> {
        let alive = standby.filter(|standby| standby.ended().is_none());
        let engine = alive.map_or_else(|| self.prepare(), Ok)?.begin(begin);
        let engine = engine.ok_or(MasterError::System("the engine is gone", io::ErrorKind::NotFound.into()))?;
        if let Some(Err(e)) = self.pid_file.as_ref().map(|file| file.write(engine.pid)) {
            end(&engine.pidfd);
            return Err(MasterError::System("the engine's pid file cannot be written", e));
        }
        Ok(engine)
    }

    /// The engine's first steps. Nothing of the master's may be dropped in this process.
    fn be_engine(&self, parent: i32, link: EngineLink) -> i32 {
        sys::leave_to_master();
        // A master that is gone must not leave a VMM hanging on an engine.
        if let Err(e) = sys::die_with_parent(parent).and_then(|()| sys::no_core_dump()) {
            log::error!("the engine cannot be bound to the master: {e}");
            return 1;
        }
        let begin = match link.recv_begin() {
            Ok(Some(begin)) => begin,
            Ok(None) => return 0,
            Err(e) => {
                log::error!("the engine cannot begin: {e}");
                return 1;
            }
        };
        let Begin { takes_over, kept, blamed, left } = begin;
        if let Err(e) = sys::close_later(left) {
            log::error!("descriptors of the engine before stay open: {e}");
        }
        let (checkpoint, runner) = (Arc::clone(&self.checkpoint), self.runner.clone());
        (self.body)(link, Start { takes_over, checkpoint, kept, is_standalone: false, runner, blamed })
    }

    /// Closes what a dead engine had open, but for the sockets of connections that have a record. `held` is what the master has
    /// beside its own.
    pub(crate) fn sweep(&self, held: impl Iterator<Item = RawFd>) -> io::Result<Swept> {
        let recorded = self.checkpoint.records().map(|(_, record)| record.descriptor);
        let mut keep: BTreeSet<RawFd> = self.own.iter().copied().chain(held).chain(recorded).collect();
        let header = self.checkpoint.header();
        // What an engine before the dead one had accepted is not on record either if both died so soon.
        keep.extend((0..WORKERS_MAX).filter_map(|worker| header.accepted(worker)));
        for worker in 0..WORKERS_MAX {
            let Some(listener) = header.accepting(worker) else { continue };
            // It was accepted, and died with its engine before a record of it was made.
            let accepted = sys::accepted_at(listener, &keep)?;
            header.leave_accepted(worker, accepted.or(header.accepted(worker)));
            keep.extend(accepted);
        }
        sys::sweep(&keep)
    }
}

/// A checkpoint with a record for each descriptor that there may be.
pub(crate) fn checkpoint() -> io::Result<Arc<Checkpoint>> {
    Checkpoint::create(sys::descriptor_limit()?.min(RECORDS_MAX)).map(Arc::new)
}

/// Kills an engine that is not needed, and waits for its end.
fn end(pidfd: &OwnedFd) {
    let _ = sys::kill(pidfd.as_fd());
    while let Ok(None) = sys::reap(pidfd.as_fd()) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// How often engines have died lately, and how long the next one therefore waits.
#[derive(Debug, Default)]
pub(crate) struct Deaths(VecDeque<Instant>);

impl Deaths {
    /// Deaths that count.
    pub(crate) const WINDOW: Duration = Duration::from_secs(30);
    /// An engine that has lived so long has served: what killed those before it is not what killed it.
    const LONG: Duration = Duration::from_secs(1);
    /// So many within the window are followed at once.
    const FREE: usize = if cfg!(feature = "crash-points") { usize::MAX - 1 } else { 3 };
    const FIRST_DELAY: Duration = Duration::from_millis(100);
    const LAST_DELAY: Duration = Duration::from_secs(5);

    /// One more, of an engine that has lived for so long. How long to wait: twice as long for each beyond the free ones.
    pub(crate) fn note(&mut self, now: Instant, lived: Duration) -> Duration {
        if lived >= Self::LONG {
            self.0.clear();
        }
        self.0.push_back(now);
        self.0.retain(|&then| now.duration_since(then) < Self::WINDOW);
        match self.0.len().checked_sub(Self::FREE + 1) {
            None => Duration::ZERO,
            Some(more) => (Self::FIRST_DELAY * (1 << more.min(6))).min(Self::LAST_DELAY),
        }
    }

    /// How many within the window.
    pub(crate) fn lately(&self) -> usize {
        self.0.len()
    }
}

/// A file with the engine's process number, removed when this is dropped.
pub(crate) struct PidFile(pub(crate) PathBuf);

impl PidFile {
    /// Readers see the old file or the new one, never half of it.
    pub(crate) fn write(&self, pid: i32) -> io::Result<()> {
        let mut new = self.0.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, format!("{pid}\n"))?;
        fs::rename(&new, &self.0)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_die_again_and_again_wait_longer_and_longer() {
        let (mut deaths, mut now) = (Deaths::default(), Instant::now());
        let mut delay = |step: u64, lived: u64| {
            now += Duration::from_millis(step);
            deaths.note(now, Duration::from_millis(lived)).as_millis()
        };
        assert_eq!([1; 10].map(|step| delay(step, 1)), [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(delay(29_000, 999), 5000);
        assert_eq!([31_000, 1, 1, 1].map(|step| delay(step, 1)), [0, 0, 0, 100]);
        assert_eq!((delay(1_000, 1_000), delay(1, 1)), (0, 0));
        assert_eq!(deaths.lately(), 2);
    }
}
