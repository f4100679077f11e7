//! What an engine may still ask of the kernel, by its configuration (`vonic_confinement`, ADR 0025).
use super::registry::Registry;
use crate::config::{Config, Seccomp, Uplink};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vonic_confinement::{Bounds, Capabilities, Files, Unlisted};

/// What the host says of itself, and what the standard library looks at.
const READ: &[&str] = &["/proc", "/sys", "/etc", "/run", "/dev/urandom", "/usr/lib"];
/// A tap's device belongs to whoever has CAP_NET_ADMIN.
const WRITE: &[&str] = &["/dev/null", "/dev/net/tun"];

/// What an engine with this configuration may do.
pub(super) fn bounds(dir: &Path, config: &Config) -> Bounds {
    let unlisted = match config.service.seccomp {
        Seccomp::Refuse => Unlisted::Refuse,
        Seccomp::Kill => Unlisted::Kill,
        Seccomp::Off => Unlisted::Allow,
    };
    let packet = config.networks.values().any(|network| matches!(network.uplink, Uplink::Packet(_)));
    let files = config.service.landlock.then(|| files(dir, config));
    Bounds { unlisted, packet, files, capabilities: Some(capabilities(dir, config, packet)) }
}

/// What it takes to move guests' connections, and forwards on low ports, may be wanted at any time.
fn capabilities(dir: &Path, config: &Config, packet: bool) -> Capabilities {
    let mut kept = Capabilities::NET_ADMIN | Capabilities::NET_BIND_SERVICE;
    if packet {
        kept = kept | Capabilities::NET_RAW;
    }
    // Root without it is a user as others are: his files are his own.
    let own = rustix::process::geteuid().as_raw();
    let folders = [dir.to_path_buf(), dir.join("vms.d"), config.service.runtime_dir.clone()];
    if folders.iter().any(|folder| folder.metadata().is_ok_and(|metadata| metadata.uid() != own)) {
        kept = kept | Capabilities::DAC_OVERRIDE;
    }
    kept
}

/// What this configuration has a use for where anybody may listen `from` this port on. Hooks move addresses, and with them guests' connections.
pub(super) fn needed(config: &Config, from: u16) -> Capabilities {
    let Config { service, networks, vms, .. } = config;
    let forwards = vms.values().flat_map(|vm| &vm.forwards).map(|forward| *forward.listen.ports.start());
    let low = forwards.chain(service.metrics_listen.map(|at| at.port())).any(|port| port < from);
    let of_uplink = |uplink: &Uplink| match uplink {
        Uplink::None | Uplink::Sockets => Capabilities::default(),
        Uplink::Tap(_) => Capabilities::NET_ADMIN,
        // Room for frames whatever `net.core.rmem_max` says takes the first.
        Uplink::Packet(_) => Capabilities::NET_ADMIN | Capabilities::NET_RAW,
    };
    let if_so = |is_so: bool, these: Capabilities| if is_so { these } else { Capabilities::default() };
    let others =
        if_so(low, Capabilities::NET_BIND_SERVICE) | if_so(!service.migration.is_empty(), Capabilities::NET_ADMIN);
    networks.values().fold(others, |needed, network| needed | of_uplink(&network.uplink))
}

fn files(dir: &Path, config: &Config) -> Files {
    let mut read: Vec<PathBuf> = READ.iter().map(PathBuf::from).collect();
    // Files are replaced by others that are moved to their places, and so are folders: what is known is where they lie.
    read.extend([dir, &config.service.resolv_conf].into_iter().flat_map(around));
    let mut write: Vec<PathBuf> = WRITE.iter().map(PathBuf::from).collect();
    let vms = dir.join("vms.d");
    // A VM that the API is given may be the first one.
    write.push(if vms.is_dir() { vms } else { dir.to_path_buf() });
    write.push(config.service.runtime_dir.clone());
    // Where a build for tests looks what it is to do.
    #[cfg(feature = "crash-points")]
    write.extend(std::env::var_os("VONIC_CRASH").map(PathBuf::from));
    Files { read, write }
}

/// A path, where it leads, and the folders that both lie in, unless that is everything.
fn around(path: &Path) -> Vec<PathBuf> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut all = vec![path.clone()];
    all.extend(path.canonicalize());
    let folders: Vec<PathBuf> = all.iter().filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
    all.extend(folders.into_iter().filter(|folder| folder.parent().is_some()));
    all
}

