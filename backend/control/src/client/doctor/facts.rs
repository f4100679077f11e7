//! What is known of this host and of vonicd, before anything is judged. Nothing is changed to know it.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::probe;
use crate::api::types::{EngineStatus, Health, VmDetail};
use crate::config::{self, Config, Uplink};
use crate::engine::resolvers;

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub config_dir: PathBuf,
    /// Absent if vonic.toml is bad.
    pub config: Option<Config>,
    /// What is wrong with the files, one line each.
    pub config_errors: Vec<String>,
    pub host: Host,
    /// What vonicd says.
    pub service: Option<Running>,
    /// Why it says nothing.
    pub silence: Option<String>,
}

/// What vonicd says.
#[derive(Debug, Default)]
pub(super) struct Running {
    pub health: Health,
    pub engine: Option<EngineStatus>,
    pub vms: Vec<VmDetail>,
    /// The same a moment later, by name.
    pub later: BTreeMap<String, VmDetail>,
}

/// The host.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// As `uname -r` says it.
    pub kernel: String,
    /// Of vonicd if it runs and may be looked at, else of this program.
    pub process: Process,
    pub of_vonicd: bool,
    /// Why the kernel has no pidfd, no sealed memory, and no `/dev/net/tun`.
    pub no_pidfd: Option<String>,
    pub no_sealing: Option<String>,
    pub no_tun: Option<String>,
    /// Files under /proc/sys, without their line's end.
    pub sysctls: BTreeMap<&'static str, String>,
    /// Bytes that are free in /dev/shm.
    pub shm_free: Option<u64>,
    /// /proc/meminfo in its own units: KiB, or pages.
    pub memory: BTreeMap<String, u64>,
    /// The bridges and interfaces that uplinks name; absent ones are not there.
    pub links: BTreeMap<String, Link>,
    /// What vonicd's files are like; absent ones are not there.
    pub paths: BTreeMap<PathBuf, File>,
    /// Whom names are asked of, and why one did not answer.
    pub resolvers: Vec<(SocketAddr, Option<String>)>,
    /// What cannot be used in resolv.conf.
    pub resolv_conf: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// The hard limit of open files: vonicd raises its soft one to that.
    pub files: Option<u64>,
    /// Effective capabilities, as bits (capabilities(7)).
    pub capabilities: Option<u64>,
    /// The effective user.
    pub user: Option<u32>,
    /// Its program was replaced on the disk since it was started.
    pub replaced: bool,
}

/// An interface.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Link {
    pub mtu: Option<u32>,
    pub is_bridge: bool,
    /// It is not down, for what is known.
    pub up: bool,
}

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct File {
    pub is_dir: bool,
    pub is_socket: bool,
    /// Permission bits.
    pub mode: u32,
    pub user: u32,
}

/// Files under /proc/sys that checks look at.
const SYSCTLS: [&str; 6] = [
    "net/core/somaxconn",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv4/ping_group_range",
];

/// Looks around. `service` is what vonicd has said. Without a folder for the configuration it is the one that vonicd was started with.
pub(super) fn gather(config_dir: Option<&Path>, service: Result<Running, String>) -> Facts {
    let (service, silence) = match service {
        Ok(running) => (Some(running), None),
        Err(why) => (None, Some(why)),
    };
    let pid = service.as_ref().and_then(|running| Some(running.engine.as_ref()?.pid));
    let theirs = || pid.and_then(|pid| config_dir_of(Path::new(&format!("/proc/{pid}"))));
    let config_dir = config_dir.map(Path::to_path_buf).or_else(theirs).unwrap_or_else(|| "/etc/vonic".into());
    let (config, errors, _) = config::load_lenient(&config_dir);
    let host = host(&config_dir, config.as_ref(), pid);
    let config_errors = errors.0.iter().map(ToString::to_string).collect();
    Facts { config_dir, config, config_errors, host, service, silence }
}

