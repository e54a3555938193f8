//! The one door for every write: what was there is kept, what is written is read back, and
//! all of it is undone when a part fails.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cookie::{self, Holder};
use super::{Cgroup, Class, CpuList, Slice, Tid, Uclamp, cookie::Scope, mount_point};
use crate::model::common;
use crate::read::Root;
use crate::{Error, Result};

/// A thread, named so that no other is meant when its id is given to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its process.
    pub pid: Tid,
    /// Its id.
    pub tid: Tid,
    /// When it started, in ticks since the host's start.
    pub start: u64,
    /// What it is called in messages, printable.
    pub label: String,
}

/// A write.
#[derive(Debug, Clone)]
pub enum Write {
    /// A thread's class.
    Class(Target, Class),
    /// A thread's slice.
    Slice(Target, Slice),
    /// A thread's clamps.
    Uclamp(Target, Uclamp),
    /// A thread's CPUs.
    Cpus(Target, CpuList),
    /// A cookie that only this thread has.
    NewCookie(Target),
    /// The first thread's cookie for the others too.
    SameCookie(Target, Vec<Target>),
    /// No cookie.
    NoCookie(Target),
    /// The control group that a process is in with all its threads; one that is there.
    Move(Target, Cgroup),
    /// A control group's file.
    Group(Cgroup, String, String),
}

/// A line of what was done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// What was written.
    pub what: String,
    /// The value before.
    pub before: String,
    /// The value that was read back.
    pub after: String,
}

type Undo = Box<dyn FnOnce() -> Result<()>>;

/// The door to one process and its control group.
pub struct Door {
    root: Root,
    process: OwnedFd,
    whose: String,
    undo: Vec<(String, Undo)>,
    done: Vec<Done>,
}

impl Door {
    /// Opens it for the process `pid` that started at `start`; `whose` is its name for
    /// messages.
    ///
    /// # Errors
    /// [`Error::Gone`] when it has ended, or its id is another's by now.
    pub fn open(pid: Tid, start: u64, whose: String) -> Result<Self> {
        let gone = || Error::Gone(whose.clone());
        let id = Pid::from_raw(pid).ok_or_else(gone)?;
        let process = pidfd_open(id, PidfdFlags::empty()).map_err(|_| gone())?;
        let door = Self {
            root: Root::default(),
            process,
            whose: whose.clone(),
            undo: Vec::new(),
            done: Vec::new(),
        };
        // The descriptor is of whoever has the id now: the start time says who that is.
        match door.root.stat(pid, pid) {
            Ok(stat) if stat.starttime == start => Ok(door),
            _ => Err(gone()),
        }
    }

    /// Does all writes, in order, and returns what was done. When one fails, those before
    /// it are undone, last first; what can't be undone is said with the error.
    pub fn write(mut self, writes: Vec<Write>) -> Result<Vec<Done>> {
        let written = writes.into_iter().try_for_each(|write| self.one(write));
        match written.and_then(|()| self.alive()) {
            Ok(()) => Ok(self.done),
            Err(error) => Err(self.take_back(error)),
        }
    }

    fn take_back(self, error: Error) -> Error {
        let mut stays = Vec::new();
        for (what, undo) in self.undo.into_iter().rev() {
            match undo() {
                Err(error) if !error.is_gone() => stays.push(format!("{what} ({error})")),
                _ => {}
            }
        }
        match stays.is_empty() {
            true => error,
            false => Error::Stuck {
                error: Box::new(error),
                stays: stays.join(", "),
            },
        }
    }

    /// Sees that the process is still there.
    fn alive(&self) -> Result<()> {
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        let now = Timespec::try_from(Duration::ZERO).ok();
        match poll(&mut ended, now.as_ref()) {
            Ok(1..) => Err(Error::Gone(self.whose.clone())),
            _ => Ok(()),
        }
    }

