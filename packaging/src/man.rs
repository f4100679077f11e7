//! Man pages: one for each command, and vonic.toml(5).
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::page;

/// Who else is to be read, by each page.
const SEE_ALSO: &str = ".SH \"SEE ALSO\"\n\\fBvonic\\fR(1), \\fBvonicd\\fR(8), \\fBvonic.toml\\fR(5)\n";
/// What stands at the foot of each page.
const SOURCE: &str = concat!("vonic ", env!("CARGO_PKG_VERSION"));

/// Writes them into `folder`: `vonic.1` and one for each of its commands (`vonic-vm-list.1`), `vonicd.8`, `vonic.toml.5`.
///
/// # Errors
/// The file system's.
pub fn write(folder: &Path) -> io::Result<()> {
    for (program, section) in crate::programs() {
        write_command(&program, section, folder)?;
    }
    let configuration = fs::read_to_string(crate::project().join("backend/docs/config.md"))?;
    fs::write(folder.join("vonic.toml.5"), configuration_page(&configuration))
}

fn write_command(command: &Command, section: &str, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_command(below, section, folder)?;
    }
    let man = Man::new(command.clone()).section(section).source(SOURCE).manual("vonic");
    let mut text = Vec::new();
    man.render(&mut text)?;
    text.write_all(SEE_ALSO.as_bytes())?;
    fs::write(folder.join(man.get_filename()), text)
}

/// vonic.toml(5), of the manual's page of the configuration.
fn configuration_page(markdown: &str) -> String {
    format!(
        ".TH \"VONIC.TOML\" \"5\" \"\" \"{SOURCE}\" \"vonic\"\n.SH NAME\nvonic.toml, vms.d/NAME.toml \\- what vonicd serves\n\
         .SH DESCRIPTION\n{}{SEE_ALSO}",
        page::body(markdown)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_key_is_told() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        for name in ["vonic.1", "vonic-vm.1", "vonic-vm-list.1", "vonic-migrate-save.1", "vonicd.8"] {
            let text = read(name);
            assert!(text.contains(".SH NAME") && text.contains("SEE ALSO"), "{name}: {text}");
        }
        assert!(read("vonicd.8").contains("config\\-dir"));
        assert!(!read("vonicd.8").contains("take\\-over"), "what is hidden stays hidden");
        let configuration = read("vonic.toml.5");
        for key in [
            "runtime_dir",
            "metrics_listen",
            "subnet4",
            "host_loopback6",
            "mac",
            "queue_pairs",
            "pending_per_destination",
        ] {
            assert!(configuration.contains(&format!("\\fB{key}\\fR")), "{key}");
        }
        // What is shown to be typed stands as it is typed.
        assert!(configuration.contains("[network.default]\nsubnet4 = \"192.0.2.0/24\""), "{configuration}");
    }
}
