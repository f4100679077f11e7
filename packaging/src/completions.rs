//! What shells complete the commands by.
use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;

/// The shells, and what each calls the file of a command in its own folder.
const SHELLS: [(Shell, &str, &str, &str); 3] =
    [(Shell::Bash, "bash", "", ""), (Shell::Zsh, "zsh", "_", ""), (Shell::Fish, "fish", "", ".fish")];

/// Writes them into `folder`: `bash/vonic`, `zsh/_vonic`, `fish/vonic.fish`, and the same for vonicd.
///
/// # Errors
/// The file system's.
pub fn write(folder: &Path) -> io::Result<()> {
    for (shell, own, before, behind) in SHELLS {
        let own = folder.join(own);
        fs::create_dir_all(&own)?;
        for (mut program, _) in crate::programs() {
            let name = program.get_name().to_string();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program, name.as_str(), &mut script);
            fs::write(own.join(format!("{before}{name}{behind}")), script)?;
        }
    }
    Ok(())
}
