//! vonic: asks the running vonicd, and tells it what to do.
use std::process::ExitCode;

fn main() -> ExitCode {
    vonic_control::client::main(vonic_daemon::VERSION)
}
