//! What is known of the VM that is looked at closely.
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::rate::{Flow, per_second};
use super::sample::PageSample;
use crate::api::types::{ConnectionRow, GuestReport, VmDetail};

/// One VM.
#[derive(Debug)]
pub(super) struct Page {
    pub name: String,
    /// Absent before the first look, and while there is no such VM.
    pub vm: Option<Box<VmDetail>>,
    /// Whether there is none by this name.
    pub gone: bool,
    /// Drops that ever were, the most frequent now first.
    pub drops: Vec<Dropped>,
    /// Connections, the busiest first.
    pub connections: Vec<Busy>,
    /// What the guest says that it does in a second.
    pub guest: Option<GuestRates>,
    at: Option<Instant>,
    /// The guest's last word, and when it was first heard.
    heard: Option<(GuestReport, Instant)>,
}

/// Frames that were dropped for one reason in one direction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Dropped {
    pub reason: String,
    pub way: String,
    pub frames: u64,
    pub rate: Option<f64>,
}

/// One connection, with payload bits per second.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Busy {
    pub row: ConnectionRow,
    pub sent: Option<f64>,
    pub received: Option<f64>,
}

/// Of the guest's own counters, between its last two messages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct GuestRates {
    pub sent: Option<Flow>,
    pub received: Option<Flow>,
    /// TCP segments sent again.
    pub retransmitted: Option<f64>,
}

impl Page {
    pub fn new(name: &str) -> Page {
        Page {
            name: name.to_string(),
            vm: None,
            gone: false,
            drops: Vec::new(),
            connections: Vec::new(),
            guest: None,
            at: None,
            heard: None,
        }
    }

    /// Nothing that was counted before can be compared with what comes.
    pub fn forget(&mut self) {
        *self = Page::new(&self.name);
    }

    /// Takes in what was seen at that time, if it is of this VM.
    pub fn take(&mut self, seen: PageSample, at: Instant) {
        if seen.name != self.name {
            return;
        }
        let Some(vm) = seen.vm else {
            self.forget();
            self.gone = true;
            return;
        };
        if self.vm.as_ref().is_some_and(|before| is_another(before, &vm)) {
            self.forget();
        }
        self.gone = false;
        self.drops = self.drops_of(&vm, at);
        self.connections = self.busy(seen.connections, at);
        self.hear(vm.guest.as_ref(), at);
        (self.vm, self.at) = (Some(vm), Some(at));
    }

    fn since(&self, before: u64, now: u64, at: Instant) -> Option<f64> {
        per_second(before, now, at.saturating_duration_since(self.at?))
    }

    fn drops_of(&self, vm: &VmDetail, at: Instant) -> Vec<Dropped> {
        let before = self.vm.as_ref().map(|vm| &vm.drops_by_reason);
        let mut drops = Vec::new();
        for (reason, ways) in &vm.drops_by_reason {
            for (way, frames) in ways.iter().filter(|(_, frames)| **frames > 0) {
                let old = before.and_then(|drops| drops.get(reason)?.get(way)).copied().unwrap_or(0);
                let rate = self.since(old, *frames, at);
                drops.push(Dropped { reason: reason.clone(), way: way.clone(), frames: *frames, rate });
            }
        }
        drops.sort_by(|a, b| most(b.rate, a.rate).then(b.frames.cmp(&a.frames)));
        drops
    }

    fn busy(&self, rows: Vec<ConnectionRow>, at: Instant) -> Vec<Busy> {
        let key = |row: &ConnectionRow| (row.protocol.clone(), row.guest.clone(), row.remote.clone());
        let before: HashMap<_, _> = self.connections.iter().map(|busy| (key(&busy.row), &busy.row)).collect();
        let busy = |row: ConnectionRow| {
            // A younger one between the same ends is another one.
            let old = before.get(&key(&row)).filter(|old| old.age_seconds <= row.age_seconds);
            let rate = |of: fn(&ConnectionRow) -> u64| Some(8.0 * self.since(of(old?), of(&row), at)?);
            let (sent, received) = (rate(|row| row.bytes_guest_to_host), rate(|row| row.bytes_host_to_guest));
            Busy { row, sent, received }
        };
        let mut all: Vec<Busy> = rows.into_iter().map(busy).collect();
        let both = |busy: &Busy| Some(busy.sent? + busy.received?);
        let bytes = |busy: &Busy| busy.row.bytes_guest_to_host.saturating_add(busy.row.bytes_host_to_guest);
        all.sort_by(|a, b| most(both(b), both(a)).then(bytes(b).cmp(&bytes(a))));
        all
    }

    /// The guest says the same until its agent speaks again.
    fn hear(&mut self, guest: Option<&GuestReport>, at: Instant) {
        let Some(now) = guest else { return };
        let Some((before, heard)) = &self.heard else {
            self.heard = Some((now.clone(), at));
            return;
        };
        if before == now {
            return;
        }
        let time = at.saturating_duration_since(*heard);
        let flow = |of: fn(&GuestReport) -> Option<crate::api::types::Traffic>| Flow::over(of(before)?, of(now)?, time);
        let again = |report: &GuestReport| report.tcp.as_ref()?.retransmitted;
        self.guest = Some(GuestRates {
            sent: flow(|report| Some(report.nic.as_ref()?.guest_to_host.guest)),
            received: flow(|report| Some(report.nic.as_ref()?.host_to_guest.guest)),
            retransmitted: again(before).zip(again(now)).and_then(|(before, now)| per_second(before, now, time)),
        });
        self.heard = Some((now.clone(), at));
    }
}

