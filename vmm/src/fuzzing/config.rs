//! The configuration's file.

use super::seen::Seen;
use crate::config::file;

/// A text; the first byte says whether it is JSON. What is accepted is written so that it
/// is read as the same.
pub fn config(input: &[u8], seen: &mut Seen) {
    let Some((&first, text)) = input.split_first() else {
        return;
    };
    let Ok(text) = str::from_utf8(text) else {
        return;
    };
    let json = first & 1 == 1;
    let args = match file::parse(text, json) {
        Ok(args) => args.or_default(),
        Err((line, reason)) => {
            assert!(line <= text.lines().count() + 1, "{line} {reason}");
            assert!(!reason.contains(char::is_control), "{reason}");
            seen.note((line, reason));
            return;
        }
    };
    seen.note_with(|| format!("{args:?}"));
    for json in [false, true] {
        // A path that is no text cannot come from a text.
        let written = file::write(&args, json).expect("every value can be written");
        assert_eq!(file::parse(&written, json).as_ref(), Ok(&args), "{written}");
    }
}
