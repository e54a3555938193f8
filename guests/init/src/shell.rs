//! Programs that a workload runs, with all that they say on the console too.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};

use crate::{Error, Result};

/// A running program and the processes that it starts.
pub struct Program {
    name: &'static str,
    child: Child,
    output: BufReader<PipeReader>,
}

impl Program {
    /// Starts it. Its output and its errors are one stream of lines.
    pub fn start(name: &'static str, args: &[&str]) -> Result<Self> {
        let (output, to_output) = pipe().map_err(Error::os("make a pipe"))?;
        let errors = to_output.try_clone().map_err(Error::os("share a pipe"))?;
        let child = Command::new(name)
            .args(args)
            .stdin(Stdio::null())
            .stdout(to_output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::os(format!("start {name}")))?;
        let output = BufReader::new(output);
        Ok(Self {
            name,
            child,
            output,
        })
    }

    /// Its next line, which also goes to the console; none after its end.
    pub fn next_line(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        // A pipe that cannot be read is one that has ended.
        self.output.read_until(b'\n', &mut bytes).ok()?;
        if bytes.is_empty() {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
        println!("{line}");
        Some(line)
    }

    /// Waits for its end; returns the lines that were left, or why it failed.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let lines: Vec<String> = std::iter::from_fn(|| self.next_line()).collect();
        let name = self.name;
        let status = self.child.wait();
        let status = status.map_err(Error::os(format!("wait for {name}")))?;
        if status.success() {
            return Ok(lines);
        }
        let last = lines.last().map_or("nothing", String::as_str);
        Err(Error::Workload(format!(
            "{name} failed: {status}; it said last: {last}"
        )))
    }

    /// Kills it with all that it started, and waits until they are gone.
    pub fn kill(mut self) {
        // It may have ended by itself, which is just as well.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        // The first process of a system is the parent of all that lost theirs.
        while wait(WaitOptions::empty()).is_ok() {}
    }
}

/// Runs a program whose words are not for the console to its end; returns them,
/// or why it failed.
pub fn quiet(name: &str, args: &[&str]) -> Result<String> {
    said(Command::new(name).args(args))
}

/// The same with all that a command may be told.
pub fn said(command: &mut Command) -> Result<String> {
    let child = start_quiet(command)?;
    words(command, child)
}

/// Starts a program whose words are kept for [`words`]; a pipe takes 64 KiB of them.
pub fn start_quiet(command: &mut Command) -> Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::os(format!("start {}", name(command))))
}

/// Waits for the end of what a command has started; returns its words, or why it failed.
pub fn words(command: &Command, child: Child) -> Result<String> {
    let name = name(command);
    let output = child.wait_with_output();
    let output = output.map_err(Error::os(format!("wait for {name}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().collect::<Vec<_>>().join(" / ");
    Err(Error::Workload(format!(
        "{name} failed: {}; it said: {said}",
        output.status
    )))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: &str = "/bin/sh";

    #[test]
    fn output_and_errors_are_lines_of_one_stream() {
        let program = Program::start(SHELL, &["-c", "echo a; echo b >&2; printf c"]).unwrap();
        assert_eq!(program.finish().unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn a_failure_is_told_with_the_last_words() {
        let program = Program::start(SHELL, &["-c", "echo oops >&2; exit 3"]).unwrap();
        let error = program.finish().unwrap_err().to_string();
        assert!(error.contains("3; it said last: oops"), "{error}");
        let error = quiet(SHELL, &["-c", "echo oops >&2; exit 4"]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("4; it said: oops"), "{error}");
    }
}
