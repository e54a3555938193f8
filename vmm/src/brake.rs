//! Whether a machine's devices stand still: it is paused, or has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Default)]
struct State {
    paused: AtomicBool,
    ended: AtomicBool,
}

/// The brake of one machine, for whoever pulls it and for whoever heeds it.
#[derive(Debug, Clone, Default)]
pub struct Brake(Arc<State>);

impl Brake {
    /// Has devices begin no more requests, or go on with them.
    pub fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::SeqCst);
    }

    /// Has devices stop for good, in the midst of a request too.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::SeqCst);
    }

    /// Whether no request is to be begun.
    pub fn is_on(&self) -> bool {
        self.0.paused.load(Ordering::SeqCst) || self.has_ended()
    }

    /// Whether what is under way is to be given up.
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::SeqCst)
    }
}
