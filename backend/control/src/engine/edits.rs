//! VMs' files that the API writes and removes. The file is what counts: it outlives engines, restarts and upgrades, and says the
//! same at the next reload.
//!
//! Nothing is written that is not good beside what runs. Writing waits for the disk, so a thread of its own does it, one file at
//! a time.
use super::Input;
use super::registry::Registry;
use super::reload::Asker;
use crate::api::types::ReloadReport;
use crate::api::{ApiError, Reply, Response};
use crate::config::{self, Config, ConfigError, ConfigErrors, name};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Of a VM's file that is new: anybody may read it, as its neighbours.
const FILE_MODE: u32 = 0o644;

/// Edits that wait for the disk, the oldest first.
#[derive(Default)]
pub(super) struct Edits {
    /// One is under way.
    busy: bool,
    waiting: VecDeque<Edit>,
}

/// One VM's file as it is to be.
struct Edit {
    vm: String,
    /// Absent: removed.
    text: Option<String>,
    reply: Reply,
}

/// One that is done, or could not be.
pub(super) struct Edited {
    edit: Edit,
    outcome: io::Result<()>,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        !self.busy && self.waiting.is_empty()
    }
}

impl Registry {
    /// A VM's file is to say this, or not to be; the answer comes when that is in force.
    pub(super) fn edit(&mut self, vm: String, text: Option<String>, reply: Reply) {
        // No file can have such a name; of one that is to be written the configuration says so.
        if text.is_none() && name::check(&vm).is_err() {
            return reply.send(Response::Error(ApiError::no_such_vm(&vm)));
        }
        self.edits.waiting.push_back(Edit { vm, text, reply });
        self.next_edit();
    }

    fn next_edit(&mut self) {
        while !self.edits.busy {
            let Some(edit) = self.edits.waiting.pop_front() else { return };
            // Before the disk has it: what is bad changes nothing.
            if let Err(errors) = self.edited_config(&edit) {
                edit.reply.send(Response::Error(refusal(&self.file_of(&edit.vm), &errors)));
                continue;
            }
            let (folder, sender) = (self.config_dir.join("vms.d"), self.sender());
            let work = move || {
                let outcome = match &edit.text {
                    Some(text) => write(&folder, &edit.vm, text),
                    None => remove(&folder, &edit.vm),
                };
                // The control side is gone only when the process is.
                let _ = sender.send(Input::Edited(Box::new(Edited { edit, outcome })));
            };
            match std::thread::Builder::new().name("vm-file".into()).spawn(work) {
                Ok(_) => self.edits.busy = true,
                // Who asked hears of it by the answer that there is not.
                Err(error) => log::error!("no thread to write a VM's file: {error}"),
            }
        }
    }

    fn edited_config(&self, edit: &Edit) -> Result<Config, ConfigErrors> {
        config::with_vm(&self.config_dir, &self.config, &edit.vm, edit.text.as_deref())
    }

    fn file_of(&self, vm: &str) -> PathBuf {
        self.config_dir.join("vms.d").join(format!("{vm}.toml"))
    }

    /// The disk has it, or not.
    pub(super) fn edited(&mut self, Edited { edit, outcome }: Edited) {
        self.edits.busy = false;
        let file = self.file_of(&edit.vm);
        let is_there = self.vms.contains_key(&edit.vm);
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::NotFound && edit.text.is_none() && !is_there => {
                edit.reply.send(Response::Error(ApiError::no_such_vm(&edit.vm)));
            }
            // Its file is gone already.
            Err(error) if error.kind() != io::ErrorKind::NotFound || edit.text.is_some() => {
                log::error!("{} cannot be written: {error}", file.display());
                edit.reply.send(Response::Error(unwritable(&file, &error)));
            }
            _ => self.apply_edit(edit),
        }
        self.next_edit();
        self.rest_if_awaited();
    }

    fn apply_edit(&mut self, edit: Edit) {
        match self.edited_config(&edit) {
            Ok(config) => {
                let what = if edit.text.is_some() { "put" } else { "deleted" };
                log::info!("{}: {what} by the API", edit.vm);
                self.put_in_force(config, ReloadReport::default(), Asker::About(edit.vm, edit.reply));
            }
            Err(errors) => {
                // A reload came between.
                let error = refusal(&self.file_of(&edit.vm), &errors);
                let message =
                    format!("its file is written, but the configuration is another one now: {}", error.message);
                let error = ApiError { status: 409, message, ..error };
                edit.reply.send(Response::Error(error));
            }
        }
    }
}

