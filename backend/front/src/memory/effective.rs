//! The memory that a session has, for its journal.
use super::{Table, single, table};
use crate::message::{Message, Request};

/// The whole memory as one SET_MEM_TABLE that a fresh backend takes, kept up to date over ADD_MEM_REG and REM_MEM_REG. All
/// messages have been checked.
#[derive(Debug, Default)]
pub(crate) struct Effective(Option<Message>);

impl Effective {
    /// SET_MEM_TABLE.
    pub(crate) fn set(&mut self, message: Message) {
        self.0 = Some(message);
    }

    /// ADD_MEM_REG.
    pub(crate) fn add(&mut self, added: Message) {
        let Some(region) = single(&added) else { return };
        let message = self.0.get_or_insert_with(|| Message::new(Request::SetMemTable, table(&[])));
        let mut regions = Table::of(message).0;
        let place = regions.partition_point(|r| r.guest < region.guest).min(message.fds.len());
        regions.insert(place, region);
        message.body = table(&regions);
        message.fds.splice(place..place, added.fds);
    }

    /// REM_MEM_REG. Without a region left there is no table to be sent.
    pub(crate) fn remove(&mut self, removed: &Message) {
        let (Some(region), Some(message)) = (single(removed), &mut self.0) else { return };
        let mut regions = Table::of(message).0;
        let Some(place) = regions.iter().position(|r| r.is(&region)).filter(|&p| p < message.fds.len()) else { return };
        regions.remove(place);
        message.body = table(&regions);
        drop(message.fds.remove(place));
        if regions.is_empty() {
            self.0 = None;
        }
    }

    /// The message, if there is memory.
    pub(crate) fn message(&self) -> Option<&Message> {
        self.0.as_ref()
    }

    /// The table in it.
    pub(crate) fn table(&self) -> Table {
        self.0.as_ref().map(Table::of).unwrap_or_default()
    }
}
