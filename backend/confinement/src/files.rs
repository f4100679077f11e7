//! Which files a process sees: Landlock (landlock(7)).
use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use std::path::{Path, PathBuf};

/// What was there in Linux 6.2: opening, making, removing, moving and cutting files. Later kernels also ask for ioctl(2) on devices, which taps
/// need, and for sockets, which are the data path's own affair.
const VERSION: ABI = ABI::V3;

/// Files and folders, with everything below them. What is not there is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// To be read and written: what is in folders may be made and removed. Nothing can be run.
    pub write: Vec<PathBuf>,
}

impl Files {
    /// Leaves this thread, and those that it makes, no other files; signals go to nobody outside. Whether the kernel does so.
    pub(crate) fn restrict(&self) -> bool {
        match self.try_restrict() {
            Ok(RulesetStatus::NotEnforced) => false,
            Ok(_) => true,
            Err(error) => {
                log::warn!("files are not confined: {error}");
                false
            }
        }
    }

    fn try_restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let all = AccessFs::from_all(VERSION);
        let write = all & !AccessFs::Execute;
        let rules = Ruleset::default().handle_access(all)?.scope(Scope::Signal)?.create()?;
        let rules = rules.add_rules(beneath(&self.read, read))?.add_rules(beneath(&self.write, write))?;
        Ok(rules.restrict_self()?.ruleset)
    }
}

/// What of these paths is there; of what is no folder only what a file has.
fn beneath(
    paths: &[PathBuf],
    access: BitFlags<AccessFs>,
) -> impl Iterator<Item = Result<PathBeneath<PathFd>, RulesetError>> {
    paths.iter().filter_map(move |path| {
        let place = PathFd::new(path).ok()?;
        let access = if is_folder(path) { access } else { access & AccessFs::from_file(VERSION) };
        Some(Ok(PathBeneath::new(place, access)))
    })
}

fn is_folder(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_dir())
}
