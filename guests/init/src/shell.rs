//! Programs that a workload runs, with their output on the console too.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::{Error, Result};

/// Starts a program whose standard output is read line by line.
pub fn spawn(program: &str, args: &[&str]) -> Result<Child> {
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::os(format!("start {program}")))
}

/// The lines that a started program prints, each repeated on the console.
pub fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let output = child.stdout.take().map(BufReader::new);
    output
        .into_iter()
        .flat_map(BufRead::lines)
        .map_while(std::result::Result::ok)
        .inspect(|line| println!("{line}"))
}

/// Runs a program to its end; returns what it printed, or why it failed.
pub fn output(program: &str, args: &[&str]) -> Result<Vec<String>> {
    let mut child = spawn(program, args)?;
    let printed: Vec<String> = lines(&mut child).collect();
    let status = child
        .wait()
        .map_err(Error::os(format!("wait for {program}")))?;
    if !status.success() {
        return Err(Error::Workload(format!("{program} failed: {status}")));
    }
    Ok(printed)
}
