//! Where a console is, opened as the user asked for it.

use std::io::stdout;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use super::attached::Attached;
use super::input::Input;
use super::log_file::LogFile;
use super::sink::{Sink, Stream};
use crate::config::ConsoleArg;
use crate::devices::socket::Socket;
use crate::{Error, Result};

/// Both ends of the line that are not the port's.
pub struct Place {
    /// Where output goes.
    pub sink: Sink,
    /// Where input comes from.
    pub input: Input,
    /// The file at which the console is found; it goes with this.
    pub socket: Option<Socket>,
}

impl Place {
    /// Opens what `arg` names.
    pub fn open(arg: &ConsoleArg) -> Result<Self> {
        let quiet = |sink| Self {
            sink,
            input: Input::None,
            socket: None,
        };
        Ok(match arg {
            ConsoleArg::Stdio => {
                let stream = Stream::new(stdout().as_fd());
                Self {
                    input: Input::standard()?,
                    ..quiet(Sink::Stream(
                        stream.map_err(Error::system("open standard output"))?,
                    ))
                }
            }
            ConsoleArg::Socket(Some(path)) => {
                let (socket, listener) = Socket::bind(path)?;
                Self::at(listener, Some(socket))
            }
            ConsoleArg::Socket(None) => {
                return Err(Error::Usage("the console's socket has no path".into()));
            }
            ConsoleArg::File(to) => quiet(Sink::File(LogFile::open(&to.file, to.limit.0)?)),
            ConsoleArg::None => quiet(Sink::Nowhere),
        })
    }

    /// Whoever comes to `listener`.
    pub fn at(listener: UnixListener, socket: Option<Socket>) -> Self {
        Self {
            sink: Sink::Attached(Attached::default()),
            input: Input::Socket(listener),
            socket,
        }
    }

    /// Sees that it can be opened, and opens nothing.
    pub fn check(arg: &ConsoleArg) -> Result<()> {
        match arg {
            ConsoleArg::Socket(Some(path)) => Socket::folder(path).map(drop),
            ConsoleArg::File(to) => LogFile::check(&to.file),
            ConsoleArg::Stdio | ConsoleArg::Socket(None) | ConsoleArg::None => Ok(()),
        }
    }

    /// Whether it is standard input and output.
    pub fn is_stdio(&self) -> bool {
        matches!(self.sink, Sink::Stream(_))
    }
}
