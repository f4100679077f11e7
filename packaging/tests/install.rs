//! `make install` and `make uninstall`: is everything put where it belongs, with the paths of there, and all of it taken away again?
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vonic_packaging::{completions, man, project};

fn script(dest: &Path, arguments: &[&Path]) -> Output {
    let mut command = Command::new("sh");
    command.arg(project().join("packaging/install.sh")).args(arguments);
    command.env("DESTDIR", dest).env("PREFIX", "/opt/vonic").output().unwrap()
}

/// Every file below a folder, by its path from there.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path.strip_prefix(root).unwrap().to_path_buf()) }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_installed_is_taken_away_again() {
    let folder = tempfile::tempdir().unwrap();
    let [programs, reference, dest] = ["programs", "reference", "dest"].map(|name| folder.path().join(name));
    for part in [&programs, &dest, &reference.join("man")] {
        fs::create_dir_all(part).unwrap();
    }
    for program in ["vonicd", "vonic"] {
        fs::write(programs.join(program), "#!/bin/sh\n").unwrap();
    }
    man::write(&reference.join("man")).unwrap();
    completions::write(&reference.join("completions")).unwrap();
    fs::write(reference.join("vonic.cdx.json"), "{}\n").unwrap();
    let output = script(&dest, &["install".as_ref(), &programs, &reference]);
    assert!(output.status.success(), "{output:?}");
    let installed = files(&dest);
    for path in [
        "opt/vonic/bin/vonicd",
        "opt/vonic/bin/vonic",
        "opt/vonic/lib/systemd/system/vonic.service",
        "opt/vonic/lib/sysusers.d/vonic.conf",
        "opt/vonic/share/man/man1/vonic-vm-show.1",
        "opt/vonic/share/man/man5/vonic.toml.5",
        "opt/vonic/share/man/man8/vonicd.8",
        "opt/vonic/share/zsh/site-functions/_vonic",
        "opt/vonic/share/fish/vendor_completions.d/vonicd.fish",
        "opt/vonic/share/doc/vonic/examples/vonic.service.d/bridge.conf",
        "opt/vonic/share/doc/vonic/examples/prometheus/dashboard.json",
        "opt/vonic/share/doc/vonic/vonic.cdx.json",
        "etc/vonic/vonic.toml",
    ] {
        assert!(installed.contains(&path.into()), "{path} in {installed:?}");
    }
    let unit = fs::read_to_string(dest.join("opt/vonic/lib/systemd/system/vonic.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/vonic/bin/vonicd\n") && !unit.contains("/usr/local"), "{unit}");

    // A second time leaves what the operator has written; going leaves nothing else.
    fs::write(dest.join("etc/vonic/vonic.toml"), "workers = 2\n").unwrap();
    assert!(script(&dest, &["install".as_ref(), &programs, &reference]).status.success());
    assert_eq!(files(&dest), installed);
    let output = script(&dest, &["uninstall".as_ref()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files(&dest), [Path::new("etc/vonic/vonic.toml")]);
    assert_eq!(fs::read_to_string(dest.join("etc/vonic/vonic.toml")).unwrap(), "workers = 2\n");
    assert!(!dest.join("opt/vonic/share/doc/vonic").exists());
    assert!(!script(&dest, &["uninstall".as_ref()]).status.success(), "there is nothing any more");
}

#[test]
fn the_configuration_that_comes_along_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(project().join("packaging/vonic.toml")).unwrap();
    fs::create_dir(folder.path().join("vms.d")).unwrap();
    let comments: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            line.starts_with('[')
                || line
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || "_46".contains(c)))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(comments.contains("runtime_dir") && comments.contains("[network.default]"), "{comments}");
    for text in [text, comments] {
        fs::write(folder.path().join("vonic.toml"), &text).unwrap();
        let loaded = vonic_control::config::load(folder.path());
        assert!(loaded.is_ok(), "{text}\n{:?}", loaded.err());
    }
}
