//! Machines that start and end a thousand times, in every way, leave nothing behind.
//!
//! A program of its own, so that nobody else opens files in it meanwhile.

use std::fs;
use std::io::{Read, Write, stderr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempDir};
use vmm::api::client::Client;
use vmm::api::types::StopRequest;
use vmm::observe::types::{Info, OwnStat};
use vmm::rundir::RunDir;

#[path = "../run/payload.rs"]
#[allow(dead_code)]
mod payload;
#[path = "../run/wait.rs"]
mod wait;

use payload::Payload;
use wait::wait_until;

const CYCLES: usize = 1000;
/// How much more memory the last machines may have than the first, in KiB.
const SLACK: u64 = 512;

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The guest powers off, as a signal pressed its button.
    Term,
    /// The same by `vmm stop`.
    Stop,
    /// At once by a signal that asks nobody.
    Quit,
    /// Killed while it runs.
    Kill,
    /// Killed while it starts, after so many ms.
    KillEarly(u32),
}

impl Way {
    /// Mixed, and ended by one that cleans up.
    fn of(cycle: usize) -> Self {
        match cycle % 6 {
            _ if cycle + 1 == CYCLES => Self::Term,
            0 => Self::Term,
            1 => Self::Kill,
            2 => Self::Stop,
            3 => Self::KillEarly(cycle as u32 % 31),
            4 => Self::Quit,
            _ => Self::KillEarly(cycle as u32 % 47),
        }
    }

    fn kills(self) -> bool {
        matches!(self, Self::Kill | Self::KillEarly(_))
    }
}

/// Tests count what is there: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// All that the machines share.
struct Place {
    kernel: NamedTempFile,
    run_dir: TempDir,
    cgroup: Option<PathBuf>,
    /// The last to be dropped: then the files above are closed.
    _alone: MutexGuard<'static, ()>,
}

impl Place {
    fn new() -> Self {
        let payload = Payload::default().print("x").wait_for_power_button();
        Self {
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
            kernel: payload.power_off().elf(),
            run_dir: tempfile::tempdir().unwrap(),
            cgroup: cgroup(),
        }
    }

    fn start(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmm"));
        command
            .args([
                "run", "--mem", "32M", "--cpus", "2", "--name", "cycle", "--rng",
            ])
            .args(["--stop-timeout", "100000", "--kernel"])
            .arg(self.kernel.path())
            .arg("--run-dir")
            .arg(self.run_dir.path());
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
            command.args(["--cgroup-layout", "vcpu"]);
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn client(&self) -> Client {
        let run_dir = RunDir::new(self.run_dir.path());
        Client::new(&run_dir, &"cycle".parse().unwrap())
    }

    /// Names of what is there in the folder of sockets.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.run_dir.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.unwrap())).collect()
    }
}

/// A machine; it is killed when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control group for the machines, if this machine lets us make any.
fn cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let root = line.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()));
    let group = root.map(|root| root.join(format!("vmm-cycles-{}", std::process::id())));
    let group = group.filter(|path| {
        fs::create_dir(path)
            .and_then(|()| fs::remove_dir(path))
            .is_ok()
    });
    if group.is_none() {
        skip("no cgroup v2 in which to make groups: machines run without one");
    }
    group
}

fn skip(why: &str) {
    let _ = writeln!(stderr(), "SKIP: {why}");
}

fn no_kvm() -> bool {
    let missing = !Path::new("/dev/kvm").exists();
    if missing {
        skip("this machine has no /dev/kvm");
    }
    missing
}

/// Waits until the guest runs.
fn wait_for_guest(child: &mut Child) {
    let output = child.stdout.as_mut().unwrap();
    if output.read_exact(&mut [0]).is_err() {
        let mut errors = String::new();
        let _ = child.stderr.as_mut().unwrap().read_to_string(&mut errors);
        panic!("no guest: {errors}");
    }
}

