//! /proc/PID: proc(5).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor};

use procfs_core::process::{Stat, Status};
use procfs_core::{FromBufRead, FromRead, ProcessCGroups};

use super::{Kept, Root, proc_error};

/// The control groups of a thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Its path in cgroup v2's hierarchy, beginning with "/".
    pub v2: Option<String>,
    /// Its path in v1's hierarchies, by controller.
    pub v1: BTreeMap<String, String>,
}

impl Root {
    /// The processes.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        self.numbers("proc")
    }

    /// The threads of a process.
    pub fn threads(&self, pid: i32) -> io::Result<Vec<i32>> {
        self.numbers(&format!("proc/{pid}/task"))
    }

    /// How many threads a process has: a folder's links are two more than the folders in it.
    pub fn thread_count(&self, pid: i32) -> io::Result<u64> {
        let folder = rustix::fs::stat(self.path(&format!("proc/{pid}/task")))?;
        Ok(folder.st_nlink.saturating_sub(2))
    }

    /// "stat" of a thread: name, start time, CPU and more.
    pub fn stat(&self, pid: i32, tid: i32) -> io::Result<Stat> {
        let file = File::open(self.path(&format!("proc/{pid}/task/{tid}/stat")))?;
        Stat::from_read(file).map_err(proc_error)
    }

    /// "status" of a process: users, ids in PID namespaces and more.
    pub fn status(&self, pid: i32) -> io::Result<Status> {
        let text = self.text(&format!("proc/{pid}/status"))?;
        Status::from_buf_read(Cursor::new(text)).map_err(proc_error)
    }

    /// The arguments; empty for a thread of the kernel.
    pub fn cmdline(&self, pid: i32) -> io::Result<Vec<String>> {
        let bytes = fs::read(self.path(&format!("proc/{pid}/cmdline")))?;
        let parts = bytes.split(|&byte| byte == 0);
        let mut arguments: Vec<_> = parts.map(|p| String::from_utf8_lossy(p).into()).collect();
        if arguments.last().is_some_and(String::is_empty) {
            arguments.pop();
        }
        Ok(arguments)
    }

    /// The program's path.
    pub fn exe(&self, pid: i32) -> io::Result<String> {
        let path = fs::read_link(self.path(&format!("proc/{pid}/exe")))?;
        Ok(path.to_string_lossy().into())
    }

    /// Open files: number, and what it is.
    pub fn fds(&self, pid: i32) -> io::Result<Vec<(i32, String)>> {
        let folder = format!("proc/{pid}/fd");
        let fds = self.numbers(&folder)?.into_iter().filter_map(|fd| {
            let link = fs::read_link(self.path(&format!("{folder}/{fd}"))).ok()?;
            Some((fd, link.to_string_lossy().into()))
        });
        Ok(fds.collect())
    }

    /// The control groups of a thread.
    pub fn groups(&self, pid: i32, tid: i32) -> io::Result<Groups> {
        let file = File::open(self.path(&format!("proc/{pid}/task/{tid}/cgroup")))?;
        let all = ProcessCGroups::from_buf_read(io::BufReader::new(file)).map_err(proc_error)?;
        let mut groups = Groups::default();
        for group in all.0 {
            if group.hierarchy == 0 {
                groups.v2 = Some(group.pathname);
                continue;
            }
            for controller in group.controllers {
                groups.v1.insert(controller, group.pathname.clone());
            }
        }
        Ok(groups)
    }

    /// The system call that a thread is in: its number and first two arguments; none
    /// while it runs.
    pub fn syscall(&self, pid: i32, tid: i32) -> io::Result<Option<[u64; 3]>> {
        let text = self.text(&format!("proc/{pid}/task/{tid}/syscall"))?;
        let mut words = text.split(' ');
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let number = words.next().and_then(|word| word.parse().ok());
        let (first, second) = (words.next().and_then(hex), words.next().and_then(hex));
        Ok(number
            .zip(first)
            .zip(second)
            .map(|((number, first), second)| [number, first, second]))
    }

    /// The longest time that a thread waited for a CPU, in ns; none unless the host's
    /// kernel.sched_schedstats is on.
    pub fn longest_wait(&self, pid: i32, tid: i32) -> io::Result<Option<u64>> {
        let text = self.text(&format!("proc/{pid}/task/{tid}/sched"))?;
        let line = text.lines().find(|line| {
            line.trim_start_matches("se.statistics.")
                .starts_with("wait_max")
        });
        let ms = line.and_then(|line| line.split_once(':')?.1.trim().parse::<f64>().ok());
        Ok(ms.filter(|&ms| ms > 0.0).map(|ms| (ms * 1e6) as u64))
    }
}

/// Run time, run delay and turns of a thread: Documentation/scheduler/sched-stats.rst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Time that it ran, in ns.
    pub run_ns: u64,
    /// Time that it waited for a CPU while it could have run, in ns.
    pub delay_ns: u64,
    /// How often it got a CPU.
    pub turns: u64,
}

/// Reads a thread's times again and again: the file stays open, and stays that thread's
/// even when its id is another's by then. Parsed here, for this is read thousands of
/// times a second.
#[derive(Debug)]
pub struct Meter(Kept);

impl Meter {
    /// For a thread.
    pub fn new(root: &Root, pid: i32, tid: i32) -> io::Result<Self> {
        let path = root.path(&format!("proc/{pid}/task/{tid}/schedstat"));
        Ok(Self(Kept::new(File::open(path)?)))
    }

    /// The times now.
    ///
    /// # Errors
    /// ESRCH when the thread has ended.
    pub fn read(&self) -> io::Result<Times> {
        self.0.read::<_, 80>(times)?
    }
}

fn times(text: &str) -> io::Result<Times> {
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next().and_then(|word| word.parse().ok());
    match (next(), next(), next()) {
        (Some(run_ns), Some(delay_ns), Some(turns)) => Ok(Times {
            run_ns,
            delay_ns,
            turns,
        }),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
