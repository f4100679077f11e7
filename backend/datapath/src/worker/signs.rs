//! Signs of life, and of what the worker was at when it died: words of the checkpoint's header, which outlives this process.
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;
use vonic_record::{Checkpoint, Whom, work_for};

/// A worker's words.
pub(crate) struct Signs {
    checkpoint: Arc<Checkpoint>,
    /// The worker's number.
    own: usize,
    answered: u64,
}

impl Signs {
    /// Of a worker that begins.
    pub(crate) fn new(checkpoint: Arc<Checkpoint>, own: usize) -> Signs {
        checkpoint.header().work_on(own, 0);
        Signs { checkpoint, own, answered: 0 }
    }

    /// Answers the master, if it has asked: once a round.
    #[inline]
    pub(crate) fn answer(&mut self) {
        let asked = self.checkpoint.header().asked();
        if asked != self.answered {
            self.answered = asked;
            self.checkpoint.header().answer(self.own, asked);
        }
    }

    /// What follows is done for this VM.
    #[inline]
    pub(crate) fn at(&self, vm: u64) {
        self.checkpoint.header().work_on(self.own, vm);
    }

    /// What follows is a command: what this VM's VMM has said, or nobody's.
    pub(crate) fn at_command(&self, of: Option<u64>) {
        work_for(of.map_or(Whom::Nobody, Whom::Vm));
    }

    /// What follows is done for whomever the header names.
    pub(crate) fn at_frames(&self) {
        work_for(Whom::Worker(self.own));
    }

    /// What follows is nobody's own.
    #[inline]
    pub(crate) fn at_none(&self) {
        self.checkpoint.header().work_on(self.own, 0);
    }
}

/// Wakes a worker that sleeps, for a look at what is asked of it.
#[derive(Clone)]
pub struct Waker(pub(super) Arc<EventFd>);

impl Waker {
    /// Wakes it.
    pub fn wake(&self) {
        // Fails only if the counter is full: it is awake then.
        let _ = self.0.write(1);
    }
}
