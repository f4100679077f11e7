//! Giving the folder of sockets to the user that is to have it, and nothing that others have put in its place.
use crate::sys;
use crate::user::User;
use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// As many links the kernel itself follows (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Group and others may write.
const OTHERS_WRITE: u32 = 0o022;
/// In such a folder nobody may move what belongs to others.
const STICKY: u32 = 0o1000;

/// Why a folder is not given away, and what to do.
#[derive(Debug)]
pub struct FolderError(String);

impl fmt::Display for FolderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FolderError {}

/// Makes a folder, if it is not there, and gives it to the user, if it is root's: with the sockets of root's in it, whose owner may have died and which the
/// user is to find out about. What is the user's already is left as it is.
///
/// # Errors
/// It belongs to somebody else; others could have put it there, or something into it; or what the system says.
pub fn hand_over(path: &Path, user: &User) -> Result<(), FolderError> {
    let failed = |e: io::Error| FolderError(format!("{}: {e}", path.display()));
    let own = sys::own_users().map_err(failed)?[1];
    let folder = open(path, own).map_err(failed)?;
    let stat = fs::fstat(&folder).map_err(|e| failed(e.into()))?;
    if stat.st_uid == user.id {
        return Ok(());
    }
    let above = fs::openat(&folder, "..", FOLDER, Mode::empty()).and_then(fs::fstat).map_err(|e| failed(e.into()))?;
    if let Some(why) = objection(path, user, own, (&stat, &above)) {
        return Err(FolderError(why));
    }
    let give = || -> rustix::io::Result<()> {
        give_sockets(&folder, user, own)?;
        give_to(&folder, OsStr::new(""), user, AtFlags::EMPTY_PATH)
    };
    give().map_err(|e| failed(e.into()))
}

/// Why a folder is not to be given away, of itself and the one that it lies in.
fn objection(path: &Path, user: &User, own: u32, (stat, above): (&Stat, &Stat)) -> Option<String> {
    let (name, to) = (path.display(), user.name.to_string_lossy());
    let ours = [0, own];
    if !ours.contains(&stat.st_uid) {
        return Some(format!("{name} belongs to user {}: give it to '{to}' (chown {to} {name})", stat.st_uid));
    }
    if stat.st_mode & OTHERS_WRITE != 0 {
        return Some(format!("others than its owner can write in {name}: chmod go-w {name}"));
    }
    let theirs = !ours.contains(&above.st_uid) && above.st_uid != user.id;
    let open = above.st_mode & OTHERS_WRITE != 0 && above.st_mode & STICKY == 0;
    (theirs || open).then(|| {
        format!("others than root and '{to}' can write in the folder of {name}, and put another one there: chown it, chmod go-w it")
    })
}

/// A folder that is only named.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The next thing on a way.
enum Step {
    Folder(OwnedFd),
    Link(PathBuf),
}

/// The folder at an absolute path. What is missing is made. Of links those of root's and `own` ones are followed: others could lead anywhere.
fn open(path: &Path, own: u32) -> io::Result<OwnedFd> {
    let root = || fs::open("/", FOLDER, Mode::empty());
    let (mut at, mut links) = (root()?, 0);
    let mut ahead: VecDeque<OsString> = parts(path).collect();
    while let Some(part) = ahead.pop_front() {
        match step(&at, &part, own)? {
            Step::Folder(folder) => at = folder,
            Step::Link(_) if links == LINKS_MAX => return Err(Errno::LOOP.into()),
            Step::Link(to) => {
                links += 1;
                if to.is_absolute() {
                    at = root()?;
                }
                ahead = parts(&to).chain(ahead).collect();
            }
        }
    }
    Ok(at)
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    let named = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(named).map(|part| part.as_os_str().to_os_string())
}

fn step(at: &OwnedFd, part: &OsStr, own: u32) -> io::Result<Step> {
    let open = || fs::openat(at, part, FOLDER, Mode::empty());
    let found = match open() {
        Err(Errno::NOENT) => match fs::mkdirat(at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(e) => Err(e),
        },
        found => found,
    };
    match found {
        Ok(folder) => Ok(Step::Folder(folder)),
        Err(Errno::NOTDIR | Errno::LOOP) => link(at, part, own).map(Step::Link),
        Err(e) => Err(e.into()),
    }
}

/// Where a link leads.
fn link(at: &OwnedFd, part: &OsStr, own: u32) -> io::Result<PathBuf> {
    let link = fs::openat(at, part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fs::fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Err(Errno::NOTDIR.into());
    }
    if ![0, own].contains(&stat.st_uid) {
        let why =
            format!("'{}' on the way is a link of user {}: write the path without it", part.display(), stat.st_uid);
        return Err(io::Error::other(why));
    }
    Ok(PathBuf::from(OsString::from_vec(fs::readlinkat(&link, "", Vec::new())?.into_bytes())))
}

/// Nobody but root can put anything into the folder meanwhile.
fn give_sockets(folder: &OwnedFd, user: &User, own: u32) -> rustix::io::Result<()> {
    let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in Dir::new(fs::openat(folder, ".", readable, Mode::empty())?)? {
        let entry = entry?;
        let stat = fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if is_socket && [0, own].contains(&stat.st_uid) {
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            give_to(folder, &name, user, AtFlags::SYMLINK_NOFOLLOW)?;
        }
    }
    Ok(())
}

fn give_to(folder: impl AsFd, name: &OsStr, user: &User, how: AtFlags) -> rustix::io::Result<()> {
    fs::chownat(folder, name, Some(Uid::from_raw(user.id)), Some(Gid::from_raw(user.group)), how)
}

#[cfg(test)]
mod tests;
