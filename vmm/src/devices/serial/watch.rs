//! Waits for a text in what the guest prints.

use vmm_sys_util::eventfd::EventFd;

/// Tells once when the text has gone by.
pub struct Watch {
    text: Vec<u8>,
    /// The last bytes, at most as many as the text has.
    last: Vec<u8>,
    seen: EventFd,
}

impl Watch {
    /// Writes `seen` when `text` has gone by.
    pub fn new(text: &str, seen: EventFd) -> Self {
        Self {
            text: text.into(),
            last: Vec::with_capacity(text.len()),
            seen,
        }
    }

    /// Takes what was printed; returns whether the text was in it, up to now.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.last.len() == self.text.len() {
                self.last.remove(0);
            }
            self.last.push(byte);
            if self.last == self.text {
                // Fails only when 2^64 - 1 of them wait already.
                let _ = self.seen.write(1);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_wherever_it_begins() {
        let seen = EventFd::new(0).unwrap();
        let mut watch = Watch::new("aab", seen.try_clone().unwrap());
        assert!(!watch.take(b"xaa"));
        assert!(watch.take(b"ab"));
        assert_eq!(seen.read().unwrap(), 1);
        assert!(!Watch::new("aab", seen).take(b"aaxb"));
    }
}
