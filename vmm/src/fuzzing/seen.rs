//! What came of an input, for the test that an input's outcome is its own.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a guest, user or peer has seen of a run, in one number.
#[derive(Default)]
pub struct Seen(Option<DefaultHasher>);

impl Seen {
    /// For who wants to know.
    pub fn wanted() -> Self {
        Self(Some(DefaultHasher::new()))
    }

    /// Notes what was seen.
    pub fn note(&mut self, what: impl Hash) {
        self.note_with(|| what);
    }

    /// Notes what takes time to find out.
    pub fn note_with<T: Hash>(&mut self, what: impl FnOnce() -> T) {
        if let Some(hasher) = &mut self.0 {
            what().hash(hasher);
        }
    }

    /// All of it.
    pub fn digest(self) -> Option<u64> {
        self.0.map(|hasher| hasher.finish())
    }
}
