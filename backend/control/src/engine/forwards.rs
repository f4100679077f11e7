//! Listening sockets of forwards, kept over reloads: a forward that stays is never closed.
use crate::config::{Family, Forward, ListenHost, Protocol, Vm};
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use vonic_datapath::{ForwardSocket, ForwardSpec};
use vonic_uplink::{BoundTo, Inherited, Listener, UdpListener, is_on_interface};

/// Where a listener listens: protocol, address and, for an interface, its name.
pub(super) type Place = (Protocol, SocketAddr, Option<String>);

/// The listeners in use.
#[derive(Default)]
pub struct Forwards {
    open: HashMap<Place, Open>,
    /// Those of the engine before, until everything is open: who listens at the same place takes them.
    inherited: HashMap<Place, ForwardSocket>,
}

/// A listener that lives as long as somebody uses it.
enum Open {
    Tcp(Weak<Listener>),
    Udp(Weak<UdpListener>),
}

impl Open {
    fn new(socket: &ForwardSocket) -> Open {
        match socket {
            ForwardSocket::Tcp(listener) => Open::Tcp(Arc::downgrade(listener)),
            ForwardSocket::Udp(listener) => Open::Udp(Arc::downgrade(listener)),
        }
    }

    fn upgrade(&self) -> Option<ForwardSocket> {
        match self {
            Open::Tcp(listener) => listener.upgrade().map(ForwardSocket::Tcp),
            Open::Udp(listener) => listener.upgrade().map(ForwardSocket::Udp),
        }
    }
}

impl Forwards {
    /// Takes over a listening socket of the engine before, with what waits in its queues.
    pub fn inherit(&mut self, socket: Inherited, (address, interface): BoundTo) {
        let (protocol, socket) = match socket {
            Inherited::Tcp(listener) => (Protocol::Tcp, ForwardSocket::Tcp(Arc::new(listener))),
            Inherited::Udp(listener) => (Protocol::Udp, ForwardSocket::Udp(Arc::new(listener))),
        };
        self.inherited.insert((protocol, address, interface), socket);
    }

    /// Closes what nobody has taken of the engine before.
    pub fn end_inheritance(&mut self) {
        self.inherited.clear();
    }

    /// Opens what a VM's forwards need; those in use already are shared.
    ///
    /// # Errors
    /// One message for each port that cannot be listened on, beside what could be opened.
    pub fn open(&mut self, vm: &Vm) -> (Vec<ForwardSpec>, Vec<String>) {
        self.open.retain(|_, open| open.upgrade().is_some());
        let mut specs = Vec::new();
        let mut errors = Vec::new();
        for forward in &vm.forwards {
            let mut listens = false;
            for (place, guest_port) in ports(vm, forward) {
                let port = place.1.port();
                match self.listener(place) {
                    Ok(socket) => {
                        listens = true;
                        specs.push(ForwardSpec { socket, guest_port, failover: forward.failover });
                    }
                    // Not asked for by name: a host without IPv6 has none of its addresses.
                    Err(error) if listens && is_familys_lack(&error) => {}
                    Err(error) => errors.push(explain(forward, port, &error)),
                }
            }
        }
        (specs, errors)
    }

    /// The listeners in use at `wanted` places.
    pub fn hold(&self, wanted: &HashSet<Place>) -> Vec<ForwardSocket> {
        wanted.iter().filter_map(|place| self.open.get(place)?.upgrade()).collect()
    }

    /// A VM's forwards in use at `wanted` places; nothing is opened.
    pub fn kept(&self, vm: &Vm, wanted: &HashSet<Place>) -> Vec<ForwardSpec> {
        let kept = |forward: &Forward, (place, guest_port): (Place, u16)| {
            let socket = self.open.get(&place).filter(|_| wanted.contains(&place))?.upgrade()?;
            Some(ForwardSpec { socket, guest_port, failover: forward.failover })
        };
        let all = vm.forwards.iter().flat_map(|forward| ports(vm, forward).map(move |port| (forward, port)));
        all.filter_map(|(forward, port)| kept(forward, port)).collect()
    }

