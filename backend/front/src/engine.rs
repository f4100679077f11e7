//! Making engines: the first one, and each that takes over from a dead one.
use crate::channel::{EngineLink, MasterLink};
use crate::run::{MasterError, system};
use crate::sys::{self, Cloned, Swept};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use vonic_record::Checkpoint;

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
    /// Readable when it has ended.
    pub(crate) pidfd: OwnedFd,
    /// The control channel.
    pub(crate) link: MasterLink,
}

/// Makes engines out of this process.
pub(crate) struct Maker<'a> {
    body: Body<'a>,
    checkpoint: Arc<Checkpoint>,
    pid_file: Option<PidFile>,
    /// Open before the first engine was, and the master's own as long as it lives.
    own: BTreeSet<RawFd>,
}

impl<'a> Maker<'a> {
    /// To be called when the master's own descriptors are open, and nothing else is.
    pub(crate) fn new(body: Body<'a>, pid_file: Option<&Path>) -> io::Result<Maker<'a>> {
        let pid_file = pid_file.map(|path| PidFile(path.to_path_buf()));
        let checkpoint = checkpoint()?;
        Ok(Maker { body, checkpoint, pid_file, own: sys::open_descriptors()? })
    }

    /// Makes an engine, with what the one before it has kept for it, if it takes over, and with what is `left` of that one to be closed. In the
    /// engine's own process this does not return.
    pub(crate) fn start(
        &self,
        kept: Option<BTreeMap<String, RawFd>>,
        left: Vec<RawFd>,
    ) -> Result<Engine, MasterError> {
        let checkpoint = Arc::clone(&self.checkpoint);
        let start = Start { takes_over: kept.is_some(), checkpoint, kept: kept.unwrap_or_default() };
        let (ours, theirs) = sys::seqpacket_pair().map_err(system("no control channel"))?;
        let link = MasterLink::new(ours).map_err(system("no control channel"))?;
        let parent = std::process::id() as i32;
        let theirs = EngineLink::new(theirs);
        let pid = match sys::clone_sharing_files().map_err(system("the engine cannot be created"))? {
            Cloned::Child => sys::exit_now(self.be_engine(parent, theirs, start, left)),
            Cloned::Parent(pid) => pid,
        };
        theirs.leak(); // The table is shared: closed here, it would be closed there.
        let pidfd = sys::pidfd_open(pid).map_err(system("the engine cannot be watched"))?;
        if let Some(Err(e)) = self.pid_file.as_ref().map(|file| file.write(pid)) {
            end(&pidfd);
            return Err(MasterError::System("the engine's pid file cannot be written", e));
        }
        Ok(Engine { pidfd, link })
    }

    /// The engine's first steps. Nothing of the master's may be dropped in this process.
    fn be_engine(&self, parent: i32, link: EngineLink, start: Start, left: Vec<RawFd>) -> i32 {
        sys::leave_to_master();
        // A master that is gone must not leave a VMM hanging on an engine.
        if let Err(e) = sys::die_with_parent(parent).and_then(|()| sys::no_core_dump()) {
            log::error!("the engine cannot be bound to the master: {e}");
            return 1;
        }
        if let Err(e) = sys::close_later(left) {
            log::error!("descriptors of the engine before stay open: {e}");
        }
        (self.body)(link, start)
    }

    /// Closes what a dead engine had open, but for the sockets of connections that have a record. `held` is what the master has
    /// beside its own.
    pub(crate) fn sweep(&self, held: impl Iterator<Item = RawFd>) -> io::Result<Swept> {
        let recorded = self.checkpoint.records().map(|(_, record)| record.descriptor);
        let mut keep: BTreeSet<RawFd> = self.own.iter().copied().chain(held).chain(recorded).collect();
        if let Some(listener) = self.checkpoint.header().accepting() {
            // It was accepted, and died with its engine before a record of it was made.
            let accepted = sys::accepted_at(listener, &keep)?;
            self.checkpoint.header().leave_accepted(accepted);
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
    const FREE: usize = 3;
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
