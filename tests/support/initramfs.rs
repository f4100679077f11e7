//! Additions to the initramfs: a cpio archive in the "newc" format, which the kernel unpacks after the first one
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::Path;

/// A file to add, executable.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Path without a leading slash; its folders are made if need be.
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    /// Seconds since 1970. Python goes by it where it judges whether a compiled module is that of its source.
    pub(crate) modified: u32,
}

impl Entry {
    pub(crate) fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Entry {
        Entry { path: path.into(), content: content.into(), modified: 0 }
    }
}

/// Appends `entries` and their folders to the archive `base`.
pub(crate) fn extend(mut base: Vec<u8>, entries: &[Entry]) -> Vec<u8> {
    const REGULAR_EXECUTABLE: u32 = 0o100_755;
    const FOLDER: u32 = 0o040_755;
    base.resize(base.len().next_multiple_of(4), 0);
    // In order, a folder comes before what lies in it; one that is there already stays.
    let folders: BTreeSet<&str> = entries
        .iter()
        .flat_map(|entry| Path::new(&entry.path).ancestors().skip(1))
        .filter_map(|folder| folder.to_str().filter(|name| !name.is_empty()))
        .collect();
    for folder in folders {
        append(&mut base, folder, FOLDER, 0, &[]);
    }
    for entry in entries {
        append(&mut base, &entry.path, REGULAR_EXECUTABLE, entry.modified, &entry.content);
    }
    append(&mut base, "TRAILER!!!", 0, 0, &[]);
    base
}

fn append(archive: &mut Vec<u8>, path: &str, mode: u32, modified: u32, content: &[u8]) {
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [0, mode, 0, 0, 1, modified, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
