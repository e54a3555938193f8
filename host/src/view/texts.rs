//! What open files were answered: who reads on in a file has the rest of the same text.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bytes that all texts together have at most.
const MOST_BYTES: usize = 8 << 20;
/// Bytes that a reader's texts have at most: one alone can't push out those of others.
const MOST_OF_A_READER: usize = 1 << 20;

/// The texts, each by its open file. When there are too many the oldest is forgotten; then who
/// reads on has the rest of a new one.
#[derive(Debug, Default)]
pub struct Texts {
    texts: HashMap<u64, Kept>,
    /// Files by age.
    order: BTreeMap<u64, u64>,
    /// Bytes and files of each reader, by age.
    readers: HashMap<Arc<str>, Reader>,
    bytes: usize,
    next: u64,
}

#[derive(Debug)]
struct Kept {
    text: Arc<str>,
    reader: Arc<str>,
    age: u64,
}

#[derive(Debug, Default)]
struct Reader {
    bytes: usize,
    order: BTreeMap<u64, u64>,
}

impl Texts {
    /// What the file was answered last.
    pub fn get(&self, file: u64) -> Option<Arc<str>> {
        self.texts.get(&file).map(|kept| kept.text.clone())
    }

    /// Keeps what an open file is answered; `reader` is whose machine it tells of.
    pub fn keep(&mut self, file: u64, reader: &Arc<str>, text: &Arc<str>) {
        self.forget(file);
        let age = self.next;
        self.next += 1;
        self.bytes += text.len();
        self.order.insert(age, file);
        let of_reader = self.readers.entry(reader.clone()).or_default();
        of_reader.bytes += text.len();
        of_reader.order.insert(age, file);
        let (text, reader) = (text.clone(), reader.clone());
        let kept = Kept {
            text,
            reader: reader.clone(),
            age,
        };
        self.texts.insert(file, kept);
        while let Some(oldest) = self.too_many(&reader) {
            self.forget(oldest);
        }
    }

    /// Forgets a file that was closed.
    pub fn forget(&mut self, file: u64) {
        let Some(kept) = self.texts.remove(&file) else {
            return;
        };
        self.bytes -= kept.text.len();
        self.order.remove(&kept.age);
        if let Some(reader) = self.readers.get_mut(&kept.reader) {
            reader.bytes -= kept.text.len();
            reader.order.remove(&kept.age);
            if reader.order.is_empty() {
                self.readers.remove(&kept.reader);
            }
        }
    }

    /// The file that is to be forgotten, if there is too much.
    fn too_many(&self, reader: &str) -> Option<u64> {
        let of_reader = self.readers.get(reader);
        let of_reader = of_reader.filter(|reader| reader.bytes > MOST_OF_A_READER);
        let order = match of_reader {
            Some(reader) => &reader.order,
            None if self.bytes > MOST_BYTES => &self.order,
            None => return None,
        };
        order.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_until_its_file_is_closed() {
        let mut texts = Texts::default();
        let reader: Arc<str> = "/a".into();
        texts.keep(1, &reader, &"old".into());
        texts.keep(1, &reader, &"new".into());
        assert_eq!(texts.get(1).as_deref(), Some("new"));
        texts.forget(1);
        texts.forget(1);
        assert_eq!(texts.get(1), None);
        assert!(texts.readers.is_empty() && texts.order.is_empty() && texts.bytes == 0);
    }

    #[test]
    fn one_who_opens_millions_pushes_out_only_his_own() {
        let mut texts = Texts::default();
        let (good, bad): (Arc<str>, Arc<str>) = ("/good".into(), "/bad".into());
        texts.keep(0, &good, &"mine".into());
        let text: Arc<str> = "x".repeat(1000).into();
        for file in 1..100_000 {
            texts.keep(file, &bad, &text);
            assert!(texts.bytes <= MOST_OF_A_READER + 4);
        }
        assert_eq!(texts.get(0).as_deref(), Some("mine"));
        assert!(texts.get(1).is_none() && texts.get(99_999).is_some());
    }

    #[test]
    fn many_readers_have_an_end_too() {
        let mut texts = Texts::default();
        let text: Arc<str> = "x".repeat(1 << 19).into();
        for file in 0..100 {
            let reader: Arc<str> = format!("/{file}").into();
            texts.keep(file, &reader, &text);
            assert!(texts.bytes <= MOST_BYTES);
        }
        assert_eq!(texts.texts.len(), MOST_BYTES >> 19);
    }
}