/// A process's memory in KiB, and how many files it has open.
fn size(pid: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    (rss, open_files(pid))
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Processes that have our folder in their command line: machines.
fn machines(place: &Place) -> usize {
    let folder = place.run_dir.path().to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| fs::read_to_string(process.path().join("cmdline")).ok())
        .filter(|line| line.contains(folder))
        .count()
}

/// Starts a machine and ends it; returns its size while it ran, if it did.
fn cycle(place: &Place, way: Way) -> Option<(u64, usize)> {
    let mut running = place.start();
    let child = &mut running.0;
    let pid = Pid::from_child(child);
    if let Way::KillEarly(ms) = way {
        std::thread::sleep(Duration::from_millis(ms.into()));
        child.kill().unwrap();
        child.wait().unwrap();
        return None;
    }
    wait_for_guest(child);
    let size = size(child.id());
    match way {
        Way::Term => kill_process(pid, Signal::TERM).unwrap(),
        Way::Quit => kill_process(pid, Signal::QUIT).unwrap(),
        Way::Stop => drop(
            place
                .client()
                .post::<Info>("/v1/stop", &StopRequest::default())
                .unwrap(),
        ),
        Way::Kill | Way::KillEarly(_) => child.kill().unwrap(),
    }
    let status = child.wait().unwrap();
    let expected = match way {
        Way::Term | Way::Stop => Some(0),
        Way::Quit => Some(128 + Signal::QUIT.as_raw()),
        Way::Kill | Way::KillEarly(_) => None,
    };
    assert_eq!(status.code(), expected, "{way:?} {:?}", status.signal());
    Some(size)
}

#[test]
fn a_thousand_machines_leave_nothing() {
    if no_kvm() {
        return;
    }
    let place = Place::new();
    let before = open_files(std::process::id());
    let mut sizes = Vec::new();
    for number in 0..CYCLES {
        let way = Way::of(number);
        sizes.extend(cycle(&place, way));
        if !way.kills() {
            assert_eq!(place.files(), [""; 0], "{number} {way:?}");
            let left = place.cgroup.as_ref().is_some_and(|cgroup| cgroup.exists());
            assert!(!left, "{number} {way:?}");
        }
    }
    assert_eq!(machines(&place), 0);
    assert_eq!(open_files(std::process::id()), before);
    // The next is as large as the first: nothing that stays makes it grow.
    let largest = |sizes: &[(u64, usize)]| {
        let rss = sizes.iter().map(|size| size.0).max().unwrap();
        (rss, sizes.iter().map(|size| size.1).max().unwrap())
    };
    let (first, last) = (largest(&sizes[..50]), largest(&sizes[sizes.len() - 50..]));
    assert!(last.0 <= first.0 + SLACK, "{first:?} {last:?}");
    assert_eq!(first.1, last.1);
}

#[test]
fn a_machine_that_is_asked_hundreds_of_times_does_not_grow() {
    if no_kvm() {
        return;
    }
    let place = Place::new();
    let mut running = place.start();
    let child = &mut running.0;
    wait_for_guest(child);
    let client = place.client();
    let ask = |times: usize| {
        for _ in 0..times {
            client.get::<OwnStat>("/v1/stat").unwrap();
            client.post::<Info>("/v1/pause", &()).unwrap();
            client.post::<Info>("/v1/resume", &()).unwrap();
            // One that says nothing and goes.
            let socket = place.run_dir.path().join("cycle.sock");
            drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
            assert!(fs::metadata(socket).unwrap().mode() & 0o077 == 0);
        }
    };
    // It sees some time later that a client has gone.
    let id = child.id();
    let idle = open_files(id);
    let wait_for_closing = || wait_until("connections stay open", || open_files(id) == idle);
    ask(50);
    wait_for_closing();
    let first = size(id);
    ask(300);
    wait_for_closing();
    let last = size(id);
    assert!(last.0 <= first.0 + SLACK, "{first:?} {last:?}");
    assert_eq!(first.1, last.1);
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
