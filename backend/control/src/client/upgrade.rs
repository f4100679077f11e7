//! `vonic upgrade`: asks for it, and waits for whoever is there afterwards to say how it went.
use super::command::Failure;
use super::connection;
use crate::api::ApiError;
use crate::api::types::UpgradeReport;
use hyper::Method;
use std::path::{Path, PathBuf, absolute};
use std::thread;
use std::time::{Duration, Instant};

/// How long the answer may take once the engine that was asked is gone: a switch has 5 s, and as many for the way back.
const LIMIT: Duration = Duration::from_secs(15);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Has a newer vonicd take over. Ends when that is done, or is not to be.
pub(super) fn upgrade(socket: &Path, binary: &Path) -> Result<UpgradeReport, Failure> {
    let binary = absolute(binary).unwrap_or_else(|_| PathBuf::from(binary));
    let binary = binary.to_str().ok_or_else(|| {
        Failure::Api(ApiError::bad_request("the path of the program is not UTF-8").field("binary").mend("rename it"))
    })?;
    let before = report(socket)?.number;
    let target = format!("/v1/upgrade?binary={}", super::escaped(binary));
    match connection::ask(socket, Method::POST, &target) {
        // The engine that was asked ends without a word if the upgrade goes on.
        Err(Failure::Api(error)) if error.status == 503 => {}
        Err(failure) => return Err(failure),
        Ok(_) => {}
    }
    let until = Instant::now() + LIMIT;
    loop {
        match report(socket) {
            Ok(UpgradeReport { number, error: Some(why), .. }) if number > before => {
                let error = ApiError::new(409, format!("the upgrade failed: {why}")).field("binary");
                return Err(Failure::Api(error.mend("vonicd goes on as it was; see its log")));
            }
            Ok(report) if report.number > before => return Ok(report),
            Err(failure) if Instant::now() > until => return Err(failure),
            Ok(_) if Instant::now() > until => {
                let error = ApiError::unavailable(format!("nothing is known of the upgrade after {LIMIT:?}"));
                return Err(Failure::Api(error.mend("see vonicd's log")));
            }
            _ => thread::sleep(PAUSE),
        }
    }
}

fn report(socket: &Path) -> Result<UpgradeReport, Failure> {
    super::command::decode(&connection::ask(socket, Method::GET, "/v1/upgrade")?)
}
