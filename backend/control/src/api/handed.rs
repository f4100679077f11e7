//! Things that a request or a response carries and that somebody takes out of it.
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Something that is handed over once, however often the message that carries it is copied.
pub struct Handed<T>(Arc<Mutex<Option<T>>>);

impl<T> Handed<T> {
    /// Something to be handed over.
    pub fn new(thing: T) -> Handed<T> {
        Handed(Arc::new(Mutex::new(Some(thing))))
    }

    /// It; `None`: somebody has it already, or there was nothing.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Default for Handed<T> {
    /// Nothing.
    fn default() -> Handed<T> {
        Handed(Arc::default())
    }
}

impl<T> Clone for Handed<T> {
    fn clone(&self) -> Handed<T> {
        Handed(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Handed<T> {
    /// Whether both hand over the same thing.
    fn eq(&self, other: &Handed<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> fmt::Debug for Handed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handed")
    }
}
