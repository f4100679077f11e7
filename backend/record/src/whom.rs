//! For whom a thread is at work, so that a death can be laid at somebody's door.
//!
//! Threads of all kinds run side by side, and one of them dies. Each keeps a note of its own, and whoever dies of its own fault writes its
//! note into the checkpoint's header, where the master looks ([`Header::take_culprit`](crate::Header::take_culprit)).
use crate::header::WORKERS_MAX;
use std::cell::Cell;

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// For nobody, or everybody.
    Nobody,
    /// For this VM: with what its VMM has said.
    Vm(u64),
    /// As the words in the header say ([`Header::work_on`](crate::Header::work_on)) of this worker, which the thread is: it is at frames.
    Worker(usize),
}

thread_local! {
    /// Without initialisation or destructor: a signal's handler may read it.
    static NOTE: Cell<u64> = const { Cell::new(NOBODY) };
}

/// No VM has this number but one of 2^64.
const NOBODY: u64 = u64::MAX;
/// The note, and the header's word, that leave it to the first worker's words, or to those of the only one.
const FIRST_WORKER: u64 = 0;
/// The others' lie in front of this: the second one's is one less. No VM has these either.
const LAST_WORKERS: u64 = NOBODY;

/// From here on this thread works for these. At first it does for nobody.
#[inline]
pub fn work_for(whom: Whom) {
    NOTE.set(whom.word());
}

/// What this thread's word says.
pub(crate) fn note() -> u64 {
    NOTE.get()
}

impl Whom {
    pub(crate) fn word(self) -> u64 {
        match self {
            Whom::Nobody => NOBODY,
            Whom::Vm(vm) => vm,
            Whom::Worker(0) => FIRST_WORKER,
            Whom::Worker(worker) => LAST_WORKERS - (worker % WORKERS_MAX) as u64,
        }
    }

    pub(crate) fn of_word(word: u64) -> Whom {
        match word {
            NOBODY => Whom::Nobody,
            FIRST_WORKER => Whom::Worker(0),
            word if LAST_WORKERS - word < WORKERS_MAX as u64 => Whom::Worker((LAST_WORKERS - word) as usize),
            vm => Whom::Vm(vm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let workers = (0..WORKERS_MAX).map(Whom::Worker);
        for whom in workers.chain([Whom::Nobody, Whom::Vm(1), Whom::Vm(u64::MAX - WORKERS_MAX as u64)]) {
            assert_eq!(Whom::of_word(whom.word()), whom);
        }
    }
}