    /// Sees that an id still is the thread that was meant.
    fn same(&self, target: &Target) -> Result<()> {
        match self.root.stat(target.pid, target.tid) {
            Ok(stat) if stat.starttime == target.start => Ok(()),
            _ => Err(Error::Gone(target.label.clone())),
        }
    }

    fn one(&mut self, write: Write) -> Result<()> {
        match write {
            Write::Class(target, class) => self.class(&target, class),
            Write::Slice(target, slice) => self.slice(&target, slice),
            Write::Uclamp(target, clamps) => {
                let before = Uclamp::of(target.tid).map_err(gone(&target))?;
                self.thread(&target, "clamps", before, clamps, Uclamp::give)
            }
            Write::Cpus(target, cpus) => {
                let before = CpuList::of(target.tid).map_err(gone(&target))?;
                let label = target.label.clone();
                let give = move |cpus: CpuList, tid| cpus.give_to(tid, &label);
                self.thread(&target, "CPUs", before, cpus, give)
            }
            Write::NewCookie(target) => self.cookie(&target, "a new one", |tid| {
                cookie::create(tid, Scope::Thread)
            }),
            Write::NoCookie(target) => self.cookie(&target, "none", cookie::clear),
            Write::SameCookie(first, others) => {
                let holder = Holder::new(first.tid)?;
                let label = format!("{}'s", first.label);
                others
                    .iter()
                    .try_for_each(|target| self.cookie(target, &label, |tid| holder.give(tid)))
            }
            Write::Move(process, group) => self.move_to(&process, &group),
            Write::Group(group, file, value) => self.group(group, file, value),
        }
    }

    /// Gives a thread a value: who it is is looked at before, and after, for a thread that
    /// ended in between may have left its id to another.
    fn thread<T: ToString + Clone + 'static>(
        &mut self,
        target: &Target,
        what: &str,
        before: T,
        value: T,
        give: impl Fn(T, Tid) -> Result<()> + Clone + 'static,
    ) -> Result<()> {
        self.same(target)?;
        let what = format!("{what} of {}", target.label);
        let done = Done {
            what: what.clone(),
            before: before.to_string(),
            after: value.to_string(),
        };
        give(value, target.tid).map_err(|error| named(error, target))?;
        self.same(target)?;
        let (tid, again) = (target.tid, give.clone());
        self.undo.push((what, Box::new(move || again(before, tid))));
        self.done.push(done);
        Ok(())
    }

    /// The slice goes with the class, so it is put back with it.
    fn class(&mut self, target: &Target, class: Class) -> Result<()> {
        let before = Class::of(target.tid).map_err(gone(target))?;
        let slice = Slice::of(target.tid).map_err(gone(target))?;
        let Ok(old) = before.parse::<Class>() else {
            return Err(Error::Unavailable(format!(
                "{} has class {before}, which could not be given back: leave it, or change it \
                 with chrt",
                target.label
            )));
        };
        if old == class {
            return Ok(());
        }
        self.thread(target, "class", old, class, Class::give)?;
        let now = Slice::of(target.tid).ok().flatten();
        if let Some(slice) = slice
            && now != Some(slice)
        {
            let tid = target.tid;
            let undo: Undo = Box::new(move || Slice::exactly(slice).give(tid));
            // Undone last first: it comes after the class.
            let at = self.undo.len() - 1;
            self.undo
                .insert(at, (format!("slice of {}", target.label), undo));
            // It was the thread's own: a class with slices has it still.
            if now.is_some() {
                let give = Slice::exactly(slice).give(target.tid);
                give.map_err(|error| named(error, target))?;
            }
        }
        Ok(())
    }

    fn slice(&mut self, target: &Target, slice: Slice) -> Result<()> {
        let before = Slice::of(target.tid).map_err(gone(target))?;
        match before {
            Some(before) => {
                self.thread(target, "slice", Slice::exactly(before), slice, Slice::give)
            }
            // It says why there is none.
            None => slice.give(target.tid).map_err(|error| named(error, target)),
        }
    }

    fn cookie(
        &mut self,
        target: &Target,
        after: &str,
        give: impl FnOnce(Tid) -> Result<()>,
    ) -> Result<()> {
        self.same(target)?;
        let before = cookie::of(target.tid)?;
        let holder = (before != 0).then(|| Holder::new(target.tid)).transpose()?;
        give(target.tid)?;
        self.same(target)?;
        let what = format!("core-scheduling cookie of {}", target.label);
        let tid = target.tid;
        let undo: Undo = Box::new(move || match holder {
            Some(holder) => holder.give(tid),
            None => cookie::clear(tid),
        });
        self.undo.push((what.clone(), undo));
        self.done.push(Done {
            what,
            before: if before == 0 {
                "none".into()
            } else {
                format!("{before:#x}")
            },
            after: after.into(),
        });
        Ok(())
    }

    fn move_to(&mut self, process: &Target, group: &Cgroup) -> Result<()> {
        self.same(process)?;
        let pid = process.pid;
        let before = Places::of(&self.root, process)?;
        let what = format!("control group of {}", process.label);
        let shown = before.process.path().display().to_string();
        // Before the write: some of its threads may be elsewhere after one that failed.
        self.undo
            .push((what.clone(), Box::new(move || before.restore(pid))));
        group.add_process(pid)?;
        self.same(process)?;
        let after = Places::of(&self.root, process)?;
        if after.process != *group || !after.threads.is_empty() {
            return Err(Error::Differs {
                what,
                asked: group.path().display().to_string(),
                found: after.process.path().display().to_string(),
            });
        }
        self.done.push(Done {
            what,
            before: shown,
            after: group.path().display().to_string(),
        });
        Ok(())
    }

    fn group(&mut self, group: Cgroup, file: String, value: String) -> Result<()> {
        let before = group.get(&file)?;
        let what = group.path().join(&file).display().to_string();
        let undo: Undo = Box::new({
            let (group, file, before) = (group.clone(), file.clone(), before.clone());
            move || group.set(&file, &before)
        });
        // Before the write: the kernel may take it and have another value.
        self.undo.push((what.clone(), undo));
        group.set(&file, &value)?;
        let after = group.get(&file)?;
        self.done.push(Done {
            what,
            before,
            after,
        });
        Ok(())
    }
}

