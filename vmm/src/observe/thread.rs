//! What the kernel tells of a thread: proc(5).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, Mode, OFlags, open, openat};

use crate::sched::{Class, CpuList, Tid};

/// A thread at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// The CPU that it runs on, or ran on last.
    pub cpu: u32,
    /// Its scheduling class.
    pub class: String,
    /// Time that it ran, in ns.
    pub run_ns: u64,
    /// Time that it waited for a CPU while it could have run, in ns.
    pub delay_ns: u64,
}

/// The folder of this process's threads: found again when it sees no /proc any more.
#[derive(Debug)]
pub struct Tasks(OwnedFd);

impl Tasks {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(open("/proc/self/task", flags, Mode::empty())?))
    }

    /// Looks at a thread.
    pub fn look(&self, tid: Tid) -> io::Result<Thread> {
        let (name, cpu) =
            name_and_cpu(&self.read(tid, "stat")?).ok_or(io::ErrorKind::InvalidData)?;
        let times = self.read(tid, "schedstat")?;
        let mut times = times.split_whitespace().map(str::parse);
        let mut time = || times.next().and_then(Result::ok);
        let (run_ns, delay_ns) = time().zip(time()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Thread {
            name,
            cpu,
            class: Class::of(tid)?,
            run_ns,
            delay_ns,
        })
    }

    fn read(&self, tid: Tid, file: &str) -> io::Result<String> {
        match self.read_at(&tid.to_string(), file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.read_at(&self.outer(tid)?, file)
            }
            read => read,
        }
    }

    fn read_at(&self, folder: &str, file: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(&self.0, format!("{folder}/{file}"), flags, Mode::empty())?;
        io::read_to_string(File::from(file))
    }

    /// What a thread is called in a /proc of another PID namespace, around this process's.
    fn outer(&self, tid: Tid) -> io::Result<String> {
        let own = tid.to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for entry in Dir::new(openat(&self.0, ".", flags, Mode::empty())?)? {
            let Ok(name) = String::from_utf8(entry?.file_name().to_bytes().into()) else {
                continue;
            };
            // "." and "..", and threads that have ended, have none.
            let status = self.read_at(&name, "status").unwrap_or_default();
            if innermost(&status) == Some(&own) {
                return Ok(name);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// The CPUs that a thread of this process may use.
pub fn cpus(tid: Tid) -> io::Result<String> {
    CpuList::of(tid).map(|list| list.to_string())
}

/// A thread's id in the innermost namespace: the last one of "status".
fn innermost(status: &str) -> Option<&str> {
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()
}

/// Field 2, in parentheses, and field 39 of "stat".
fn name_and_cpu(stat: &str) -> Option<(String, u32)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let cpu = after.split_whitespace().nth(39 - 3)?;
    Some((name.into(), cpu.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_have_anything_in_it() {
        let rest = (3..=52)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(" ");
        let stat = format!("7 (a) b (c) {rest}\n");
        assert_eq!(name_and_cpu(&stat), Some(("a) b (c".into(), 39)));
        assert_eq!(name_and_cpu("7 (a"), None);
    }

    #[test]
    fn a_thread_is_found_by_its_innermost_id() {
        let status = "Name:\tvmm\nPid:\t4711\nNSpid:\t4711\t12\t1\n";
        assert_eq!(innermost(status), Some("1"));
        assert_eq!(innermost("Name:\tvmm\n"), None);
        let tasks = Tasks::open().unwrap();
        let own = crate::run::gate::own_tid();
        assert_eq!(tasks.outer(own).unwrap(), own.to_string());
        assert!(tasks.outer(0).is_err());
    }

    #[test]
    fn this_thread_has_run() {
        let tasks = Tasks::open().unwrap();
        let look = || tasks.look(crate::run::gate::own_tid()).unwrap();
        // The kernel adds up at ticks and switches.
        while look().run_ns == 0 {
            std::thread::yield_now();
        }
        assert_eq!(look().class, "fair");
        assert!(tasks.look(1).is_err());
    }
}