    /// Whether a VM has a listener on an interface that has gone or bears another name now. Nothing arrives there any more, not
    /// even when an interface of that name comes back.
    pub fn is_stale(&self, vm: &Vm) -> bool {
        let stale = |(place, _): (Place, u16)| {
            self.open.get(&place).and_then(Open::upgrade).is_some_and(|socket| !is_current(&socket, &place))
        };
        uses_interface(vm) && vm.forwards.iter().flat_map(|forward| ports(vm, forward)).any(stale)
    }

    fn listener(&mut self, place: Place) -> std::io::Result<ForwardSocket> {
        if let Some(socket) = self.open.get(&place).and_then(Open::upgrade).filter(|s| is_current(s, &place)) {
            return Ok(socket);
        }
        let (protocol, address, interface) = &place;
        let inherited = self.inherited.remove(&place).filter(|socket| is_current(socket, &place));
        let socket = match (inherited, protocol) {
            (Some(socket), _) => socket,
            (None, Protocol::Udp) => ForwardSocket::Udp(Arc::new(UdpListener::bind(*address, interface.as_deref())?)),
            // ICMP has no ports: no file has such a forward.
            (None, Protocol::Tcp | Protocol::Icmp) => {
                ForwardSocket::Tcp(Arc::new(Listener::bind(*address, interface.as_deref())?))
            }
        };
        self.open.insert(place, Open::new(&socket));
        Ok(socket)
    }
}

/// Whether a VM has forwards that listen on interfaces.
pub(super) fn uses_interface(vm: &Vm) -> bool {
    vm.forwards.iter().any(|forward| matches!(forward.listen.host, ListenHost::Interface(_)))
}

/// Whether a listener still is where it was opened.
fn is_current(socket: &ForwardSocket, place: &Place) -> bool {
    place.2.as_ref().is_none_or(|name| is_on_interface(socket, name))
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
    let (address, interface) = match &forward.listen.host {
        ListenHost::Address(address) => (*address, None),
        ListenHost::Interface(name) => (family.any(), Some(name.clone())),
        ListenHost::Any => (family.any(), None),
    };
    (forward.proto, SocketAddr::new(address, port), interface)
}

/// Whether a host answers so that lacks a family of addresses, as Linux does with ipv6.disable=1.
fn is_familys_lack(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Where the kernel says from which port on anybody may listen (ip(7)).
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

fn explain(forward: &Forward, port: u16, error: &std::io::Error) -> String {
    let mend = match error.kind() {
        ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port".into(),
        ErrorKind::PermissionDenied => privilege(port, unprivileged_start()),
        ErrorKind::AddrNotAvailable => "the host does not have this address: add it, or write one of its own".into(),
        _ if error.raw_os_error() == Some(libc::ENODEV) => {
            "the host does not have this interface: make it, or write one that it has".into()
        }
        _ => "check the address or the interface's name".into(),
    };
    format!("forward {}: cannot listen on {} port {port}: {error}; {mend}", forward.listen, forward.proto)
}

/// The first port that needs no privilege in this network namespace; 1024 unless the administrator has moved it.
pub(super) fn unprivileged_start() -> u16 {
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
    use crate::config::Listen;

    #[test]
    fn a_refused_port_comes_with_what_to_do() {
        let error = || std::io::Error::from(ErrorKind::PermissionDenied);
        let listen = Listen { host: ListenHost::Any, ports: 80..=81 };
        let forward = |proto| Forward { proto, listen: listen.clone(), port: 1, failover: true };
        let low = privilege(80, 1024);
        for words in ["from 1024 on", "net.ipv4.ip_unprivileged_port_start=80", "setcap cap_net_bind_service=ep /"] {
            assert!(low.contains(words), "{words:?} is not in {low}");
        }
        assert!(!privilege(8080, 1024).contains("setcap"));
        let said = |proto| explain(&forward(proto), 81, &error());
        assert!(said(Protocol::Tcp).starts_with("forward *:80-81: cannot listen on tcp port 81: "));
        assert!(said(Protocol::Udp).starts_with("forward *:80-81: cannot listen on udp port 81: "));
    }
}
