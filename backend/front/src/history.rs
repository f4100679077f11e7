//! What has become of engines: how often they died, of what, and how long it took the next one to take over.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the death of an engine is held against the VM at whose port it was.
pub(crate) const BLAME_WINDOW: Duration = Duration::from_secs(600);
/// So many deaths within that time are no accident.
const ACCIDENTS: usize = 1;

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
}

/// The same, as it is handed to another master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlamedState {
    pub(crate) deaths: u64,
    /// How long ago those within the window were, in milliseconds.
    pub(crate) lately: Vec<u64>,
    pub(crate) quarantined: bool,
    pub(crate) unheard: bool,
}

impl Blames {
    /// An engine died at this VM's port, at what its VMM had said or at frames. True: from now on the VM is to be left alone.
    pub(crate) fn note(&mut self, vm: u64, said: bool, now: Instant) -> bool {
        let blamed = self.0.entry(vm).or_default();
        blamed.deaths += 1;
        blamed.lately.retain(|&then| now.duration_since(then) < BLAME_WINDOW);
        blamed.lately.push(now);
        let before = blamed.quarantined;
        blamed.quarantined |= blamed.lately.len() > ACCIDENTS;
        blamed.unheard |= blamed.quarantined && said;
        blamed.quarantined && !before
    }

    /// Nothing more is held against this VM.
    pub(crate) fn forgive(&mut self, vm: u64) {
        if let Some(blamed) = self.0.get_mut(&vm) {
            blamed.lately.clear();
            (blamed.quarantined, blamed.unheard) = (false, false);
        }
    }

    /// Nor against any other.
    pub(crate) fn forgive_all(&mut self) {
        self.0.keys().copied().collect::<Vec<_>>().into_iter().for_each(|vm| self.forgive(vm));
    }

    /// By VM, as another master goes on with it.
    pub(crate) fn save(&self, now: Instant) -> BTreeMap<u64, BlamedState> {
        let save = |blamed: &Blamed| {
            let Blamed { deaths, lately, quarantined, unheard } = blamed;
            let ago = |then: &Instant| now.saturating_duration_since(*then).as_millis() as u64;
            let lately = lately.iter().map(ago).collect();
            BlamedState { deaths: *deaths, lately, quarantined: *quarantined, unheard: *unheard }
        };
        self.0.iter().map(|(&vm, blamed)| (vm, save(blamed))).collect()
    }

    /// What another master has saved.
    pub(crate) fn restore(state: BTreeMap<u64, BlamedState>, now: Instant) -> Blames {
        let restore = |state: BlamedState| {
            let BlamedState { deaths, lately, quarantined, unheard } = state;
            // What was before this host's clock began is beyond every window.
            let then = |ago: u64| now.checked_sub(Duration::from_millis(ago));
            Blamed { deaths, lately: lately.into_iter().filter_map(then).collect(), quarantined, unheard }
        };
        Blames(state.into_iter().map(|(vm, state)| (vm, restore(state))).collect())
    }

    /// Whether what this VM's VMM says is not listened to.
    pub(crate) fn is_unheard(&self, vm: u64) -> bool {
        self.0.get(&vm).is_some_and(|blamed| blamed.unheard)
    }

    /// As the next engine is told.
    pub(crate) fn all(&self) -> BTreeMap<u64, Blame> {
        let blame = |b: &Blamed| Blame { deaths: b.deaths, quarantined: b.quarantined, unheard: b.unheard };
        self.0.iter().map(|(&vm, blamed)| (vm, blame(blamed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_death_within_ten_minutes_is_no_accident() {
        let (mut blames, start) = (Blames::default(), Instant::now());
        assert!(!blames.note(1, false, start));
        assert!(!blames.note(2, false, start + SECOND), "another VM's");
        assert!(!blames.note(1, false, start + BLAME_WINDOW), "the first is forgotten");
        assert!(blames.note(1, false, start + BLAME_WINDOW + SECOND));
        assert!(!blames.note(1, false, start + BLAME_WINDOW + 2 * SECOND), "it is in quarantine already");
        let expected = [
            (1, Blame { deaths: 4, quarantined: true, unheard: false }),
            (2, Blame { deaths: 1, quarantined: false, unheard: false }),
        ];
        assert_eq!(blames.all(), BTreeMap::from(expected));
    }

    #[test]
    fn what_engines_die_of_by_its_word_is_heard_no_more() {
        let (mut blames, now) = (Blames::default(), Instant::now());
        assert!(!blames.note(1, true, now) && !blames.is_unheard(1), "an accident");
        assert!(blames.note(1, true, now) && blames.is_unheard(1));
        assert!(
            blames.note(2, true, now) | blames.note(2, false, now) && !blames.is_unheard(2),
            "a frame was the second"
        );
        assert!(!blames.note(2, true, now) && blames.is_unheard(2));
        blames.forgive_all();
        assert!(!blames.is_unheard(1) && !blames.is_unheard(2) && !blames.is_unheard(3));
    }

    #[test]
    fn what_is_held_against_a_vm_is_so_by_another_master() {
        let (mut blames, start) = (Blames::default(), Instant::now());
        assert_eq!([1, 2, 2].map(|vm| blames.note(vm, false, start)), [false, false, true]);
        let later = start + 5 * SECOND;
        let mut blames = Blames::restore(blames.save(later), later + SECOND);
        // On its way it has aged no further: the second that nobody saw is the benefit of the doubt.
        assert_eq!(
            blames.save(later + SECOND)[&1],
            BlamedState { deaths: 1, lately: vec![5000], quarantined: false, unheard: false }
        );
        assert!(blames.all()[&2].quarantined);
        assert!(blames.note(1, false, later + 2 * SECOND), "the second within the window");
        assert_eq!(blames.all()[&1], Blame { deaths: 2, quarantined: true, unheard: false });
    }

    #[test]
    fn who_is_forgiven_begins_anew() {
        let (mut blames, now) = (Blames::default(), Instant::now());
        assert_eq!([1, 1, 2, 2].map(|vm| blames.note(vm, false, now)), [false, true, false, true]);
        blames.forgive(1);
        assert_eq!(blames.all()[&1], Blame { deaths: 2, quarantined: false, unheard: false });
        assert!(blames.all()[&2].quarantined);
        assert_eq!([1, 1].map(|vm| blames.note(vm, false, now)), [false, true]);
        blames.forgive_all();
        assert!(blames.all().values().all(|blame| !blame.quarantined));
    }
}
