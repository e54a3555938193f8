//! One VM of a cell: its process, its console, what it says.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::spec::CellSpec;
use crate::{Error, Result};

/// Begins each line that is meant for the harness; see the guests' `protocol`.
const PREFIX: &str = "VMFIRST ";
/// Console lines that an error quotes.
const TAIL: usize = 3;
/// How long a VMM may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// The order to run a workload.
#[derive(Debug, Serialize)]
pub struct Go<'a> {
    pub workload: &'a str,
    pub clients: u32,
    pub warmup_ms: u64,
    pub window_ms: u64,
    pub seed: u64,
}

/// What a guest measured.
#[derive(Debug, Deserialize)]
pub struct Outcome {
    pub value: f64,
    pub unit: String,
    #[serde(rename = "window_s")]
    _window_s: f64,
    pub extras: BTreeMap<String, f64>,
}

/// A running VM; it ends when this is dropped.
pub struct Guest {
    number: usize,
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    tail: VecDeque<String>,
}

impl Guest {
    /// Makes the disk in `folder` and starts the VM.
    pub fn start(spec: &CellSpec, number: usize, folder: &Path) -> Result<Self> {
        let disk = make_disk(spec, number, folder)?;
        let mut process = Command::new(&spec.paths.vmm)
            .arg("run")
            .arg("--kernel")
            .arg(&spec.paths.kernel)
            .arg("--initrd")
            .arg(spec.initrd())
            .arg("--disk")
            .arg(&disk)
            .args(["--cpus", &spec.vcpus.to_string()])
            .args(["--mem", &format!("{}M", spec.mem_mib)])
            .args(["--cmdline", &spec.guest_cmdline])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io("start", &spec.paths.vmm))?;
        let (sender, lines) = channel();
        if let Some(output) = process.stdout.take() {
            thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                while output.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_string();
                    println!("guest{number}| {text}");
                    line.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            number,
            input: process.stdin.take(),
            process,
            lines,
            tail: VecDeque::new(),
        })
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the guest has booted.
    pub fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        self.wait_for("READY", deadline, "did not say READY")
            .map(|_| ())
    }

    /// Tells the guest to run.
    pub fn go(&mut self, go: &Go) -> Result<()> {
        let json = serde_json::to_string(go).map_err(|e| Error::Invalid(e.to_string()))?;
        let sent = match &mut self.input {
            Some(input) => input.write_all(format!("{PREFIX}GO {json}\n").as_bytes()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|e| self.error(format!("takes no input: {e}")))
    }

    /// Waits for what the guest measured, and for the VM's clean end.
    pub fn finish(&mut self, deadline: Instant) -> Result<Outcome> {
        let json = self.wait_for("RESULT", deadline, "gave no RESULT")?;
        let outcome = serde_json::from_str(&json)
            .map_err(|e| self.error(format!("result not understood: {e}")))?;
        while self.next_line(deadline, "did not power off")?.is_some() {}
        let status = self
            .process
            .wait()
            .map_err(|e| self.error(format!("cannot be waited for: {e}")))?;
        if !status.success() {
            return Err(self.error(format!("its VMM ended with {status}")));
        }
        Ok(outcome)
    }

    /// Reads lines up to one with `word` for the harness; returns the rest of that line.
    fn wait_for(&mut self, word: &str, deadline: Instant, failure: &str) -> Result<String> {
        while let Some(line) = self.next_line(deadline, failure)? {
            let Some(said) = line.find(PREFIX).map(|at| &line[at + PREFIX.len()..]) else {
                continue;
            };
            if let Some(why) = said.strip_prefix("FAILED ") {
                return Err(self.error(why.to_string()));
            }
            if let Some(rest) = said.strip_prefix(word) {
                return Ok(rest.trim().to_string());
            }
        }
        let status = self.process.wait().map(|s| s.to_string());
        let status = status.unwrap_or_else(|e| e.to_string());
        let tail = Vec::from(self.tail.clone()).join(" / ");
        Err(self.error(format!(
            "{failure}; its VMM ended with {status}; console: {tail}"
        )))
    }

    /// The console's next line; none when the VMM has closed it.
    fn next_line(&mut self, deadline: Instant, failure: &str) -> Result<Option<String>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let tail = Vec::from(self.tail.clone()).join(" / ");
                Err(self.error(format!("{failure} in time; console: {tail}")))
            }
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::Guest {
            guest: self.number,
            reason,
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.process.try_wait() {
            return;
        }
        let pid = i32::try_from(self.process.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.process.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An ext4 image that is the same, byte for byte, whenever it is made.
fn make_disk(spec: &CellSpec, number: usize, folder: &Path) -> Result<PathBuf> {
    const UUID: &str = "76666972-7374-4000-8000-000000000000";
    let path = folder.join(format!("disk{number}.img"));
    let made = Command::new(&spec.paths.mke2fs)
        .args(["-q", "-F", "-t", "ext4", "-U", UUID, "-E"])
        .arg(format!(
            "hash_seed={UUID},lazy_itable_init=1,lazy_journal_init=1,nodiscard"
        ))
        .arg(&path)
        .arg(format!("{}m", spec.disk_mib))
        .env("E2FSPROGS_FAKE_TIME", "1767225600")
        .output()
        .map_err(Error::io("start", &spec.paths.mke2fs))?;
    if made.status.success() {
        return Ok(path);
    }
    Err(Error::Program {
        program: spec.paths.mke2fs.display().to_string(),
        reason: String::from_utf8_lossy(&made.stderr).trim().to_string(),
    })
}
