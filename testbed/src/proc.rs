//! Child processes that can be stopped and that never outlive us.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Error, Result};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Set when the user wants everything to end.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that Ctrl-C and SIGTERM set; a second signal ends the program at once.
    pub fn on_signals() -> Result<Self> {
        let cancel = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let install = || {
                signal_hook::flag::register_conditional_shutdown(signal, 130, cancel.0.clone())?;
                signal_hook::flag::register(signal, cancel.0.clone())
            };
            install().map_err(Error::io("watch signals for", "this process"))?;
        }
        Ok(cancel)
    }

    /// Whether the user asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks everything to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// An error once the user asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_set() {
            return Err(Error::Cancelled);
        }
        Ok(())
    }
}

/// A command whose process dies with the thread that started it.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command.stdin(Stdio::null()).process_group(0);
    command
}

/// The program that a [`command`] runs, for messages.
fn name(command: &Command) -> String {
    let arg = command.get_args().nth(3).unwrap_or(command.get_program());
    Path::new(arg)
        .file_name()
        .unwrap_or(arg)
        .to_string_lossy()
        .into_owned()
}

/// Runs a [`command`] until it ends or the user asks to stop.
pub fn run(
    mut command: Command,
    cancel: &Cancel,
    mut while_running: impl FnMut(),
) -> Result<ExitStatus> {
    cancel.check()?;
    let mut child = command.spawn().map_err(|source| Error::Start {
        program: name(&command),
        source,
    })?;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if !cancel.is_set() => {}
            _ => {
                stop(&mut child);
                return Err(Error::Cancelled);
            }
        }
        while_running();
        std::thread::sleep(POLL);
    }
}

/// Ends a child and all that it started. Failures mean that it is gone already.
fn stop(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()).map(Pid::from_raw)
        && let Some(group) = group
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

/// Runs a [`command`] with its output in `log`; tells `on_line` of each line
/// as it comes, and makes an error of a failure.
pub fn run_logged(
    mut command: Command,
    log: &Path,
    cancel: &Cancel,
    mut on_line: impl FnMut(&str),
) -> Result<()> {
    let out = File::create(log).map_err(Error::io("create", log))?;
    let err = out.try_clone().map_err(Error::io("share", log))?;
    command.stdout(out).stderr(err);
    let program = name(&command);
    let mut tail = Tail::open(log)?;
    let status = run(command, cancel, || tail.poll(&mut on_line))?;
    tail.poll(&mut on_line);
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        program,
        status,
        last_line: last_line(log),
        log: log.to_path_buf(),
    })
}

/// Runs a short [`command`] and returns what it printed.
pub fn output(mut command: Command) -> Result<String> {
    let program = name(&command);
    let out = command.output().map_err(|source| Error::Start {
        program: program.clone(),
        source,
    })?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(Error::Setup(format!(
            "{program} failed ({}): {}",
            out.status,
            said.lines().last().unwrap_or_default()
        )));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The last line with something on it, for messages.
pub fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("(no output)")
        .to_string()
}

/// Follows a growing file line by line.
struct Tail {
    file: File,
    partial: Vec<u8>,
}

impl Tail {
    fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        file.seek(SeekFrom::Start(0))
            .map_err(Error::io("seek in", path))?;
        Ok(Self {
            file,
            partial: Vec::new(),
        })
    }

    fn poll(&mut self, on_line: &mut impl FnMut(&str)) {
        // A log that can't be read costs the progress display only.
        let _ = self.file.read_to_end(&mut self.partial);
        while let Some(end) = self.partial.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            on_line(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_program_and_its_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut sh = command("sh");
        sh.args(["-c", "echo one; echo two; exit 3"]);
        let mut lines = Vec::new();
        let error = run_logged(sh, &dir.path().join("log"), &Cancel::default(), |l| {
            lines.push(l.to_string());
        })
        .unwrap_err()
        .to_string();
        assert_eq!(lines, ["one", "two"]);
        assert!(
            error.starts_with("sh failed (exit status: 3): two"),
            "{error}"
        );
    }

    #[test]
    fn a_cancelled_child_is_gone() {
        let cancel = Cancel::default();
        let mut sleep = command("sleep");
        sleep.arg("1000");
        let ended = run(sleep, &cancel, || cancel.set());
        assert!(matches!(ended, Err(Error::Cancelled)));
    }
}
