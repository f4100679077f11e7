//! Listening sockets of forwards, kept over reloads: a forward that stays is never closed.
use crate::config::{Forward, ListenHost, Vm};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
            for (place, guest_port) in ports(forward) {
                let port = place.0.port();
                match self.listener(place) {
                    Ok(listener) => specs.push(ForwardSpec { listener, guest_port }),
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
        vm.forwards.iter().flat_map(ports).filter_map(kept).collect()
    }

    fn listener(&mut self, place: Place) -> std::io::Result<Arc<Listener>> {
        if let Some(listener) = self.open.get(&place).and_then(Weak::upgrade) {
            return Ok(listener);
        }
        let listener = Arc::new(Listener::bind(place.0, place.1.as_deref())?);
        self.open.insert(place, Arc::downgrade(&listener));
        Ok(listener)
    }
}

/// Every place at which VMs listen.
pub(super) fn places<'a>(vms: impl IntoIterator<Item = &'a Vm>) -> HashSet<Place> {
    vms.into_iter().flat_map(|vm| &vm.forwards).flat_map(ports).map(|(place, _)| place).collect()
}

/// Each port of a forward: where it listens, and the guest's port.
fn ports(forward: &Forward) -> impl Iterator<Item = (Place, u16)> {
    forward.listen.ports.clone().enumerate().map(|(i, port)| (place(forward, port), forward.port + i as u16))
}

fn place(forward: &Forward, port: u16) -> Place {
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    match &forward.listen.host {
        ListenHost::Address(address) => (SocketAddr::new(*address, port), None),
        ListenHost::Interface(name) => (SocketAddr::new(any, port), Some(name.clone())),
        ListenHost::Any => (SocketAddr::new(any, port), None),
    }
}

fn explain(listen: &str, port: u16, error: &std::io::Error) -> String {
    let mend = match error.kind() {
        std::io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
        std::io::ErrorKind::PermissionDenied => {
            "choose a port from net.ipv4.ip_unprivileged_port_start on, or give vonicd CAP_NET_BIND_SERVICE"
        }
        std::io::ErrorKind::AddrNotAvailable => "the host does not have this address",
        _ => "check the address or the interface's name",
    };
    format!("forward {listen}: cannot listen on port {port}: {error}; {mend}")
}
