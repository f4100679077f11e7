//! What is known of the VMs, from all the samples so far.
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::page::Page;
use super::rate::{LEAST, Rates};
use super::sample::{Sample, Seen};
use crate::api::types::{EngineStatus, Health, VmRow};

/// How many values a history has.
pub(super) const HISTORY: usize = 120;
/// Ages in whole seconds differ by so much between two looks at the same thing.
const ROUNDING: Duration = Duration::from_secs(2);

/// Values of the last samples, the latest last.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Option<f64>>);

impl History {
    fn push(&mut self, value: Option<f64>) {
        if self.0.len() == HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    pub fn values(&self) -> Vec<Option<f64>> {
        self.0.iter().copied().collect()
    }
}

/// One VM.
#[derive(Debug, Default)]
pub(super) struct Vm {
    pub row: VmRow,
    /// Absent before the second look at it.
    pub rates: Option<Rates>,
    /// Bits per second of both directions, and of each.
    pub history: History,
    pub sent: History,
    pub received: History,
}

impl Vm {
    fn take(&mut self, row: VmRow, rates: Option<Rates>) {
        self.history.push(rates.map(Rates::bits));
        self.sent.push(rates.map(|rates| rates.guest_to_host.bits));
        self.received.push(rates.map(|rates| rates.host_to_guest.bits));
        (self.row, self.rates) = (row, rates);
    }
}

/// The service at the last look.
#[derive(Debug)]
pub(super) struct Service {
    pub at: Instant,
    pub time: u64,
    pub health: Health,
    pub engine: Option<EngineStatus>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub vms: BTreeMap<String, Vm>,
    pub service: Option<Service>,
    /// All VMs together.
    pub total: Option<Rates>,
    /// Why vonicd has not answered lately, and since when.
    pub silence: Option<(String, Instant)>,
    /// The VM that is looked at closely.
    pub page: Option<Page>,
}

impl Model {
    /// Takes in what was seen, or why nothing was.
    pub fn take(&mut self, seen: Seen) {
        match seen {
            Ok(sample) => {
                self.silence = None;
                self.take_sample(*sample);
            }
            Err(why) => {
                let since = self.silence.take().map_or_else(Instant::now, |(_, since)| since);
                self.silence = Some((why, since));
            }
        }
    }

    fn take_sample(&mut self, sample: Sample) {
        let Sample { at, time, vms, health, engine, page } = sample;
        let restarted = self.service.as_ref().is_some_and(|before| is_another(before, &health, at));
        if let (Some(shown), Some(seen)) = (&mut self.page, page) {
            if restarted {
                shown.forget();
            }
            shown.take(seen, at);
        }
        let elapsed = self.service.as_ref().map(|before| at.saturating_duration_since(before.at));
        if elapsed.is_some_and(|elapsed| elapsed < LEAST) {
            return;
        }
        let mut before = std::mem::take(&mut self.vms);
        let mut total = None;
        for row in vms {
            let known = before.remove(&row.name);
            let rates = known.as_ref().filter(|_| !restarted);
            let rates = rates.and_then(|known| Rates::over(&known.row, &row, elapsed.unwrap_or_default()));
            if let Some(rates) = rates {
                total = Some(rates.plus(total.unwrap_or_default()));
            }
            let mut vm = known.unwrap_or_default();
            let name = row.name.clone();
            vm.take(row, rates);
            self.vms.insert(name, vm);
        }
        self.total = total;
        self.service = Some(Service { at, time, health, engine });
    }

    /// Begins to look at a VM closely.
    pub fn open(&mut self, name: &str) {
        self.page = Some(Page::new(name));
    }

