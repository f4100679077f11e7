//! The border between the service's thread and the engine: a guest's questions go over it.
use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use vonic_agent::metadata::Metadata;
use vonic_agent::nic::Nic;
use vonic_datapath::{ListPart, ListPlace, Notifier, Reply};

use super::Guest;

/// What the engine is asked for a guest. Whoever is not answered finds its end of the answer gone.
pub enum Question {
    /// What the VM is told of itself.
    Metadata(oneshot::Sender<Metadata>),
    /// What the NIC sees of it, without rates.
    Nic(oneshot::Sender<Nic>),
    /// A part of its connections.
    Connections(ListPlace, Reply<ListPart>),
    /// Tell of its connections there, or nobody any more.
    Notify(Option<Notifier>),
}

/// The way to the engine; it must not block.
pub struct Asker(Box<dyn Fn(Arc<Guest>, Question) + Send + Sync>);

impl Asker {
    /// `ask` hands a question over.
    pub fn new(ask: impl Fn(Arc<Guest>, Question) + Send + Sync + 'static) -> Asker {
        Asker(Box::new(ask))
    }

    /// Asks, and waits for nothing.
    pub(super) fn tell(&self, guest: &Arc<Guest>, question: Question) {
        (self.0)(Arc::clone(guest), question);
    }

    /// Asks, and returns what will be answered.
    pub(super) fn ask<T>(
        &self,
        guest: &Arc<Guest>,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> oneshot::Receiver<T> {
        let (sender, answer) = oneshot::channel();
        self.tell(guest, question(sender));
        answer
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker")
    }
}
