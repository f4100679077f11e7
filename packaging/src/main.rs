//! `vonic-reference`: writes what describes the programs.
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use vonic_packaging::{bill, completions, man, outside, project, reference};

const USAGE: &str = "vonic-reference man FOLDER           man pages of every command, and vonic.toml(5)
vonic-reference completions FOLDER   for bash, zsh and fish
vonic-reference manual               renews the pages of backend/docs that are made
vonic-reference bill FILE            what the programs are made of, as CycloneDX
vonic-reference outside FOLDER       what the manual in FOLDER/backend/docs leads to that is no page of it
";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => complain(USAGE.trim_end(), 2),
        Err(error) => complain(&format!("vonic-reference {}: {error}", words.join(" ")), 1),
    }
}

/// Whether it is known what to do.
fn run(words: &[&str]) -> io::Result<bool> {
    match words {
        ["man", folder] => man::write(&made(folder)?)?,
        ["completions", folder] => completions::write(&made(folder)?)?,
        ["manual"] => {
            let docs = project().join("backend/docs");
            fs::create_dir_all(docs.join("reference"))?;
            reference()?.into_iter().try_for_each(|(path, text)| fs::write(docs.join(path), text))?;
        }
        ["bill", file] => fs::write(file, format!("{:#}\n", bill::json()?))?,
        ["outside", folder] => outside::write(&made(folder)?)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn made(folder: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    Ok(folder.into())
}

#[expect(clippy::print_stderr, reason = "a command's errors go to stderr")]
fn complain(message: &str, code: u8) -> ExitCode {
    eprintln!("{message}");
    ExitCode::from(code)
}
