//! What becomes of engines, told once: each leaves to the next what it has told.
use super::registry::Registry;
use crate::api::types::Happening;
use serde::{Deserialize, Serialize};
use std::os::unix::process::parent_id;
use vonic_front::{History, Start, Takeover};

/// The name by which it is left.
const TOLD: &str = "told";

/// What has been told of engines so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    deaths: u64,
    replaced: u64,
    takeover: Option<Takeover>,
    upgrades: u64,
}

/// What the engine before has told; nothing if it has left no word, or was none.
pub(super) fn inherited(start: &Start) -> Option<Told> {
    match start.read(TOLD) {
        Ok(left) => serde_json::from_slice(&left?).ok(),
        Err(error) => {
            log::warn!("what was told of engines is told again: {error}");
            None
        }
    }
}

/// What of this history has not been told.
fn news(history: &History, told: &Told) -> Vec<Happening> {
    let mut news = Vec::new();
    if let Some(death) = history.last_death.as_ref().filter(|_| history.deaths > told.deaths) {
        news.push(Happening::EngineDied { reason: death.reason.clone() });
    }
    if history.replaced > told.replaced {
        news.push(Happening::EngineReplaced {});
    }
    if let Some(takeover) = history.last_takeover.filter(|_| history.last_takeover != told.takeover) {
        news.push(Happening::EngineTookOver { pid: std::process::id(), microseconds: takeover.microseconds });
    }
    news
}

impl Registry {
    /// The master's word on engines so far.
    pub(super) fn history_told(&mut self, history: History) {
        let before = self.told.take();
        // Of what was before there was anybody to tell, nothing is told.
        if let Some(before) = &before {
            news(&history, before).into_iter().for_each(|what| self.feed.tell(what));
        }
        let (deaths, replaced, takeover) = (history.deaths, history.replaced, history.last_takeover);
        let upgrades = before.as_ref().map_or(self.upgrades.number, |told| told.upgrades);
        self.leave_told(before.as_ref(), Told { deaths, replaced, takeover, upgrades });
        self.history = Some(history);
    }

    /// The master has said how the last upgrade ended, be it long ago.
    pub(super) fn tell_upgrade(&mut self) {
        let Some(told) = self.told.clone() else { return };
        let number = self.upgrades.number;
        if number <= told.upgrades {
            return;
        }
        self.feed.tell(match &self.upgrades.error {
            Some(error) => Happening::UpgradeFailed { error: error.clone() },
            None => Happening::Upgraded { version: env!("CARGO_PKG_VERSION").into(), process: parent_id() },
        });
        self.leave_told(Some(&told), Told { upgrades: number, ..told.clone() });
    }

    fn leave_told(&mut self, before: Option<&Told>, told: Told) {
        if before != Some(&told) {
            let left = serde_json::to_vec(&told).map_err(std::io::Error::other);
            if let Err(error) = left.and_then(|bytes| self.link.keep(TOLD, &[&bytes])) {
                log::warn!("what was told of engines cannot be left for another one: {error}");
            }
        }
        self.told = Some(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vonic_front::Death;

    #[test]
    fn each_end_and_each_takeover_is_told_once() {
        let takeover = |at, planned| Some(Takeover { at, microseconds: 800, planned });
        let told = Told { deaths: 1, replaced: 2, takeover: takeover(5, true), upgrades: 0 };
        let mut history = History {
            deaths: 1,
            replaced: 2,
            last_death: Some(Death { reason: "died by signal 9".into(), at: 3 }),
            last_takeover: takeover(5, true),
            ..History::default()
        };
        assert_eq!(news(&history, &told), []);
        history.deaths = 2;
        let died = Happening::EngineDied { reason: "died by signal 9".into() };
        assert_eq!(news(&history, &told), std::slice::from_ref(&died), "not every VMM has its connection yet");
        history.last_takeover = takeover(9, false);
        let took_over = Happening::EngineTookOver { pid: std::process::id(), microseconds: 800 };
        assert_eq!(news(&history, &told), [died, took_over.clone()]);
        history.deaths = 1;
        history.replaced = 3;
        assert_eq!(news(&history, &told), [Happening::EngineReplaced {}, took_over]);
    }
}
