//! The port's state, as a VMM takes it along when its guest moves (vhost-user specification, "Migrating back-end state").

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase};

use super::MockFrontend;

impl MockFrontend {
    fn transfer(&mut self, direction: VhostTransferStateDirection) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let begun = self.frontend.set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, theirs.into());
        begun.context("SET_DEVICE_STATE_FD")?;
        Ok(ours)
    }

    /// The port's state; every ring is stopped.
    ///
    /// # Errors
    /// If the backend has none to give.
    pub fn save_state(&mut self) -> Result<Vec<u8>> {
        let mut pipe = self.transfer(VhostTransferStateDirection::SAVE)?;
        let mut state = Vec::new();
        pipe.read_to_end(&mut state).context("the state")?;
        self.frontend.check_device_state().context("CHECK_DEVICE_STATE")?;
        Ok(state)
    }

    /// Brings a state; whether the backend takes it.
    ///
    /// # Errors
    /// If the backend takes none at all now.
    pub fn load_state(&mut self, state: &[u8]) -> Result<bool> {
        let mut pipe = self.transfer(VhostTransferStateDirection::LOAD)?;
        // A backend that has seen enough closes its end.
        drop(pipe.write_all(state));
        drop(pipe.shutdown(Shutdown::Write));
        Ok(self.frontend.check_device_state().is_ok())
    }
}
