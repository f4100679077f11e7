//! The host's resolvers: what its resolv.conf(5) names, and the news that the file has changed.
//!
//! The file is usually a link, and replaced rather than written: every directory on the way to it is watched.
use super::Input;
use super::registry::Registry;
use crate::config::{Network, Uplink, names::RESOLVERS};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The port of DNS.
const PORT: u16 = 53;
/// The most links on the way to the file, as the kernel has it (path_resolution(7)).
const LINKS: usize = 40;
/// Of a longer file only so many bytes are read.
const FILE_MAX: u64 = 1 << 16;
/// After a change, how long it is waited for more; and how often the file is looked at where changes cannot be watched.
const PAUSE: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(10);

/// The host's resolvers.
#[derive(Default)]
pub(super) struct Resolvers {
    list: Arc<[SocketAddr]>,
    watch: Option<Arc<OwnedFd>>,
    /// What was logged of the file.
    complaints: Vec<String>,
}

impl Resolvers {
    /// The ones that the gateway of a network asks; `None`: it asks nobody.
    pub fn of(&self, network: &Network) -> Option<Arc<[SocketAddr]>> {
        if network.uplink != Uplink::Sockets {
            return None;
        }
        match network.dns.as_deref() {
            Some([]) => None,
            Some(own) => Some(own.iter().map(|address| SocketAddr::new(*address, PORT)).collect()),
            None => Some(Arc::clone(&self.list)),
        }
    }

    /// Reads the file again; true if it names others than before. With none that can be asked the last ones stay.
    fn look(&mut self, file: &Path) -> bool {
        let unwatched = self.watch_ways(file);
        let (list, mut complaints) = match read(file) {
            Ok(text) => parse(&text, interface_index),
            Err(error) => (Vec::new(), vec![format!("it cannot be read: {error}")]),
        };
        complaints.extend(unwatched);
        let empty = list.is_empty().then(|| "it names no resolver that can be asked: the last ones stay".into());
        let complaints: Vec<String> = complaints.into_iter().chain(empty).collect();
        for complaint in complaints.iter().filter(|complaint| !self.complaints.contains(complaint)) {
            log::warn!("{}: {complaint}", file.display());
        }
        self.complaints = complaints;
        if list.is_empty() || *list == *self.list {
            return false;
        }
        self.list = list.into();
        let texts: Vec<String> = self.list.iter().map(|to| to.ip().to_string()).collect();
        log::info!("the host's resolvers: {}", texts.join(", "));
        true
    }

    /// Watches the directories of the file, and of every link that leads to it; those that are watched already stay so. Says what goes
    /// unseen.
    fn watch_ways(&mut self, file: &Path) -> Vec<String> {
        let Some(watch) = &self.watch else { return Vec::new() };
        let news =
            WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        let unseen = |dir: PathBuf| {
            let error = inotify::add_watch(watch, &dir, news).err()?;
            Some(format!("changes in {} go unseen until the next reload: {error}", dir.display()))
        };
        ways(file).into_iter().filter_map(unseen).collect()
    }
}

/// The file's text. A pipe is none: whoever reads it waits for its writer.
fn read(file: &Path) -> io::Result<String> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The resolvers that a resolv.conf(5) names, and what cannot be used in it.
///
/// # Errors
/// The system's: it cannot be read.
pub(crate) fn named(file: &Path) -> io::Result<(Vec<SocketAddr>, Vec<String>)> {
    Ok(parse(&read(file)?, interface_index))
}

impl Registry {
    /// Begins to follow the host's resolvers.
    pub(super) fn open_resolvers(&mut self) {
        let watch = inotify::init(CreateFlags::CLOEXEC).map_err(io::Error::from).map(Arc::new);
        let to = self.sender();
        let watched = watch.as_ref().ok().cloned();
        let thread = std::thread::Builder::new().name("resolvers".into()).spawn(move || tell(watched.as_deref(), &to));
        if let Err(error) = watch.as_ref().map(drop).and(thread.as_ref().map(drop)) {
            log::warn!("changes of the host's resolvers are seen late or not at all: {error}");
        }
        self.resolvers.watch = watch.ok();
        self.look_for_resolvers();
    }

    /// Reads the file again, and tells the worker of every network that is concerned.
    pub(super) fn look_for_resolvers(&mut self) {
        if self.resolvers.look(&self.config.service.resolv_conf) {
            let all: Vec<Network> = self.config.networks.values().filter(|n| n.dns.is_none()).cloned().collect();
            all.iter().for_each(|network| self.set_network(network));
        }
    }
}

/// Tells of every change in the watched directories, and where nothing can be watched, that it is time to look.
fn tell(watch: Option<&OwnedFd>, to: &Sender<Input>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        match watch.map(|watch| inotify::Reader::new(watch, &mut buffer).next().map(drop)) {
            Some(Ok(()) | Err(rustix::io::Errno::INTR)) => std::thread::sleep(PAUSE),
            None | Some(Err(_)) => std::thread::sleep(LOOK),
        }
        if to.send(Input::Resolvers).is_err() {
            return;
        }
    }
}

