//! Programs of the lab for guests whose whole root is an initramfs, each with what it is linked to, at the places that it has in the lab.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::initramfs::Entry;
use crate::lab::Lab;

/// Prints the files of what a Python program of the tests may import; Debian's sitecustomize is not needed, and is a link.
const PYTHON: &str = "import sys,base64,hashlib,json,os,pty,select,socket,struct,threading,time,traceback,warnings,encodings.idna\n\
    for m in list(sys.modules.values()):\n    \
        print(*(p for p in (getattr(m,'__file__',0),getattr(m,'__cached__',0)) if p and 'sitecustomize' not in p), sep='\\n')";
/// By whom a guest's programs are run: sshd and ssh ask for it, and for the shell.
const PASSWD: &str = "root:x:0:0:root:/run:/bin/sh\n";
/// The files of `programs`, found by their names as a shell would, and of all that they need.
pub(crate) fn lab_programs(lab: &Lab, programs: &[String]) -> Result<Vec<Entry>> {
    let mut paths = BTreeSet::new();
    for program in programs {
        paths.insert(in_lab(lab, &["which", program])?.trim().to_string());
    }
    if programs.iter().any(|program| program == "python3") {
        paths.extend(in_lab(lab, &["python3", "-c", PYTHON])?.split_ascii_whitespace().map(ToString::to_string));
    }
    let linked: Vec<&str> =
        paths.iter().map(String::as_str).filter(|path| !path.ends_with(".py") && !path.ends_with(".pyc")).collect();
    let libraries = in_lab(lab, &[&["ldd"], &linked[..]].concat())?;
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" and "/lib64/ld-linux-x86-64.so.2 (0x…)".
    paths.extend(
        libraries
            .split_ascii_whitespace()
            .filter(|word| word.starts_with('/') && !word.ends_with(':'))
            .map(ToString::to_string),
    );
    let mut entries = vec![
        Entry::new("etc/passwd", PASSWD),
        Entry::new("etc/shells", "/bin/sh\n"),
        Entry::new("etc/nsswitch.conf", "passwd: files\nhosts: files dns\n"),
    ];
    for path in paths {
        let path = path.trim_start_matches('/');
        let file = lab.root().join(path);
        let content = std::fs::read(&file).with_context(|| format!("the lab's {path}"))?;
        let modified = u32::try_from(std::fs::metadata(&file)?.mtime())?;
        entries.push(Entry { path: path.to_string(), content, modified });
    }
    Ok(entries)
}

/// What a command of the lab prints; none of those used here writes anything.
fn in_lab(lab: &Lab, command: &[&str]) -> Result<String> {
    let output = Command::new("chroot")
        .arg(lab.root())
        .args(command)
        .env("PATH", "/usr/sbin:/usr/bin")
        .output()
        .context("running chroot")?;
    if !output.status.success() {
        bail!("{command:?} in the lab: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