/// The folder that a vonicd was started with, if it was said and may be known.
fn config_dir_of(process: &Path) -> Option<PathBuf> {
    let line = fs::read(process.join("cmdline")).ok()?;
    let dir = config_dir_in(&String::from_utf8_lossy(&line))?;
    let cwd = if dir.is_relative() { fs::read_link(process.join("cwd")).ok()? } else { PathBuf::new() };
    Some(cwd.join(dir))
}

/// The same from its arguments (proc_pid_cmdline(5)).
fn config_dir_in(line: &str) -> Option<PathBuf> {
    let mut arguments = line.split('\0');
    let option = arguments.find(|argument| argument.starts_with("--config-dir"))?;
    match option.strip_prefix("--config-dir=") {
        Some(dir) => Some(dir.into()),
        None => arguments.next().map(PathBuf::from),
    }
}

fn host(config_dir: &Path, config: Option<&Config>, pid: Option<u32>) -> Host {
    let theirs = pid.and_then(vonicd);
    let of_vonicd = theirs.is_some();
    let (resolvers, resolv_conf) = config.map(names).unwrap_or_default();
    Host {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        process: theirs.or_else(|| process(Path::new("/proc/self"))).unwrap_or_default(),
        of_vonicd,
        no_pidfd: pidfd_open(getpid(), PidfdFlags::empty()).err().map(|e| e.to_string()),
        no_sealing: sealing().err().map(|e| e.to_string()),
        no_tun: fs::metadata("/dev/net/tun").err().map(|e| e.to_string()),
        sysctls: SYSCTLS.iter().filter_map(|name| Some((*name, read(&format!("/proc/sys/{name}"))?))).collect(),
        shm_free: rustix::fs::statvfs("/dev/shm").ok().map(|room| room.f_bavail.saturating_mul(room.f_frsize)),
        memory: meminfo(&read("/proc/meminfo").unwrap_or_default()),
        links: config.map(links).unwrap_or_default(),
        paths: paths(config_dir, config),
        resolvers,
        resolv_conf,
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_string())
}

/// Memory that cannot shrink under whoever maps it, as checkpoints are.
fn sealing() -> rustix::io::Result<()> {
    let memory = rustix::fs::memfd_create("vonic-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW)
}

/// What is known of vonicd by its engine's process. The engine has given up capabilities that its configuration has no use for, and that another one's may
/// have: what vonicd has, the master has.
fn vonicd(engine: u32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{engine}"));
    let mut found = process(&dir)?;
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim)?;
    let master = Path::new("/proc").join(parent);
    let program = |dir: &Path| fs::read_link(dir.join("exe")).ok();
    if program(&master).is_some_and(|own| program(&dir) == Some(own)) {
        found.capabilities = process(&master).map_or(found.capabilities, |master| master.capabilities);
    }
    Some(found)
}

/// What `/proc/PID` says of a process, if it may be looked at.
fn process(dir: &Path) -> Option<Process> {
    let limits = fs::read_to_string(dir.join("limits")).ok()?;
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let program = fs::read_link(dir.join("exe"));
    let replaced = program.is_ok_and(|program| program.to_string_lossy().ends_with(" (deleted)"));
    Some(Process { replaced, ..process_of(&limits, &status) })
}

/// The same from the texts of its files (proc_pid_limits(5), proc_pid_status(5)).
fn process_of(limits: &str, status: &str) -> Process {
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let hard = files.and_then(|line| line.split_ascii_whitespace().nth(1));
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Process {
        files: hard.map(|hard| hard.parse().unwrap_or(u64::MAX)),
        capabilities: field("CapEff").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()),
        user: field("Uid").and_then(|ids| ids.split_ascii_whitespace().nth(1)?.parse().ok()),
        replaced: false,
    }
}

