//! Single launches of the VMM in the emulated host, for end-to-end tests of it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use dense_record::job::{Launch, Launched};
use dense_record::{Error, Result};

/// Runs it to its end.
pub fn run(launch: &Launch) -> Result<Launched> {
    let Some((program, args)) = launch.command.split_first() else {
        return Err(Error::Invalid("a launch without a command".into()));
    };
    let mut process = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io("start", program))?;
    let mut input = process.stdin.take();
    let mut console = Vec::new();
    let output = process.stdout.take().map(BufReader::new);
    for line in output
        .into_iter()
        .flat_map(BufRead::lines)
        .map_while(std::result::Result::ok)
    {
        println!("launch| {line}");
        if let (true, Some(input)) = (line.contains("VMFIRST READY"), &mut input) {
            input
                .write_all(launch.input.as_bytes())
                .map_err(Error::io("write to", program))?;
        }
        console.push(line);
    }
    let status = process.wait().map_err(Error::io("wait for", program))?;
    Ok(Launched {
        code: status.code(),
        console,
    })
}
