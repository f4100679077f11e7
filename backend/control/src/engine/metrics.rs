//! The metrics: what is told, and the listener where they are told by TCP.
use super::registry::Registry;
use super::{ApiHandler, agents};
use crate::api::MetricsListener;
use crate::metrics::Snapshot;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use vonic_datapath::{Command, HostView};

/// Where they are told by TCP.
#[derive(Default)]
pub(super) struct Metrics {
    at: Option<SocketAddr>,
    listener: Option<MetricsListener>,
    /// Why they are not, though they should be.
    pub(super) error: Option<String>,
    /// The host's addresses as last heard of.
    addresses: Vec<IpAddr>,
}

impl Registry {
    /// Everything at this moment.
    pub(super) fn snapshot(&self) -> Snapshot {
        let heard = self.vms.values().filter_map(|entry| Some((&entry.vm, entry.guest.report()?)));
        // What an agent said that speaks no more is not so now.
        let heard = heard.filter(|(_, report)| !agents::row(report).silent);
        let guests = heard.map(|(vm, report)| (vm.name.clone(), agents::detail(report, vm.mac))).collect();
        let (stats, vms) = (self.all_stats(), self.vms_listed());
        Snapshot { engine: self.status(), stats, hints: self.advice().len(), guests, vms }
    }

    /// Who answers the API's requests, wherever they come from.
    pub(super) fn handler(&self) -> ApiHandler {
        ApiHandler(self.sender(), self.feed.clone())
    }

    /// Listens where the configuration says, if it does not yet.
    pub(super) fn listen_for_metrics(&mut self) {
        let wanted = self.config.service.metrics_listen;
        if self.metrics.at != wanted {
            self.metrics.listener = None;
            self.metrics.error = None;
            self.metrics.at = wanted;
            self.tell_host();
        }
        let Some(at) = wanted.filter(|_| self.metrics.listener.is_none()) else { return };
        match MetricsListener::open(at, Arc::new(self.handler())) {
            Ok(listener) => {
                log::info!("metrics are told at http://{at}/metrics");
                (self.metrics.listener, self.metrics.error) = (Some(listener), None);
            }
            Err(error) => {
                let message = format!(
                    "metrics_listen: nobody can connect to {at}: {error}; give another address, or stop what is there"
                );
                if self.metrics.error.as_ref() != Some(&message) {
                    log::error!("{message}");
                }
                self.metrics.error = Some(message);
            }
        }
    }

    /// The host has these addresses.
    pub(super) fn host_has(&mut self, addresses: Vec<IpAddr>) {
        self.metrics.addresses = addresses;
        self.tell_host();
        self.listen_for_metrics();
    }

    fn tell_host(&mut self) {
        let Metrics { at: metrics, addresses, .. } = &self.metrics;
        let host = HostView { addresses: addresses.clone(), metrics: *metrics };
        self.order(Command::Host(Box::new(host)));
    }

    /// What the operator should change on this host.
    pub(super) fn advice(&self) -> Vec<String> {
        self.hints.texts().into_iter().chain(self.metrics.error.clone()).collect()
    }
}