fn meminfo(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        Some((name.to_string(), rest.split_ascii_whitespace().next()?.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

fn links(config: &Config) -> BTreeMap<String, Link> {
    let named = config.networks.values().filter_map(|network| match &network.uplink {
        Uplink::Tap(name) | Uplink::Packet(name) => Some(name),
        Uplink::None | Uplink::Sockets => None,
    });
    let link = |name: &String| {
        let dir = Path::new("/sys/class/net").join(name);
        let text = |file: &str| read(&dir.join(file).to_string_lossy());
        let mtu = text("mtu").and_then(|mtu| mtu.parse().ok());
        let up = text("operstate").is_none_or(|state| state != "down");
        dir.exists().then(|| (name.clone(), Link { mtu, is_bridge: dir.join("bridge").exists(), up }))
    };
    named.filter_map(link).collect()
}

fn paths(config_dir: &Path, config: Option<&Config>) -> BTreeMap<PathBuf, File> {
    let mut paths = vec![config_dir.to_path_buf(), config_dir.join("vonic.toml"), config_dir.join("vms.d")];
    if let Some(config) = config {
        let service = &config.service;
        paths.extend([service.runtime_dir.clone(), service.api_socket()]);
        paths.extend(config.vms.keys().map(|vm| config_dir.join("vms.d").join(format!("{vm}.toml"))));
        paths.extend(config.vms.keys().map(|vm| service.vm_socket(vm)));
    }
    let file = |path: PathBuf| {
        let found = fs::metadata(&path).ok()?;
        let mode = found.permissions().mode() & 0o7777;
        let is_socket = found.file_type().is_socket();
        Some((path, File { is_dir: found.is_dir(), is_socket, mode, user: found.uid() }))
    };
    paths.into_iter().filter_map(file).collect()
}

/// The resolvers that any network's gateway asks, with why one did not answer, and what is wrong with resolv.conf.
fn names(config: &Config) -> (Vec<(SocketAddr, Option<String>)>, Vec<String>) {
    let asking: Vec<_> = config.networks.values().filter(|network| network.uplink == Uplink::Sockets).collect();
    let mut all = BTreeSet::new();
    let mut complaints = Vec::new();
    if asking.iter().any(|network| network.dns.is_none()) {
        match resolvers::named(&config.service.resolv_conf) {
            Ok((list, wrong)) => {
                all.extend(list);
                complaints = wrong;
            }
            Err(error) => complaints.push(format!("it cannot be read: {error}")),
        }
    }
    all.extend(asking.iter().flat_map(|network| network.dns.iter().flatten()).map(|ip| SocketAddr::new(*ip, 53)));
    (probe::ask(all.into_iter().collect()), complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        let status = "Name:\tvonicd\nUid:\t0\t997\t0\t0\nCapEff:\t0000000000003000\n";
        let process = process_of(limits, status);
        let expected = Process { files: Some(524_288), capabilities: Some(0x3000), user: Some(997), replaced: false };
        assert_eq!(process, expected);
        assert_eq!(process_of(&limits.replace("524288", "unlimited"), "").files, Some(u64::MAX));
        assert_eq!(process_of("", "x"), Process::default());
        let memory = meminfo("MemTotal:       32 kB\nHugePages_Free:    7\nbad\n");
        assert_eq!((memory.get("MemTotal"), memory.get("HugePages_Free"), memory.len()), (Some(&32), Some(&7), 2));
    }

    #[test]
    fn the_configuration_that_vonicd_was_started_with_is_found() {
        let dir = |line: &str| config_dir_in(line).map(|dir| dir.display().to_string());
        assert_eq!(dir("vonicd\0--config-dir\0/etc/other\0").as_deref(), Some("/etc/other"));
        assert_eq!(dir("vonicd\0--standalone\0--config-dir=etc\0").as_deref(), Some("etc"));
        assert_eq!(dir("vonicd\0"), None);
        assert_eq!(config_dir_of(Path::new("/proc/self")), None, "this is no vonicd");
    }

    /// This machine, whatever it is.
    #[test]
    fn a_host_without_vonicd_is_known() {
        let facts = gather(Some(Path::new("/nowhere/at/all")), Err("vonicd is not running".into()));
        assert!(facts.config.is_none() && !facts.host.of_vonicd && facts.host.process.files.is_some());
        assert!(facts.config_errors[0].contains("no such directory"), "{:?}", facts.config_errors);
        assert!(!facts.host.kernel.is_empty() && facts.host.memory.contains_key("MemTotal"));
    }
}
