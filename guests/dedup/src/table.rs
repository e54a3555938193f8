//! The table of chunks that a pass has seen, by their SHA-1.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

/// A chunk's SHA-1.
pub type Digest = [u8; 20];

/// Parts with a lock each.
const SHARDS: usize = 256;

/// A chunk's content, seen once or more.
pub struct Entry {
    pub digest: Digest,
    packed: Mutex<Option<Packed>>,
}

/// A chunk's compressed bytes, in a mapping of their own.
pub struct Packed {
    pub map: MmapMut,
    pub length: usize,
}

impl Entry {
    /// Gives it its compressed bytes.
    pub fn set(&self, packed: Packed) {
        *self.packed.lock().unwrap_or_else(PoisonError::into_inner) = Some(packed);
    }

    /// Takes the compressed bytes, if they are there yet.
    pub fn take(&self) -> Option<Packed> {
        self.packed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The table of one pass over the input.
pub struct Table(Vec<Mutex<BTreeMap<Digest, Arc<Entry>>>>);

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// The entry of a content, and whether it is new.
    pub fn enter(&self, digest: Digest) -> (Arc<Entry>, bool) {
        let shard = &self.0[usize::from(digest[0]) % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match shard.entry(digest) {
            Slot::Occupied(slot) => (Arc::clone(slot.get()), false),
            Slot::Vacant(slot) => {
                let entry = Entry {
                    digest,
                    packed: Mutex::new(None),
                };
                (Arc::clone(slot.insert(Arc::new(entry))), true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_new_once() {
        let table = Table::new();
        let (first, new) = table.enter([7; 20]);
        assert!(new);
        let (second, new) = table.enter([7; 20]);
        assert!(!new);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(table.enter([8; 20]).1);
    }
}
