//! Becoming the user that `vonic.toml` names. A vonicd that takes over from an older one is that user already.
use std::path::Path;
use vonic_control::config::Config;
use vonic_control::engine;
use vonic_front::{User, become_user, hand_over, may_change_user};

/// Becomes the configuration's user, if it names one, and gives it the folder of its sockets. What cannot be done comes with what to do about it.
pub fn change(config: &Config, file: &Path) -> Result<(), String> {
    let Some(name) = &config.service.user else { return Ok(()) };
    let failed = |e: std::io::Error| format!("{}: user: vonicd cannot become '{name}': {e}", file.display());
    let gone = || format!("{}: user: there is no user '{name}' on this host", file.display());
    let user = User::find(name).map_err(failed)?.ok_or_else(gone)?;
    if user.is_current().map_err(failed)? {
        return Ok(());
    }
    if !may_change_user().map_err(failed)? {
        return Err(format!(
            "{}: user: vonicd cannot become '{name}', for it was not started as root (with CAP_SETUID and CAP_SETGID): start it as root, or as \
             '{name}', or leave the key out",
            file.display()
        ));
    }
    hand_over(&config.service.runtime_dir, &user).map_err(|e| format!("{}: runtime_dir: {e}", file.display()))?;
    become_user(&user, engine::needed_capabilities(config)).map_err(failed)?;
    log::info!("vonicd is user '{name}' from here on");
    Ok(())
}
