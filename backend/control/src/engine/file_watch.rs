//! The configuration is read again whenever its files change, if it says so (`reload_on_change`).
use super::Input;
use super::registry::Registry;
use super::reload::Asker;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// After a change, how long it is waited for more: an editor, or a program that writes many files, makes many.
const PAUSE: Duration = Duration::from_millis(300);

/// News of the files, once they were wanted.
#[derive(Default)]
pub(super) struct FileWatch {
    watch: Option<Arc<OwnedFd>>,
    /// What is watched, by the kernel's numbers.
    watched: Vec<i32>,
}

impl Registry {
    /// Follows the files if the configuration says so, and does not if it does not.
    pub(super) fn watch_files(&mut self) {
        if !self.config.service.reload_on_change {
            if let Some(watch) = &self.files.watch {
                for number in self.files.watched.drain(..) {
                    // One that is gone already, with its folder, is none.
                    let _ = inotify::remove_watch(watch, number);
                }
            }
            return;
        }
        let to = self.sender();
        if let Err(error) = self.files.follow(&self.config_dir, to) {
            log::warn!("reload_on_change: changes in {} go unseen: {error}", self.config_dir.display());
        }
    }

    /// Some may be others now.
    pub(super) fn files_changed(&mut self) {
        if self.config.service.reload_on_change {
            self.reload(Asker::Change);
        }
    }
}

impl FileWatch {
    /// Watches the folders; those that are watched already stay so.
    fn follow(&mut self, dir: &Path, to: Sender<Input>) -> io::Result<()> {
        let watch = match &self.watch {
            Some(watch) => Arc::clone(watch),
            None => {
                let watch = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
                let watched = Arc::clone(&watch);
                std::thread::Builder::new().name("files".into()).spawn(move || tell(&watched, &to))?;
                self.watch = Some(Arc::clone(&watch));
                watch
            }
        };
        let news =
            WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        self.watched = vec![inotify::add_watch(&*watch, dir, news)?];
        match inotify::add_watch(&*watch, dir.join("vms.d"), news) {
            Ok(number) => self.watched.push(number),
            // It is seen when it comes.
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Tells of changes, together where they come together.
fn tell(watch: &OwnedFd, to: &Sender<Input>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        match inotify::Reader::new(watch, &mut buffer).next().map(drop) {
            Ok(()) => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => continue,
            Err(error) => return log::warn!("reload_on_change: changes of the files go unseen: {error}"),
        }
        if to.send(Input::Files).is_err() {
            return;
        }
    }
}
