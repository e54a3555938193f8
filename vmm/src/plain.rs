//! Texts of others on their way to a terminal.

pub use vmfirst_host::model::shown as plain;

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
