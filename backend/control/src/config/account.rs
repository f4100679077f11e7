//! The user that vonicd is to become: a name in the file, and somebody on this host.
use std::io;

use toml::de::DeValue;
use vonic_confinement::User;

use super::reader::{Wrong, text};

/// Says what is wrong with a user's name on this host, and what to write.
pub(super) type KnowsUser = fn(&str) -> Result<(), String>;

/// What a configuration that runs says was held against the host when vonicd started: a user that is gone since then ends nothing.
pub(super) fn anybody(_: &str) -> Result<(), String> {
    Ok(())
}

/// As this host knows.
pub(super) fn known(name: &str) -> Result<(), String> {
    judge(name, User::find(name))
}

/// Reads the key.
pub(super) fn user(value: &DeValue<'_>, known: KnowsUser) -> Result<String, Wrong> {
    let name = text(value)?;
    known(name).map(|()| name.to_string()).map_err(Wrong::Value)
}

fn judge(name: &str, found: io::Result<Option<User>>) -> Result<(), String> {
    match found {
        Ok(Some(user)) if user.is_root() => {
            Err(format!("'{name}' is root: write a user without privileges, or leave it out to stay root"))
        }
        Ok(Some(_)) => Ok(()),
        Ok(None) if name.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("'{name}' is no user's name on this host: write the name, not the number"))
        }
        Ok(None) => Err(format!(
            "there is no user '{name}' on this host: make it (useradd --system {name}), or write one that there is"
        )),
        Err(error) => {
            Err(format!("whether there is a user '{name}' cannot be found out ({error}): see nsswitch.conf(5)"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_this_host_that_is_not_root() {
        assert_eq!(known("nobody"), Ok(()));
        for (name, words) in [
            ("root", "'root' is root: write a user without privileges"),
            ("no-such-user", "there is no user 'no-such-user' on this host: make it (useradd --system no-such-user)"),
            ("1000000007", "write the name, not the number"),
            ("a\0b", "there is no user"),
        ] {
            assert!(known(name).unwrap_err().contains(words), "{name}");
        }
        let error = judge("a", Err(io::ErrorKind::TimedOut.into())).unwrap_err();
        assert!(error.starts_with("whether there is a user 'a' cannot be found out (timed out)"), "{error}");
        assert_eq!(anybody("no-such-user"), Ok(()));
    }
}
