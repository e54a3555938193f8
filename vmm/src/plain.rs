//! Texts of others on their way to a terminal.

/// The text without what a terminal would obey: control characters, and those that change
/// the direction of writing, are escaped.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match is_obeyed(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

fn is_obeyed(c: char) -> bool {
    // Unicode's explicit directional formatting characters: UAX #9, section 2.
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(plain("web-1 \u{e4}"), "web-1 \u{e4}");
        assert_eq!(plain("\x1b[2Ja\r\n"), "\\u{1b}[2Ja\\r\\n");
        assert_eq!(plain("\u{9b}7m\u{7f}\u{202e}"), "\\u{9b}7m\\u{7f}\\u{202e}");
    }
}
