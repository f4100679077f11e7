//! The manual's page of the commands: what each says of itself.
use clap::Command;

/// The page.
pub fn markdown() -> String {
    let mut page = "# Commands\n\nWhat each command says with `--help`. Made by `make docs-reference`: do not edit. The man pages are made of the same.\n\n\
        Exit codes of `vonic`: 0, done; 1, not done or done in part, said on standard error; 2, wrong usage. `--socket` and `--json` may stand \
        behind any command.\n"
        .to_string();
    for (mut program, _) in crate::programs() {
        add(&mut program, &mut page);
    }
    page
}

/// A command, and those below it.
fn add(command: &mut Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_string();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for below in command.get_subcommands_mut().filter(|below| !below.is_hide_set()) {
        add(below, page);
    }
}
