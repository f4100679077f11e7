//! What has become of engines: how often they died, of what, and how long it took the next one to take over.
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the death of an engine is held against the VM at whose port it was.
pub(crate) const BLAME_WINDOW: Duration = Duration::from_secs(600);
/// So many deaths within that time are no accident.
const ACCIDENTS: usize = 1;
/// From the second quarantine on it lasts so long at least, and each time twice as long, whatever the VMM does.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LAST_WAIT: Duration = Duration::from_secs(3600);
/// After so long without a death a VM is as any other.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// Everything since the master started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Engines that died. One that the operator had replaced is none of them.
    pub deaths: u64,
    /// Engines that the operator had replaced.
    pub replaced: u64,
    /// The last of the deaths.
    pub last_death: Option<Death>,
    /// When an engine last took over, from a dead one or a replaced one.
    pub last_takeover: Option<Takeover>,
    /// Deaths in short succession: the next engine waits the longer, the more there were.
    pub storm: Storm,
    /// Another process stands ready to be the engine.
    pub standby: bool,
}

/// The end of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Of what, as the log has it.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// One engine following another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// When it was done, in seconds since 1970.
    pub at: u64,
    /// From the master's learning of the end, until every VMM connection stood again, in microseconds.
    pub microseconds: u64,
    /// Whether the operator had asked for it.
    pub planned: bool,
}

/// Deaths within half a minute, of engines that had not lived for a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storm {
    /// How many there were at the last death.
    pub deaths: u64,
    /// How long the next engine was therefore made to wait, in milliseconds.
    pub delay: u64,
}

/// What is held against a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    /// Engines that died while at work on its port.
    pub deaths: u64,
    /// It is to be left alone.
    pub quarantined: bool,
    /// It was what its VMM said that they died of: that is not listened to either, and no session is asked for.
    #[serde(default)]
    pub unheard: bool,
    /// So many seconds from now on it stays so, whatever its VMM does.
    #[serde(default)]
    pub wait: u64,
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Who is to blame for which deaths.
#[derive(Debug, Default)]
pub(crate) struct Blames(BTreeMap<u64, Blamed>);

#[derive(Debug, Default)]
struct Blamed {
    deaths: u64,
    /// Those within the window.
    lately: Vec<Instant>,
    quarantined: bool,
    unheard: bool,
    /// How often it was let go because its VMM had left.
    pardons: u32,
    /// When the last of the deaths was.
    last: Option<Instant>,
    /// It stays in quarantine until then at least.
    until: Option<Instant>,
    /// Its VMM has left since it is in quarantine.
    left: bool,
}

/// The same, as it is handed to another master. Times are in milliseconds: ago, or from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlamedState {
    pub(crate) deaths: u64,
    pub(crate) lately: Vec<u64>,
    pub(crate) quarantined: bool,
    pub(crate) unheard: bool,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) pardons: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) left: bool,
}

/// What is not there is not written: who is not in quarantine is told of as ever.
fn is_none(count: &u32) -> bool {
    *count == 0
}

impl Blamed {
    /// How long the next quarantine lasts at least. The first one ends with the VMM: that costs its neighbours one death more.
    fn wait(&self) -> Duration {
        match self.pardons.checked_sub(1) {
            None => Duration::ZERO,
            Some(more) => FIRST_WAIT.saturating_mul(1 << more.min(16)).min(LAST_WAIT),
        }
    }

    /// When it is let go, if its VMM has done its part.
    fn due(&self) -> Option<Instant> {
        self.until.filter(|_| self.quarantined && self.left)
    }
}

impl Blames {
    /// An engine died at this VM's port, at what its VMM had said or at frames. True: from now on the VM is to be left alone.
    pub(crate) fn note(&mut self, vm: u64, said: bool, now: Instant) -> bool {
        let blamed = self.0.entry(vm).or_default();
        blamed.deaths += 1;
        if blamed.last.is_none_or(|last| now.duration_since(last) >= FORGOTTEN) {
            blamed.pardons = 0;
        }
        blamed.last = Some(now);
        blamed.lately.retain(|&then| now.duration_since(then) < BLAME_WINDOW);
        blamed.lately.push(now);
        let before = blamed.quarantined;
        // Who was let go once has no accidents.
        blamed.quarantined |= blamed.lately.len() > ACCIDENTS || blamed.pardons > 0;
        blamed.unheard |= blamed.quarantined && said;
        if before || !blamed.quarantined {
            return false;
        }
        (blamed.left, blamed.until) = (false, Some(now + blamed.wait()));
        true
    }

