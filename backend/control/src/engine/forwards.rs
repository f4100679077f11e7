//! Listening sockets of forwards, kept over reloads: a forward that stays is never closed.
use crate::config::{Family, Forward, ListenHost, Vm};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use vonic_datapath::ForwardSpec;
use vonic_uplink::Listener;

/// Where a listener listens: address and, for an interface, its name.
pub(super) type Place = (SocketAddr, Option<String>);

/// The listeners in use.
#[derive(Default)]
pub struct Forwards {
    open: HashMap<Place, Weak<Listener>>,
}

impl Forwards {
    /// Opens what a VM's forwards need; those in use already are shared.
    ///
    /// # Errors
    /// One message for each port that cannot be listened on, beside what could be opened.
    pub fn open(&mut self, vm: &Vm) -> (Vec<ForwardSpec>, Vec<String>) {
        self.open.retain(|_, listener| listener.strong_count() > 0);
        let mut specs = Vec::new();
        let mut errors = Vec::new();
        for forward in &vm.forwards {
            let mut listens = false;
            for (place, guest_port) in ports(vm, forward) {
                let port = place.0.port();
                match self.listener(place) {
                    Ok(listener) => {
                        listens = true;
                        specs.push(ForwardSpec { listener, guest_port });
                    }
                    // Not asked for by name: a host without IPv6 has none of its addresses.
                    Err(error) if listens && is_familys_lack(&error) => {}
                    Err(error) => errors.push(explain(&forward.listen.to_string(), port, &error)),
                }
            }
        }
        (specs, errors)
    }

    /// The listeners in use at `wanted` places.
    pub fn hold(&self, wanted: &HashSet<Place>) -> Vec<Arc<Listener>> {
        wanted.iter().filter_map(|place| self.open.get(place)?.upgrade()).collect()
    }

    /// A VM's forwards in use at `wanted` places; nothing is opened.
    pub fn kept(&self, vm: &Vm, wanted: &HashSet<Place>) -> Vec<ForwardSpec> {
        let kept = |(place, guest_port): (Place, u16)| {
            let listener = self.open.get(&place).filter(|_| wanted.contains(&place))?.upgrade()?;
            Some(ForwardSpec { listener, guest_port })
        };
        vm.forwards.iter().flat_map(|forward| ports(vm, forward)).filter_map(kept).collect()
    }

    /// Whether a VM has a listener on an interface that has gone or bears another name now. Nothing arrives there any more, not
    /// even when an interface of that name comes back.
    pub fn is_stale(&self, vm: &Vm) -> bool {
        let stale = |(place, _): (Place, u16)| {
            self.open.get(&place).and_then(Weak::upgrade).is_some_and(|listener| !is_current(&listener, &place))
        };
        uses_interface(vm) && vm.forwards.iter().flat_map(|forward| ports(vm, forward)).any(stale)
    }

    fn listener(&mut self, place: Place) -> std::io::Result<Arc<Listener>> {
        if let Some(listener) = self.open.get(&place).and_then(Weak::upgrade).filter(|l| is_current(l, &place)) {
            return Ok(listener);
        }
        let listener = Arc::new(Listener::bind(place.0, place.1.as_deref())?);
        self.open.insert(place, Arc::downgrade(&listener));
        Ok(listener)
    }
}

/// Whether a VM has forwards that listen on interfaces.
pub(super) fn uses_interface(vm: &Vm) -> bool {
    vm.forwards.iter().any(|forward| matches!(forward.listen.host, ListenHost::Interface(_)))
}

/// Whether a listener still is where it was opened.
fn is_current(listener: &Listener, place: &Place) -> bool {
    place.1.as_ref().is_none_or(|name| listener.is_on(name))
}

/// Every place at which VMs listen.
pub(super) fn places<'a>(vms: impl IntoIterator<Item = &'a Vm>) -> HashSet<Place> {
    let all = |vm: &'a Vm| vm.forwards.iter().flat_map(move |forward| ports(vm, forward));
    vms.into_iter().flat_map(all).map(|(place, _)| place).collect()
}

/// Each port of a forward, in each family that it listens in and the guest has an address of, IPv4 first: where it listens, and the
/// guest's port.
fn ports(vm: &Vm, forward: &Forward) -> impl Iterator<Item = (Place, u16)> {
    let wanted = |family: &Family| forward.listen.host.is_of(*family) && vm.address(*family).is_some();
    let families = Family::ALL.into_iter().filter(wanted);
    families.flat_map(move |family| {
        let ports = forward.listen.ports.clone().enumerate();
        ports.map(move |(i, port)| (place(forward, family, port), forward.port + i as u16))
    })
}

fn place(forward: &Forward, family: Family, port: u16) -> Place {
    match &forward.listen.host {
        ListenHost::Address(address) => (SocketAddr::new(*address, port), None),
        ListenHost::Interface(name) => (SocketAddr::new(family.any(), port), Some(name.clone())),
        ListenHost::Any => (SocketAddr::new(family.any(), port), None),
    }
}

/// Whether a host answers so that lacks a family of addresses, as Linux does with ipv6.disable=1.
fn is_familys_lack(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Where the kernel says from which port on anybody may listen (ip(7)).
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

fn explain(listen: &str, port: u16, error: &std::io::Error) -> String {
    let mend = match error.kind() {
        ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port".into(),
        ErrorKind::PermissionDenied => privilege(port, unprivileged_start()),
        ErrorKind::AddrNotAvailable => "the host does not have this address: add it, or write one of its own".into(),
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            "the host does not have this interface: make it, or write one that it has".into()
        }
        _ => "check the address or the interface's name".into(),
    };
    format!("forward {listen}: cannot listen on port {port}: {error}; {mend}")
}

/// The first port that needs no privilege in this network namespace; 1024 unless the administrator has moved it.
fn unprivileged_start() -> u16 {
    std::fs::read_to_string(UNPRIVILEGED).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// What lets a program without privilege listen on `port`.
fn privilege(port: u16, start: u16) -> String {
    if port >= start {
        return "the host's rules forbid it to this user: ask the administrator, or choose another address or port"
            .into();
    }
    let program = std::env::current_exe().map_or("vonicd".into(), |path| path.display().to_string());
    format!(
        "ports below {start} need a privilege: choose one from {start} on; or, as root, open them to everybody by `sysctl \
         net.ipv4.ip_unprivileged_port_start={port}`; or give it to vonicd by `setcap cap_net_bind_service=ep {program}` \
         (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE) and start it again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_port_comes_with_what_to_do() {
        let error = || std::io::Error::from(ErrorKind::PermissionDenied);
        let low = privilege(80, 1024);
        for words in ["from 1024 on", "net.ipv4.ip_unprivileged_port_start=80", "setcap cap_net_bind_service=ep /"] {
            assert!(low.contains(words), "{words:?} is not in {low}");
        }
        assert!(!privilege(8080, 1024).contains("setcap"));
        assert!(explain("*:80-81", 81, &error()).starts_with("forward *:80-81: cannot listen on port 81: "));
    }
}
