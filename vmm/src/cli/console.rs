//! `vmm console`.

use std::io::{Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm::config::VmName;
use vmm::run::RawTerminal;
use vmm::rundir::RunDir;
use vmm::{Error, Result};

/// What `vmm console --help` ends with.
pub const HELP: &str = "\
Ctrl-] leaves the console; the machine runs on, and Ctrl-C is the guest's. First comes what
the guest has printed last, up to 64 KiB. One client at a time: the newest.

Examples:
  vmm run --config web.toml --name web --console socket      elsewhere:
  vmm console web
  vmm run --config web.toml --console socket=/run/web.tty    elsewhere:
  vmm console /run/web.tty
  What it has printed last, and what it prints from now on:
  vmm console web < /dev/null

What the guest prints goes to the terminal as it is.";

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// The options of `vmm console`.
#[derive(Debug, clap::Args)]
pub struct Console {
    /// The machine's name, or the path of its console's socket
    #[arg(value_name = "NAME|PATH")]
    place: String,
}

impl Console {
    /// Connects the terminal with a machine's console until one of them goes.
    pub fn run(self, run_dir: &RunDir) -> Result<ExitCode> {
        let path = match self.place.contains('/') {
            true => PathBuf::from(&self.place),
            false => {
                let name: VmName = self.place.parse().map_err(Error::Usage)?;
                run_dir.console(&name)
            }
        };
        let console = UnixStream::connect(&path).map_err(|error| {
            Error::Gone(format!(
                "no console at {}: {error}; does the machine run, with --console socket?",
                path.display()
            ))
        })?;
        let terminal = RawTerminal::new()?;
        if terminal.is_some() {
            // Behind the machine's own words a line of its own, however they end.
            eprint!("vmm: Ctrl-] leaves this console\r\n");
        }
        let done = carry(console, terminal.is_some());
        drop(terminal);
        done.map_err(Error::system("carry the console"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Carries bytes both ways until the machine or, at a terminal, the user leaves.
fn carry(mut console: UnixStream, terminal: bool) -> std::io::Result<()> {
    let mut typing = true;
    let mut buffer = [0; 4096];
    loop {
        let input = stdin();
        let mut ready = vec![PollFd::from_borrowed_fd(console.as_fd(), PollFlags::IN)];
        if typing {
            ready.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        }
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let [printed, typed] =
            [0, 1].map(|n| ready.get(n).is_some_and(|r| !r.revents().is_empty()));
        if printed {
            let size = console.read(&mut buffer)?;
            if size == 0 {
                return Ok(());
            }
            stdout().write_all(&buffer[..size])?;
            stdout().flush()?;
        }
        if typed {
            let size = rustix::io::read(&input, &mut buffer)?;
            let bytes = &buffer[..size];
            let left = bytes
                .iter()
                .position(|&byte| byte == LEAVE)
                .filter(|_| terminal);
            console.write_all(&bytes[..left.unwrap_or(size)])?;
            if left.is_some() {
                return Ok(());
            }
            typing = size > 0;
        }
    }
}
