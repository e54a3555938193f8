//! The terminal, if standard input is one.

use std::io::stdin;

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr,
};

use crate::{Error, Result};

/// A terminal that passes every key on; as it was before when this is dropped.
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Of standard input, unless that is something else.
    pub fn new() -> Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).map_err(Error::system("set up the terminal"))?;
        let mut raw = before.clone();
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::IXON;
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .map_err(Error::system("set up the terminal"))?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}
