//! `vonic-agent connections --follow --json` in a guest: what it has printed, and what it knows by that.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::guest::Guest;
use crate::seconds;
use crate::wait::wait_for;

/// Where its lines go, in the guest.
const FILE: &str = "/run/told";

/// One that was started.
#[derive(Debug)]
pub struct Follower {
    lists: usize,
}

/// What it was told since its listening began anew last.
#[derive(Debug, Default)]
pub struct Told {
    /// What the epoch is called.
    pub epoch: String,
    /// The list that it has asked for: a connection each.
    pub list: Vec<Value>,
    /// Everything that has happened since.
    pub events: Vec<Value>,
    /// How many batches these came in.
    pub batches: usize,
}

impl Follower {
    /// Starts it in a guest that has the agent.
    ///
    /// # Errors
    /// If the guest does not answer.
    pub fn start(guest: &mut Guest) -> Result<Follower> {
        guest.must(&format!("touch {FILE}"), seconds(10))?;
        guest.spawn(&format!("vonic-agent connections --follow --json --batch 50 --delay 100 > {FILE}"))?;
        Ok(Follower { lists: 0 })
    }

    /// Waits until its listening has begun, or has begun anew since the last time that this was asked, and the list has come.
    ///
    /// # Errors
    /// If it has not within a minute.
    pub fn wait_begun(&mut self, guest: &mut Guest) -> Result<()> {
        self.lists = wait_for("the list of a listening that begins", seconds(60), || {
            let lists = count(guest, "\"connections\":")?;
            Ok(Some(lists).filter(|lists| *lists > self.lists))
        })?;
        Ok(())
    }

    /// What it was told since then.
    ///
    /// # Errors
    /// If its lines are none of the agent's.
    pub fn told(&self, guest: &mut Guest) -> Result<Told> {
        let last = format!("n=$(grep -n '\"restarted\":true' {FILE} | tail -n 1 | cut -d: -f1); tail -n +$n {FILE}");
        let mut told = Told::default();
        let text = guest.must(&last, seconds(60))?;
        for line in text.lines() {
            // The last one may be under way.
            let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
            if let Some(list) = line["connections"].as_array() {
                told.list.extend(list.iter().cloned());
                continue;
            }
            anyhow::ensure!(line["missed"] == 0, "events were missed: {line}");
            told.epoch = line["epoch"].as_str().context("an epoch")?.to_string();
            let events = line["events"].as_array().context("events")?;
            told.batches += usize::from(!events.is_empty());
            told.events.extend(events.iter().cloned());
        }
        Ok(told)
    }

    /// Waits until it was told of so many ends of connections to that port; everything that it was told.
    ///
    /// # Errors
    /// If it is not within a minute.
    pub fn wait_closed(&self, guest: &mut Guest, port: u16, ends: usize) -> Result<Told> {
        wait_for("the end of each connection", seconds(60), || {
            let told = self.told(guest)?;
            Ok((told.events(port, "closed").len() >= ends).then_some(told))
        })
    }
}

impl Told {
    /// The connections to that port of which this was told, by their names; none of them twice.
    pub fn events(&self, port: u16, what: &str) -> BTreeSet<String> {
        let wanted = |event: &&Value| event["event"] == what && leads_to(event, port);
        self.events.iter().filter(wanted).map(name).collect()
    }

    /// How many events there are of it, with those that were told twice.
    pub fn count(&self, port: u16, what: &str) -> usize {
        self.events.iter().filter(|event| event["event"] == what && leads_to(event, port)).count()
    }

    /// The connections to that port that it has heard of, and not of their end.
    pub fn open(&self, port: u16) -> BTreeSet<String> {
        let listed = self.list.iter().filter(|row| leads_to(row, port)).map(name);
        let mut open: BTreeSet<String> = listed.chain(self.events(port, "established")).collect();
        for end in ["closed", "reset"] {
            open.retain(|name| !self.events(port, end).contains(name));
        }
        open
    }
}

fn leads_to(row: &Value, port: u16) -> bool {
    row["remote"].as_str().is_some_and(|remote| remote.ends_with(&format!(":{port}")))
}

fn name(row: &Value) -> String {
    row["id"].as_str().unwrap_or_default().to_string()
}

/// How many of its lines have that in them.
fn count(guest: &mut Guest, what: &str) -> Result<usize> {
    let text = guest.must(&format!("grep -c '{what}' {FILE} || true"), seconds(20))?;
    Ok(text.trim().parse()?)
}