/// The directory of a file, and if it is a link, of what it leads to, and so on. Of one that is not there yet, the next one above it.
fn ways(file: &Path) -> BTreeSet<PathBuf> {
    let mut dirs = BTreeSet::new();
    let mut at = file.to_path_buf();
    for _ in 0..LINKS {
        let Some(dir) = at.parent() else { break };
        let next = std::fs::read_link(&at).ok().map(|target| dir.join(target));
        dirs.extend(dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_path_buf));
        match next {
            Some(target) => at = target,
            None => break,
        }
    }
    dirs
}

/// The resolvers that a resolv.conf(5) names, and what cannot be used in it. Of everything else nothing is said: it is about how a
/// program asks.
pub(crate) fn parse(text: &str, index: impl Fn(&str) -> Option<u32>) -> (Vec<SocketAddr>, Vec<String>) {
    let (mut list, mut complaints) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(word)) = (words.next(), words.next()) else { continue };
        match address(word, &index) {
            Some(address) if !list.contains(&address) => list.push(address),
            Some(_) => {}
            None => complaints.push(format!("nameserver {word}: this is no address of a resolver: it is passed over")),
        }
    }
    list.truncate(RESOLVERS);
    (list, complaints)
}

/// An address, an IPv6 link-local one with its interface (RFC 4007 §11).
fn address(word: &str, index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((address, interface)) = word.split_once('%') {
        let scope = interface.parse().ok().or_else(|| index(interface))?;
        let address: Ipv6Addr = address.parse().ok()?;
        let is_one = !address.is_multicast() && !address.is_unspecified();
        return is_one.then(|| SocketAddrV6::new(address, PORT, 0, scope).into());
    }
    let address: IpAddr = word.parse().ok()?;
    (!address.is_multicast()).then(|| match address {
        // "This host", to a resolver's library.
        IpAddr::V4(any) if any.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], PORT)),
        IpAddr::V6(any) if any.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT),
        address => SocketAddr::new(address, PORT),
    })
}

/// An interface's number, by which the kernel tells links apart.
fn interface_index(name: &str) -> Option<u32> {
    if name.contains('/') {
        return None;
    }
    std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_programs_read_it() {
        let text = "# by hand\n; nameserver 198.51.100.9\nsearch example.org\nnameserver 198.51.100.1\n  nameserver\t2001:db8::1 # two\n\
                    nameserver fe80::1%eth7\nnameserver 198.51.100.1\nnameserver 0.0.0.0\noptions edns0\nnameserver\nnameserver x\n";
        let (list, complaints) = parse(text, |name| (name == "eth7").then_some(7));
        let texts: Vec<String> = list.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["198.51.100.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53", "127.0.0.1:53"]);
        assert_eq!(complaints.len(), 1, "{complaints:?}");
        assert!(complaints[0].starts_with("nameserver x: "));
        for bad in ["fe80::1%nowhere", "ff02::1%2", "::%2", "224.0.0.1", "1.2.3", "1.2.3.4:53"] {
            assert_eq!(parse(&format!("nameserver {bad}"), |_| None).0, [], "{bad}");
        }
        let many: String = (0..20).map(|n| format!("nameserver 198.51.100.{n}\n")).collect();
        assert_eq!(parse(&many, |_| None).0.len(), RESOLVERS);
        assert_eq!(interface_index("lo"), Some(1));
        assert_eq!(interface_index("../lo"), None);
    }

    #[test]
    fn every_directory_on_the_way_is_watched_and_the_last_good_list_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a", "b", "c"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::os::unix::fs::symlink("../b/link", at("a/resolv.conf")).unwrap();
        std::os::unix::fs::symlink(at("c/real"), at("b/link")).unwrap();
        let file = at("a/resolv.conf");
        assert_eq!(ways(&file), [at("a"), at("a/../b"), at("c")].into());
        let mut resolvers = Resolvers::default();
        assert!(!resolvers.look(&file));
        std::fs::write(at("c/real"), "nameserver 198.51.100.1\n").unwrap();
        assert!(resolvers.look(&file) && !resolvers.look(&file));
        std::fs::write(at("c/real"), "").unwrap();
        assert!(!resolvers.look(&file));
        assert_eq!(*resolvers.list, ["198.51.100.1:53".parse().unwrap()]);
        // What is not there yet is waited for in what is; what is no file is not waited for.
        std::os::unix::fs::symlink(at("later/sub/real"), at("early")).unwrap();
        assert_eq!(ways(&at("early")), [dir.path().to_path_buf()].into());
        assert!(!resolvers.look(&at("early")) && !resolvers.look(dir.path()));
        // A link that leads to itself has an end here, too.
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        assert_eq!(ways(&at("loop")), [dir.path().to_path_buf()].into());
    }
}