/// The control groups of a process and of those of its threads that are below it.
struct Places {
    process: Cgroup,
    threads: Vec<(Tid, Cgroup)>,
}

impl Places {
    fn of(root: &Root, process: &Target) -> Result<Self> {
        let mount = mount_point()?;
        let failed = gone(process);
        let mut threads = Vec::new();
        for tid in root.threads(process.pid).map_err(&failed)? {
            match root.groups(process.pid, tid) {
                Ok(groups) => threads.push((tid, groups.v2.unwrap_or("/".into()))),
                Err(error) if tid == process.pid => return Err(failed(error)),
                // A thread that has ended.
                Err(_) => {}
            }
        }
        let paths = threads.iter().map(|(_, path)| path.clone());
        let all = paths.reduce(|a, b| common(&a, &b).into());
        let all = all.unwrap_or("/".into());
        let at = |path: &str| Cgroup::at(mount.join(path.trim_start_matches('/')));
        let below = threads.iter().filter(|(_, path)| *path != all);
        Ok(Self {
            threads: below.map(|(tid, path)| (*tid, at(path))).collect(),
            process: at(&all),
        })
    }

    fn restore(self, pid: Tid) -> Result<()> {
        self.process.write("cgroup.procs", &pid.to_string())?;
        for (tid, group) in self.threads {
            match group.add_thread(tid) {
                Err(error) if !error.is_gone() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn gone(target: &Target) -> impl Fn(std::io::Error) -> Error {
    let label = target.label.clone();
    move |source| Error::refused("look at", label.clone(), source, "")
}

/// In messages a thread has the name that the user knows.
fn named(error: Error, target: &Target) -> Error {
    match error {
        Error::Gone(_) => Error::Gone(target.label.clone()),
        other => other,
    }
}
