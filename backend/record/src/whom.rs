//! For whom a thread is at work, so that a death can be laid at somebody's door.
//!
//! Threads of all kinds run side by side, and one of them dies. Each keeps a note of its own, and whoever dies of its own fault writes its
//! note into the checkpoint's header, where the master looks ([`Header::take_culprit`](crate::Header::take_culprit)).
use std::cell::Cell;

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// For nobody, or everybody.
    Nobody,
    /// For this VM: with what its VMM has said.
    Vm(u64),
    /// As the thread's words in the header say ([`Header::work_on`](crate::Header::work_on)): it is a worker, at frames.
    AsNoted,
}

thread_local! {
    /// Without initialisation or destructor: a signal's handler may read it.
    static NOTE: Cell<u64> = const { Cell::new(NOBODY) };
}

/// No VM has this number but one of 2^64.
const NOBODY: u64 = u64::MAX;
/// The note, and the header's word, that leave it to the worker's words.
const AS_NOTED: u64 = 0;

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
    fn word(self) -> u64 {
        match self {
            Whom::Nobody => NOBODY,
            Whom::Vm(vm) => vm,
            Whom::AsNoted => AS_NOTED,
        }
    }

    pub(crate) fn of_word(word: u64) -> Whom {
        match word {
            NOBODY => Whom::Nobody,
            AS_NOTED => Whom::AsNoted,
            vm => Whom::Vm(vm),
        }
    }
}
