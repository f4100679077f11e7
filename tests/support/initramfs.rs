//! Additions to the initramfs: a cpio archive in the "newc" format, which the kernel unpacks after the first one
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// A file to add.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Path without a leading slash; its folder must exist in an earlier archive.
    pub(crate) path: &'a str,
    pub(crate) content: &'a [u8],
}

/// Appends `entries`, executable, to the archive `base`.
pub(crate) fn extend(mut base: Vec<u8>, entries: &[Entry<'_>]) -> Vec<u8> {
    const REGULAR_EXECUTABLE: u32 = 0o100_755;
    base.resize(base.len().next_multiple_of(4), 0);
    for entry in entries {
        append(&mut base, entry.path, REGULAR_EXECUTABLE, entry.content);
    }
    append(&mut base, "TRAILER!!!", 0, &[]);
    base
}

fn append(archive: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) {
    // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
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
