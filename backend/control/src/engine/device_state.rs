//! What of a port goes with its guest to another host, in the VMM's migration stream (DEVICE_STATE).
use super::registry::{Entry, Registry};
use serde::{Deserialize, Serialize};
use vonic_datapath::Way;

/// The only format so far.
const VERSION: u32 = 1;

/// A port as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortState {
    /// The format; what follows is read only if it is known.
    vonic: u32,
    /// Whose it is.
    mac: String,
    /// Frames and bytes from the guest and to it.
    guest_to_host: (u64, u64),
    host_to_guest: (u64, u64),
}

/// The format alone, of whatever version.
#[derive(Deserialize)]
struct Format {
    vonic: u32,
}

impl Registry {
    /// The state of a VM's port. Its rings are stopped.
    ///
    /// # Errors
    /// For the log.
    pub(super) fn save_state(&self, name: &str) -> Result<Vec<u8>, String> {
        let entry = self.vms.get(name).ok_or("there is no such VM any more")?;
        serde_json::to_vec(&save(entry)).map_err(|error| error.to_string())
    }

    /// Takes in the state of a VM's port as it was saved on another host. All of it is checked before anything changes.
    ///
    /// # Errors
    /// For the log: what is wrong with it.
    pub(super) fn load_state(&mut self, name: &str, bytes: &[u8]) -> Result<(), String> {
        let entry = self.vms.get(name).ok_or("there is no such VM any more")?;
        let format: Format = serde_json::from_slice(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        if format.vonic != VERSION {
            return Err(format!("it has format {}, this vonicd knows {VERSION}: update it first", format.vonic));
        }
        let state: PortState = serde_json::from_slice(bytes).map_err(|error| format!("it is damaged: {error}"))?;
        load(entry, &state)?;
        log::info!("{name}: its guest has come from another host");
        Ok(())
    }
}

fn save(entry: &Entry) -> PortState {
    let Entry { vm, stats, .. } = entry;
    PortState {
        vonic: VERSION,
        mac: vm.mac.to_string(),
        guest_to_host: stats.traffic(Way::GuestToHost),
        host_to_guest: stats.traffic(Way::HostToGuest),
    }
}

fn load(entry: &Entry, state: &PortState) -> Result<(), String> {
    let PortState { vonic: _, mac, guest_to_host, host_to_guest } = state;
    let own = entry.vm.mac.to_string();
    if *mac != own {
        return Err(format!("it is of a guest with MAC address {mac}, this VM's file says {own}"));
    }
    entry.stats.resume(Way::GuestToHost, *guest_to_host);
    entry.stats.resume(Way::HostToGuest, *host_to_guest);
    Ok(())
}