    /// Its VMM has left: it is let go as soon as it may be. How long that is from now, if it is in quarantine.
    pub(crate) fn leave(&mut self, vm: u64, now: Instant) -> Option<Duration> {
        let blamed = self.0.get_mut(&vm).filter(|blamed| blamed.quarantined)?;
        blamed.left = true;
        blamed.due().map(|due| due.saturating_duration_since(now))
    }

    /// As is a VM whose VMM was gone before its engine's end was known.
    pub(crate) fn leave_all_but(&mut self, present: &BTreeSet<u64>) {
        let absent = self.0.iter_mut().filter(|(vm, blamed)| blamed.quarantined && !present.contains(vm));
        absent.for_each(|(_, blamed)| blamed.left = true);
    }

    /// When the next one is let go.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(Blamed::due).min()
    }

    /// Those that are let go now. The next death is held against them at once.
    pub(crate) fn pardon(&mut self, now: Instant) -> Vec<u64> {
        let is_due = |blamed: &Blamed| blamed.due().is_some_and(|due| due <= now);
        let mut due = Vec::new();
        for (&vm, blamed) in self.0.iter_mut().filter(|(_, blamed)| is_due(blamed)) {
            blamed.lately.clear();
            (blamed.quarantined, blamed.unheard, blamed.until, blamed.left) = (false, false, None, false);
            blamed.pardons += 1;
            due.push(vm);
        }
        due
    }

    /// The operator's word: nothing more is held against this VM.
    pub(crate) fn forgive(&mut self, vm: u64) {
        if let Some(blamed) = self.0.get_mut(&vm) {
            *blamed = Blamed { deaths: blamed.deaths, ..Blamed::default() };
        }
    }

    /// Nor against any other.
    pub(crate) fn forgive_all(&mut self) {
        self.0.keys().copied().collect::<Vec<_>>().into_iter().for_each(|vm| self.forgive(vm));
    }

    /// By VM, as another master goes on with it.
    pub(crate) fn save(&self, now: Instant) -> BTreeMap<u64, BlamedState> {
        let ago = |then: &Instant| now.saturating_duration_since(*then).as_millis() as u64;
        let to_come = |then: Instant| then.saturating_duration_since(now).as_millis() as u64;
        let save = |blamed: &Blamed| {
            let &Blamed { deaths, ref lately, quarantined, unheard, pardons, last, until, left } = blamed;
            let (lately, last) = (lately.iter().map(ago).collect(), last.as_ref().map(ago));
            let until = until.map(to_come);
            BlamedState { deaths, lately, quarantined, unheard, pardons, last, until, left }
        };
        self.0.iter().map(|(&vm, blamed)| (vm, save(blamed))).collect()
    }

    /// What another master has saved.
    pub(crate) fn restore(state: BTreeMap<u64, BlamedState>, now: Instant) -> Blames {
        let restore = |state: BlamedState| {
            let BlamedState { deaths, lately, quarantined, unheard, pardons, last, until, left } = state;
            // What was before this host's clock began is beyond every window.
            let then = |ago: u64| now.checked_sub(Duration::from_millis(ago));
            let lately = lately.into_iter().filter_map(then).collect();
            // An older master did not say when.
            let until = until.or(quarantined.then_some(0)).map(|ms| now + Duration::from_millis(ms).min(LAST_WAIT));
            Blamed { deaths, lately, quarantined, unheard, pardons, last: last.and_then(then), until, left }
        };
        Blames(state.into_iter().map(|(vm, state)| (vm, restore(state))).collect())
    }

    /// Whether what this VM's VMM says is not listened to.
    pub(crate) fn is_unheard(&self, vm: u64) -> bool {
        self.0.get(&vm).is_some_and(|blamed| blamed.unheard)
    }

    /// As the next engine is told.
    pub(crate) fn all(&self, now: Instant) -> BTreeMap<u64, Blame> {
        let blame = |b: &Blamed| {
            let wait = b.until.filter(|_| b.quarantined).map_or(Duration::ZERO, |u| u.saturating_duration_since(now));
            Blame {
                deaths: b.deaths,
                quarantined: b.quarantined,
                unheard: b.unheard,
                wait: wait.as_millis().div_ceil(1000) as u64,
            }
        };
        self.0.iter().map(|(&vm, blamed)| (vm, blame(blamed))).collect()
    }
}

#[cfg(test)]
mod tests;
