//! What is done about a command line that can't be understood: `vmfirst` and `vmm` do the same.

use std::io::{Write, stderr};
use std::process::ExitCode;

use clap::error::{ContextValue, Error, ErrorKind};

use crate::model::shown;

/// Exit status of a command line that can't be understood, as clap has it.
const USAGE: u8 = 2;

/// Help and version go out as they are; an error of `program`'s command line is one line, for
/// logs and for who reads them.
pub fn not_understood(program: &str, error: Error) -> ExitCode {
    let is_help =
        !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help {
        error.exit();
    }
    // A standard error that is closed or full changes nothing about the status.
    let _ = writeln!(stderr(), "{program}: {}", line(error));
    ExitCode::from(USAGE)
}

/// What is wrong, what may have been meant, and where to read on.
fn line(error: Error) -> String {
    let text = escaped(error).to_string();
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let what: Vec<&str> = what.lines().map(str::trim).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let tips = rest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "));
    let parts: Vec<&str> = [what]
        .into_iter()
        .chain(tips)
        .chain(["see --help"])
        .collect();
    shown(&parts.join("; "))
}

/// Words of the command line go into the message: without their control characters, as an
/// empty line in them would end it, and clap drops what looks like a colour.
fn escaped(mut error: Error) -> Error {
    let words: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(word) => Some((kind, ContextValue::String(shown(word)))),
            ContextValue::Strings(words) => {
                let words = words.iter().map(|word| shown(word)).collect();
                Some((kind, ContextValue::Strings(words)))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in words {
        error.insert(kind, value);
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command, value_parser};

    use super::*;

    #[track_caller]
    fn line_of(arguments: &[&str]) -> String {
        let number = Arg::new("count")
            .long("count")
            .value_parser(value_parser!(u8));
        let command = Command::new("x")
            .arg(number)
            .arg(Arg::new("of").required(true));
        line(command.try_get_matches_from(arguments).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        assert_eq!(
            line_of(&["x"]),
            "the following required arguments were not provided: <of>; see --help"
        );
        assert_eq!(
            line_of(&["x", "a", "--cont", "1"]),
            "unexpected argument '--cont' found; a similar argument exists: '--count'; see --help"
        );
    }

    #[test]
    fn words_of_the_command_line_are_shown_whole_and_harmless() {
        assert_eq!(
            line_of(&["x", "--count", "1\n\n\u{1b}[31mred\u{9b}0m\r"]),
            "invalid value '1\\n\\n\\u{1b}[31mred\\u{9b}0m\\r' for '--count <count>': \
             invalid digit found in string; see --help"
        );
        assert!(line_of(&["x", "a", "--\u{1b}[2J"]).contains("'--\\u{1b}[2J'"));
    }
}