/// Why a VM's configuration is none.
fn refusal(file: &Path, ConfigErrors(errors): &ConfigErrors) -> ApiError {
    let place = |error: &ConfigError| match error.line {
        Some(line) if error.file == file => format!("line {line}: "),
        Some(line) => format!("{}:{line}: ", error.file.display()),
        None => String::new(),
    };
    let of = |error: &ConfigError| match (error.key(), error.line) {
        (Some(key), _) => key.to_string(),
        (None, Some(_)) => "body".to_string(),
        (None, None) => "name".to_string(),
    };
    match errors.as_slice() {
        [error] => {
            let (wrong, mend) = error.parts();
            let refused = ApiError::bad_request(format!("{}{wrong}", place(error))).field(of(error));
            refused.mend(mend.unwrap_or("see backend/docs/config.md"))
        }
        all => {
            let lines: Vec<String> = all.iter().map(|error| format!("{}{}", place(error), error.message)).collect();
            let field = all.first().map_or_else(|| "body".to_string(), of);
            let message = format!("{} mistakes:\n{}", all.len(), lines.join("\n"));
            ApiError::bad_request(message).field(field).mend("nothing is changed: mend them all, and send it again")
        }
    }
}

/// Why its file is not written.
fn unwritable(file: &Path, error: &io::Error) -> ApiError {
    let folder = file.parent().unwrap_or(file).display();
    let message = format!("{folder} cannot be written: {error}; nothing is changed");
    let mend = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "let vonicd's user write there (a systemd unit: ReadWritePaths=), or write the file yourself and give vonic reload"
        }
        io::ErrorKind::StorageFull => "make room there",
        _ => "see vonicd's log",
    };
    ApiError::new(409, message).field("vms.d").mend(mend)
}

/// Writes a VM's file as a whole or not at all, whatever fails meanwhile.
fn write(folder: &Path, vm: &str, text: &str) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Files that begin with a dot are no VMs'.
    let (file, draft) = (folder.join(format!("{vm}.toml")), folder.join(format!(".{vm}.toml.new")));
    let written = draft_with(&draft, &file, text).and_then(|()| fs::rename(&draft, &file));
    if written.is_err() {
        drop(fs::remove_file(&draft));
    }
    written.and_then(|()| File::open(folder)?.sync_all())
}

/// Writes the text where it is nobody's yet, with the permissions that the file has.
fn draft_with(draft: &Path, file: &Path, text: &str) -> io::Result<()> {
    // One that an engine left which died there.
    match fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut to = File::options().write(true).create_new(true).mode(FILE_MODE).open(draft)?;
    to.write_all(text.as_bytes())?;
    if let Ok(before) = fs::metadata(file) {
        to.set_permissions(before.permissions())?;
    }
    to.sync_all()
}

fn remove(folder: &Path, vm: &str) -> io::Result<()> {
    fs::remove_file(folder.join(format!("{vm}.toml")))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load_sources};
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    fn refused(name: &str, text: &str) -> ApiError {
        let (dir, mac) = (Path::new("/etc/vonic"), "mac = \"52:54:00:00:00:02\"\n".to_string());
        let running = Sources { service: None, vms: BTreeMap::from([("a".to_string(), mac)]) };
        let running = load_sources(dir, &running).unwrap();
        let errors = config::with_vm(dir, &running, name, Some(text)).unwrap_err();
        refusal(&dir.join(format!("vms.d/{name}.toml")), &errors)
    }

    #[test]
    fn a_bad_file_is_refused_with_field_and_mend() {
        let one = refused("b", "mac = \"52:54:00:00:00:03\"\nmtu = 100\n");
        assert_eq!((one.status, one.field.as_deref()), (400, Some("mtu")));
        assert_eq!(one.message, "line 2: mtu: 100 is out of range");
        assert_eq!(one.mend.as_deref(), Some("write a number from 576 to 65520"));
        let many = refused("b", "mtu = 100\ncolour = 1\n");
        assert!(
            many.message.contains("line 1: mtu") && many.message.contains("line 2: unknown key 'colour'"),
            "{many}"
        );
        let taken = refused("b", "mac = \"52:54:00:00:00:02\"\n");
        assert!(taken.message.contains("'a'") || taken.message.contains("a.toml"), "{taken}");
        assert_eq!(refused("b", "mac = 5\n").field.as_deref(), Some("mac"));
        assert_eq!(refused("b", "mac =").field.as_deref(), Some("body"));
        for name in ["api", "a b", ""] {
            assert_eq!(refused(name, "mac = \"52:54:00:00:00:03\"\n").field.as_deref(), Some("name"), "{name}");
        }
    }

    #[test]
    fn files_are_written_whole_with_their_permissions_and_removed() {
        let dir = tempfile::TempDir::new().unwrap();
        let folder = dir.path().join("vms.d");
        write(&folder, "a", "one").unwrap();
        let file = folder.join("a.toml");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.join(".a.toml.new"), "left by one that died").unwrap();
        write(&folder, "a", "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        remove(&folder, "a").unwrap();
        assert_eq!(remove(&folder, "a").unwrap_err().kind(), io::ErrorKind::NotFound);
        // A folder in the file's place: nothing is left behind.
        fs::create_dir(&file).unwrap();
        let error = write(&folder, "a", "three").unwrap_err();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let told = unwritable(&file, &error);
        assert_eq!((told.status, told.field.as_deref()), (409, Some("vms.d")));
        let read_only = unwritable(&file, &io::ErrorKind::ReadOnlyFilesystem.into());
        assert!(read_only.mend.unwrap().contains("ReadWritePaths"));
    }
}
