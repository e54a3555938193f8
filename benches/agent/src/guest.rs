//! One VM of a cell: its process, its console, what it says.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, PipeReader, Read, Write, pipe};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dense_record::chosen::{fair, word};
use dense_record::spec::CellSpec;
use dense_record::{Error, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::truth::Wait;

/// Begins each line that is meant for the harness; see the guests' `protocol`.
const PREFIX: &str = "VMFIRST ";
/// Console lines that an error quotes.
const TAIL: usize = 5;
/// Longer lines are broken, whatever a guest prints.
const LONGEST_LINE: u64 = 16 * 1024;
/// Waits that are kept of a guest, whatever it prints.
const MOST_WAITS: usize = 64 * 4096;
/// How long a VMM may take to end after it was asked to, or has closed its output.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

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
#[serde(deny_unknown_fields)]
pub struct Outcome {
    pub value: f64,
    pub unit: String,
    pub window_s: f64,
    pub extras: BTreeMap<String, f64>,
}

/// What happens to a guest, by its number.
#[derive(Debug)]
pub enum Event {
    /// Its console or its VMM printed a line.
    Line(usize, String),
    /// Its VMM will print no more.
    Closed(usize),
}

/// A running VM; it ends when this is dropped.
pub struct Guest {
    number: usize,
    process: Child,
    input: Option<ChildStdin>,
    tail: VecDeque<String>,
    ready: bool,
    waits: Vec<Wait>,
    outcome: Option<Outcome>,
    ended: bool,
}

impl Guest {
    /// Makes the disk in `folder` and starts the VM, whose lines go to `events`.
    pub fn start(
        spec: &CellSpec,
        number: usize,
        folder: &Path,
        listener: Listener,
    ) -> Result<Self> {
        let disk = make_disk(spec, number, folder)?;
        let vmm = &spec.paths.vmm;
        let (output, to_output) = pipe().map_err(Error::io("make a pipe for", vmm))?;
        let messages = to_output
            .try_clone()
            .map_err(Error::io("make a pipe for", vmm))?;
        // A process group of its own: Ctrl-C is for the harness, which ends its VMs.
        let mut command = Command::new(vmm);
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes one system call, which is
        // safe there, and allocates nothing.
        unsafe { command.pre_exec(die_with_us) };
        let mut process = command
            // A benchmark's guests are our own: no word about root among theirs.
            .args(["run", "--stay-root"])
            .arg("--kernel")
            .arg(&spec.paths.kernel)
            .arg("--initrd")
            .arg(spec.initrd())
            .arg("--disk")
            .arg(&disk)
            .args(["--cpus", &spec.chosen.vcpus.to_string()])
            .args(["--mem", &format!("{}M", spec.chosen.mem_mib)])
            .args(["--cmdline", &cmdline(spec)])
            .args(options(spec))
            .stdin(Stdio::piped())
            .stdout(to_output)
            .stderr(messages)
            .spawn()
            .map_err(Error::io("start", vmm))?;
        thread::spawn(move || listener.listen(number, output));
        Ok(Self {
            number,
            input: process.stdin.take(),
            process,
            tail: VecDeque::new(),
            ready: false,
            waits: Vec::new(),
            outcome: None,
            ended: false,
        })
    }

    /// The VMM's process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has booted and can begin.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether it has told its result and ended cleanly.
    pub fn is_done(&self) -> bool {
        self.ended
    }

    /// The waits of its vCPUs for each other, if it told any.
    pub fn take_waits(&mut self) -> Vec<Wait> {
        std::mem::take(&mut self.waits)
    }

    /// What it measured.
    pub fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Tells it to run.
    pub fn go(&mut self, go: &Go) -> Result<()> {
        let json = serde_json::to_string(go).map_err(|e| Error::Invalid(e.to_string()))?;
        let sent = match &mut self.input {
            Some(input) => input.write_all(format!("{PREFIX}GO {json}\n").as_bytes()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(|e| self.error(&format!("takes no input: {e}")))
    }

    /// Takes a line of its console.
    pub fn hear(&mut self, line: String) -> Result<()> {
        let said = line.split_once(PREFIX).map(|(_, said)| said.to_string());
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
        let said = said.as_deref().unwrap_or_default();
        if said == "READY" {
            self.ready = true;
        } else if let Some(why) = said.strip_prefix("FAILED ") {
            return Err(self.error(why));
        } else if let Some(json) = said.strip_prefix("RESULT ") {
            let outcome = serde_json::from_str(json)
                .map_err(|e| self.error(&format!("result not understood: {e}")))?;
            self.outcome = Some(outcome);
        } else if let Some(waits) = said.strip_prefix("TRUTH ").and_then(Wait::parse_line)
            && self.waits.len() < MOST_WAITS
        {
            self.waits.extend(waits);
        }
        Ok(())
    }

    /// Takes the end of its output: it is clean after a result and with status 0.
    pub fn closed(&mut self) -> Result<()> {
        let Some(status) = self.wait(GRACE) else {
            return Err(self.error_with_tail("its VMM closed its output but did not end"));
        };
        if !status.success() {
            let meaning = meaning(status);
            return Err(self.error_with_tail(&format!("its VMM ended with {status}{meaning}")));
        }
        if self.outcome.is_none() {
            return Err(self.error_with_tail("powered off without a RESULT"));
        }
        self.ended = true;
        Ok(())
    }

    /// Why a cell fails, with this guest's number.
    fn error(&self, reason: &str) -> Error {
        Error::Guest {
            guest: self.number,
            reason: reason.to_string(),
        }
    }

    /// Why a cell fails, with this guest's number and last words.
    pub fn error_with_tail(&self, reason: &str) -> Error {
        let tail = Vec::from(self.tail.clone()).join(" / ");
        let tail = if tail.is_empty() { "nothing" } else { &tail };
        self.error(&format!("{reason}; it said last: {tail}"))
    }

    /// Its exit status, if it ends within a time.
    fn wait(&mut self, time: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + time;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(LOOK),
                _ => return None,
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.wait(Duration::ZERO).is_some() {
            return;
        }
        // What can't be signalled has ended.
        // QUIT ends a machine without asking its guest.
        let _ = kill_process(Pid::from_child(&self.process), Signal::QUIT);
        if self.wait(GRACE).is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// However the harness ends, its VMs end.
fn die_with_us() -> std::io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// What a cell says of its guests' vCPUs.
fn options(spec: &CellSpec) -> Vec<String> {
    let mut options = vec!["--pv".to_string(), word(&spec.chosen.pv)];
    if spec.chosen.class != fair() {
        options.extend(["--vcpu-class".into(), spec.chosen.class.clone()]);
        // Never another class under this one's name.
        options.push("--vcpu-class-strict".into());
    }
    options
}

/// What the guest's kernel is told, and its first process, which gets ready for the workload.
fn cmdline(spec: &CellSpec) -> String {
    format!(
        "{} vmfirst.workload={}",
        spec.chosen.guest_cmdline, spec.chosen.workload
    )
}

/// Takes all that guests print.
pub type Console = Arc<Mutex<dyn Write + Send>>;

/// Where a VMM's lines go.
pub struct Listener {
    pub events: Sender<Event>,
    pub console: Console,
}

impl Listener {
    fn listen(&self, number: usize, output: PipeReader) {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut longest = output.by_ref().take(LONGEST_LINE);
            if !longest.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                break;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            // In one piece, so that guests don't mix within a line. A console that
            // can't be written to is no reason to stop measuring.
            let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = console.write_all(format!("guest{number}| {text}\n").as_bytes());
            drop(console);
            if self.events.send(Event::Line(number, text)).is_err() {
                return;
            }
        }
        // When nobody waits any more, nobody needs to know.
        let _ = self.events.send(Event::Closed(number));
    }
}

/// What the VMM's exit status stands for.
fn meaning(status: ExitStatus) -> &'static str {
    match status.code() {
        Some(3) => " (the guest rebooted)",
        Some(4) => " (the guest crashed)",
        Some(5) => " (the guest's kernel panicked)",
        _ => "",
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
        .arg(format!("{}m", spec.chosen.disk_mib))
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