/// Confines the engine, before it has threads. What cannot be had is told, and missing: a guest is not to lose its network by that.
pub(super) fn confine(bounds: &Bounds) {
    match vonic_confinement::confine_engine(bounds) {
        Ok(confined) => {
            let missing = bounds.files.is_some() && !confined.files;
            log::debug!("confined: {confined:?}");
            if missing {
                log::info!("the kernel has no Landlock: the engine sees every file that its user may see");
            }
        }
        Err(error) => log::warn!("the engine's system calls are not confined: {error}"),
    }
}

impl Registry {
    /// Before the configuration is put in force: what it asks for and this engine may not is left to the next one.
    pub(super) fn leave_what_is_refused(&mut self, old: &Config) {
        if old.service.migration.is_empty() && !self.config.service.migration.is_empty() {
            log::warn!(
                "hooks have what vonicd has kept since it was started without any: restart it if they need other capabilities"
            );
        }
        let may = self.bounds.packet || self.bounds.unlisted == Unlisted::Allow;
        let wanted = bounds(&self.config_dir, &self.config);
        self.cables.leaves_packets |= !may && wanted.packet && self.history.is_some();
    }

    /// The configuration asks for more or for less than this engine may do: another one goes on.
    pub(super) fn confine_anew(&mut self) {
        let wanted = bounds(&self.config_dir, &self.config);
        if wanted != self.bounds && self.history.is_some() {
            log::info!("what the engine may do has changed: another engine goes on");
            self.bounds = wanted;
            self.upgrades.waits_for_reload = true;
        }
    }
}

/// For tests alone: does, as an intruder in this engine would, what the file `intrude` in the folder of crash points says, one attempt a line, and
/// writes down what came of it. `calls` stands for every call that is not on the list, `read PATH` and `write PATH` for a file.
#[cfg(feature = "crash-points")]
pub(super) fn intrude() {
    use std::fs;
    let Some(folder) = std::env::var_os("VONIC_CRASH").map(PathBuf::from) else { return };
    let attempt = |line: &str| -> String {
        let (what, path) = line.split_once(' ').unwrap_or((line, ""));
        let open = |flags| format!("{line}: {}\n", vonic_confinement::attempt_to_open(Path::new(path), flags));
        match what {
            "read" => open(libc::O_RDONLY),
            "write" => open(libc::O_WRONLY | libc::O_CREAT),
            _ => vonic_confinement::attempts().iter().map(|(name, error)| format!("{name}: {error}\n")).collect(),
        }
    };
    let look = move || {
        loop {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let Ok(order) = fs::read_to_string(folder.join("intrude")) else { continue };
            // Whoever comes after this one is not to do it again.
            let _ = fs::remove_file(folder.join("intrude"));
            let report: String = order.lines().map(attempt).collect();
            let _ = fs::write(folder.join("intruded.new"), report);
            let _ = fs::rename(folder.join("intruded.new"), folder.join("intruded"));
        }
    };
    let _ = std::thread::Builder::new().name("intruder".into()).spawn(look);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load_sources};

    #[test]
    fn a_configuration_needs_what_its_parts_need() {
        let needed = |service: &str, vm: &str| {
            let vms = [("a".to_string(), format!("mac = '52:54:00:00:00:02'\n{vm}"))].into();
            let config = load_sources(Path::new("/"), &Sources { service: Some(service.into()), vms }).unwrap();
            needed(&config, 1024)
        };
        let forward = |listen: &str| {
            format!("address4 = '192.0.2.2'\n[[forward]]\nproto = 'tcp'\nlisten = '*:{listen}'\nport = 1\n")
        };
        let (admin, raw, low) = (Capabilities::NET_ADMIN, Capabilities::NET_RAW, Capabilities::NET_BIND_SERVICE);
        assert!(needed("", &forward("1024-1025")).is_empty());
        assert!(needed("metrics_listen = '127.0.0.1:9477'", "").is_empty());
        assert_eq!(needed("", &forward("1023-1024")), low);
        assert_eq!(needed("metrics_listen = '[::1]:80'", ""), low);
        assert_eq!(needed("[migration]\narrive = ['/bin/true']", ""), admin);
        assert_eq!(needed("[network.default]\nuplink = 'tap:br0'", ""), admin);
        assert_eq!(
            needed("metrics_listen = '[::]:1'\n[network.default]\nuplink = 'packet:eth0'", ""),
            admin | raw | low
        );
    }
}