/// Whether it was removed and put back in between.
fn is_another(before: &VmDetail, now: &VmDetail) -> bool {
    let back = |of: fn(&VmDetail) -> u64| of(now) < of(before);
    before.row.mac != now.row.mac || back(|vm| vm.row.guest_to_host.frames) || back(|vm| vm.row.host_to_guest.frames)
}

fn most(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    a.unwrap_or(0.0).total_cmp(&b.unwrap_or(0.0))
}

/// What of the features offered the driver did not take.
pub(super) fn not_taken(vm: &VmDetail) -> Vec<&str> {
    let taken = |name: &&str| !vm.features_negotiated.iter().any(|taken| taken == name);
    vm.features_offered.iter().map(String::as_str).filter(taken).collect()
}

/// Limits that were ever reached, as counts by name.
pub(super) fn reached(vm: &VmDetail) -> BTreeMap<&str, u64> {
    vm.limits.iter().filter(|limit| limit.reached > 0).map(|limit| (limit.name.as_str(), limit.reached)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use std::time::Duration;

    use super::*;
    use crate::api::types::{Traffic, VmRow};

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(frames: u64, drops: u64, connection: (u64, u64), guest: Option<(u64, u64)>) -> PageSample {
        let (bytes, age_seconds) = connection;
        let row = VmRow { name: "a".into(), guest_to_host: Traffic { frames, bytes: 0 }, ..VmRow::default() };
        let ways = [("guest_to_host".to_string(), drops)].into();
        let none = json!({ "frames": 0, "bytes": 0 });
        let guest = guest.map(|(frames, retransmitted)| {
            let counted = json!({ "frames": frames, "bytes": 100 * frames });
            serde_json::from_value(json!({
                "hostname": "a", "kernel": "6", "uptime_seconds": 1, "interfaces": [], "tcp": { "retransmitted": retransmitted },
                "nic": { "interface": "eth0", "guest_to_host": { "host": none, "guest": counted }, "host_to_guest": { "host": none, "guest": none } },
            }))
            .unwrap()
        });
        let vm =
            VmDetail { row, drops_by_reason: [("no_room".to_string(), ways)].into(), guest, ..VmDetail::default() };
        let connections = serde_json::from_value(json!([{
            "vm": "a", "direction": "guest_opens", "guest": "192.0.2.2:1", "remote": "198.51.100.7:443", "state": "ESTABLISHED",
            "bytes_guest_to_host": bytes, "bytes_host_to_guest": 0, "age_seconds": age_seconds,
        }]))
        .unwrap();
        PageSample { name: "a".into(), vm: Some(Box::new(vm)), connections }
    }

    #[test]
    fn rates_of_drops_and_connections() {
        let (mut page, begin) = (Page::new("a"), Instant::now());
        page.take(seen(10, 5, (1000, 10), None), begin);
        assert_eq!((page.drops[0].rate, page.connections[0].sent), (None, None));
        page.take(seen(20, 9, (2000, 12), None), begin + 2 * SECOND);
        assert_eq!((page.drops[0].frames, page.drops[0].rate), (9, Some(2.0)));
        assert_eq!(page.connections[0].sent, Some(4000.0));
        // Another connection between the same ends.
        page.take(seen(30, 9, (9_000_000, 1), None), begin + 3 * SECOND);
        assert_eq!((page.drops[0].rate, page.connections[0].sent), (Some(0.0), None));
        // The VM was removed and put back.
        page.take(seen(3, 900, (9_000_000, 2), None), begin + 4 * SECOND);
        assert_eq!((page.drops[0].rate, page.connections[0].sent), (None, None));
        page.take(PageSample { name: "a".into(), vm: None, connections: Vec::new() }, begin + 5 * SECOND);
        assert!(page.gone && page.vm.is_none() && page.drops.is_empty());
        page.take(seen(4, 900, (0, 0), None), begin + 6 * SECOND);
        assert!(!page.gone && page.vm.is_some());
        page.take(PageSample { name: "b".into(), vm: None, connections: Vec::new() }, begin + 7 * SECOND);
        assert!(!page.gone, "another VM's");
    }

    #[test]
    fn a_guests_rates_are_between_its_messages() {
        let (mut page, begin) = (Page::new("a"), Instant::now());
        page.take(seen(1, 0, (0, 0), Some((100, 7))), begin);
        // It has said nothing since.
        page.take(seen(2, 0, (0, 1), Some((100, 7))), begin + SECOND);
        assert_eq!(page.guest, None);
        page.take(seen(3, 0, (0, 2), Some((300, 9))), begin + 2 * SECOND);
        let rates = page.guest.unwrap();
        assert_eq!(rates.sent, Some(Flow { frames: 100.0, bits: 80_000.0 }));
        assert_eq!((rates.received, rates.retransmitted), (Some(Flow::default()), Some(1.0)));
        // A guest that has booted again counts from its beginning.
        page.take(seen(4, 0, (0, 3), Some((3, 0))), begin + 3 * SECOND);
        assert_eq!(page.guest, Some(GuestRates { received: Some(Flow::default()), ..GuestRates::default() }));
    }
}