    pub fn close(&mut self) {
        self.page = None;
    }
}

/// Whether vonicd was started in between: it is younger than the one that was seen would be.
fn is_another(before: &Service, now: &Health, at: Instant) -> bool {
    let up = Duration::from_secs(before.health.uptime_seconds) + at.saturating_duration_since(before.at);
    Duration::from_secs(now.uptime_seconds) + ROUNDING < up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Traffic;

    fn sample(at: Instant, uptime_seconds: u64, vms: &[(&str, u64)]) -> Seen {
        let row = |(name, frames): &(&str, u64)| VmRow {
            name: name.to_string(),
            guest_to_host: Traffic { frames: *frames, bytes: 1000 * frames },
            ..VmRow::default()
        };
        let health = Health { uptime_seconds, ..Health::default() };
        let vms = vms.iter().map(row).collect();
        Ok(Box::new(Sample { at, time: 0, vms, health, engine: None, page: None }))
    }

    fn frames(model: &Model, name: &str) -> Option<f64> {
        model.vms[name].rates.map(|rates| rates.guest_to_host.frames)
    }

    #[test]
    fn rates_are_over_the_time_between_two_looks() {
        let (mut model, begin) = (Model::default(), Instant::now());
        let second = Duration::from_secs(1);
        model.take(sample(begin, 10, &[("a", 100)]));
        assert_eq!((frames(&model, "a"), model.total), (None, None));
        model.take(sample(begin + 2 * second, 12, &[("a", 300), ("b", 1_000_000)]));
        assert_eq!((frames(&model, "a"), frames(&model, "b")), (Some(100.0), None), "a VM that is new has no rate");
        assert_eq!(model.total.unwrap().guest_to_host.bits, 800_000.0);
        // Hardly any time later: nothing is taken in, and the next rate is over all of it.
        model.take(sample(begin + 2 * second + second / 100, 12, &[("a", 301), ("b", 1_000_000)]));
        assert_eq!(frames(&model, "a"), Some(100.0));
        model.take(sample(begin + 3 * second, 13, &[("a", 310), ("b", 1_000_000)]));
        assert_eq!((frames(&model, "a"), frames(&model, "b")), (Some(10.0), Some(0.0)));
        assert_eq!(model.vms["a"].history.values(), [None, Some(800_000.0), Some(80_000.0)]);
    }

    #[test]
    fn what_was_put_back_counts_from_its_beginning() {
        let (mut model, begin) = (Model::default(), Instant::now());
        let second = Duration::from_secs(1);
        model.take(sample(begin, 10, &[("a", 100), ("b", 7)]));
        model.take(sample(begin + second, 11, &[("b", 7)]));
        assert!(!model.vms.contains_key("a"));
        model.take(sample(begin + 2 * second, 12, &[("a", 1_000_000), ("b", 7)]));
        assert_eq!(frames(&model, "a"), None);
        // Removed and put back between two looks.
        model.take(sample(begin + 3 * second, 13, &[("a", 3), ("b", 7)]));
        assert_eq!((frames(&model, "a"), frames(&model, "b")), (None, Some(0.0)));
        model.take(sample(begin + 4 * second, 14, &[("a", 5), ("b", 7)]));
        assert_eq!(frames(&model, "a"), Some(2.0));
    }

    #[test]
    fn a_vonicd_that_was_away_is_another_one() {
        let (mut model, begin) = (Model::default(), Instant::now());
        let second = Duration::from_secs(1);
        model.take(sample(begin, 100, &[("a", 5)]));
        model.take(Err("vonicd is not running".into()));
        model.take(Err("vonicd is not running".into()));
        let (why, since) = model.silence.clone().unwrap();
        assert!(why.contains("not running") && since.elapsed() < 10 * second);
        assert_eq!(model.vms.len(), 1, "what was seen stays");
        // Its counters have passed those of the one before.
        model.take(sample(begin + 60 * second, 30, &[("a", 1_000_000)]));
        assert_eq!((frames(&model, "a"), &model.silence), (None, &None));
        model.take(sample(begin + 61 * second, 31, &[("a", 1_000_010)]));
        assert_eq!(frames(&model, "a"), Some(10.0));
        // A pause of this program is no restart of that one.
        model.take(sample(begin + 161 * second, 131, &[("a", 1_001_010)]));
        assert_eq!(frames(&model, "a"), Some(10.0));
    }
}
