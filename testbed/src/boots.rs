//! Emulated hosts that are saved when their guests have booted. Each is made once, and
//! all cells that differ only in what comes later begin there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dense_record::chosen::Chosen;
use dense_record::job::{Done, Job};
use dense_record::spec::{CellSpec, Paths};
use tempfile::{TempDir, TempPath};

use crate::machine::{Machine, Output, Start};
use crate::proc::Cancel;
use crate::{Error, Result};

/// A host that is saved; its file is removed with the last reference.
#[derive(Debug)]
pub struct Booted {
    state: TempPath,
    console: Vec<u8>,
    wall_s: f64,
}

/// How a boot ended: saved, or with a result of its own, which then is each cell's.
#[derive(Debug, Clone)]
pub enum Boot {
    /// Cells can begin there.
    Saved(Arc<Booted>),
    /// Its guests did not get so far.
    Ended(Output),
    /// It gave nothing; why, in one line.
    Failed(String),
}

impl Boot {
    /// What it took, in s of a real clock; 0 of one that can't be used.
    pub fn wall_s(&self) -> f64 {
        match self {
            Self::Saved(booted) => booted.wall_s,
            Self::Ended(_) | Self::Failed(_) => 0.0,
        }
    }

    /// Runs a cell from there to its end. Its console, that of the whole, is left in `work`,
    /// for whoever looks why a cell failed; one that can't be kept costs only comfort.
    pub fn run(
        &self,
        machine: &Machine,
        cell: &Chosen,
        work: &Path,
        cancel: &Cancel,
    ) -> Result<(Output, Done)> {
        let output = match self {
            Self::Saved(booted) => booted.resume(machine, cell, work, cancel)?,
            Self::Ended(output) => {
                let _ = fs::write(work.join("console"), &output.console);
                output.clone()
            }
            Self::Failed(why) => return Err(Error::Host(format!("its host's boot: {why}"))),
        };
        let done = done(&output)?;
        Ok((output, done))
    }
}

/// Runs a host from power-on until its guests have booted, and saves it in `folder`.
pub fn save(
    machine: &Machine,
    boot: &Chosen,
    folder: &Path,
    work: &Path,
    cancel: &Cancel,
) -> Result<Boot> {
    let state = tempfile::Builder::new()
        .prefix("host")
        .tempfile_in(folder)
        .map_err(Error::io("write to", folder))?
        .into_temp_path();
    let job = cell_job(boot)?;
    let started = Instant::now();
    let output = machine.run(&job, Start::Save(&state), work, cancel)?;
    if output.result.is_empty() {
        let console = output.console;
        let wall_s = started.elapsed().as_secs_f64();
        return Ok(Boot::Saved(Arc::new(Booted {
            state,
            console,
            wall_s,
        })));
    }
    Ok(Boot::Ended(output))
}

impl Booted {
    fn resume(
        &self,
        machine: &Machine,
        cell: &Chosen,
        work: &Path,
        cancel: &Cancel,
    ) -> Result<Output> {
        let start = Start::Saved(&self.state);
        let ran = machine.run(&cell_job(cell)?, start, work, cancel);
        let console = work.join("console");
        let whole = [&self.console[..], &fs::read(&console).unwrap_or_default()].concat();
        let _ = fs::write(&console, &whole);
        Ok(Output {
            console: whole,
            ..ran?
        })
    }
}

fn cell_job(cell: &Chosen) -> Result<String> {
    text(&Job::Cell(Box::new(CellSpec::new(cell, Paths::default()))))
}

/// The job as a host gets it.
pub fn text(job: &Job) -> Result<String> {
    serde_json::to_string(job).map_err(|e| Error::Host(e.to_string()))
}

/// What the host said.
pub fn done(output: &Output) -> Result<Done> {
    serde_json::from_str(&output.result)
        .map_err(|e| Error::Host(format!("the host's answer is not understood: {e}")))
}

/// What a worker does next.
#[derive(Debug)]
pub enum Task {
    /// Boot and save the host of this cell, and tell [`Queue::booted`].
    Boot(Chosen),
    /// Run a cell.
    Cell(Chosen, Boot),
}

#[derive(Debug)]
enum State {
    Making,
    Made(Boot),
}

#[derive(Debug)]
struct Inner {
    /// With the cell that the host of each boots for.
    todo: Vec<(Chosen, Chosen)>,
    boots: BTreeMap<Chosen, State>,
    closed: bool,
}

/// The cells to run, in an order that keeps few saved hosts at a time.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    folder: TempDir,
}

impl Queue {
    /// All of these cells.
    pub fn new(todo: Vec<Chosen>) -> Result<Self> {
        let folder = tempfile::tempdir();
        Ok(Self {
            folder: folder.map_err(Error::io("create", "a temporary folder"))?,
            changed: Condvar::new(),
            inner: Mutex::new(Inner {
                todo: todo.into_iter().map(|c| (c.boot(), c)).collect(),
                boots: BTreeMap::new(),
                closed: false,
            }),
        })
    }

    /// Where saved hosts go.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A cell whose host is saved; else a host to boot; else it waits for another
    /// worker's. None when all cells are taken.
    pub fn next(&self) -> Option<Task> {
        let mut inner = self.lock();
        loop {
            if inner.closed || inner.todo.is_empty() {
                return None;
            }
            if let Some(task) = inner.take() {
                return Some(task);
            }
            inner = self
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes the outcome of a [`Task::Boot`].
    pub fn booted(&self, boot: &Chosen, outcome: Boot) {
        let mut inner = self.lock();
        inner.boots.insert(boot.clone(), State::Made(outcome));
        self.changed.notify_all();
    }

    /// Ends it for all workers.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take(&mut self) -> Option<Task> {
        let made = |host: &Chosen| match self.boots.get(host) {
            Some(State::Made(boot)) => Some(boot.clone()),
            _ => None,
        };
        let mut cells = self.todo.iter().enumerate();
        if let Some((i, boot)) = cells.find_map(|(i, (host, _))| Some((i, made(host)?))) {
            let (host, cell) = self.todo.remove(i);
            if self.todo.iter().all(|(other, _)| *other != host) {
                self.boots.remove(&host);
            }
            return Some(Task::Cell(cell, boot));
        }
        let new = |(host, _): &&(Chosen, Chosen)| !self.boots.contains_key(host);
        let (host, _) = self.todo.iter().find(new)?;
        self.boots.insert(host.clone(), State::Making);
        Some(Task::Boot(host.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two variants of two workloads, two seeds of each.
    fn cells() -> Vec<Chosen> {
        let mut cells = Vec::new();
        for seed in [1, 2] {
            for workload in ["dbench", "dedup"] {
                for (variant, mode) in [("vmfirst", "lend"), ("vmfirst-off", "off")] {
                    let sysfs = [("/sys/mode".into(), mode.to_string())].into();
                    cells.push(Chosen {
                        workload: workload.into(),
                        variant: variant.into(),
                        sysfs,
                        seed,
                        ..Chosen::default()
                    });
                }
            }
        }
        cells
    }

    fn ended() -> Boot {
        Boot::Failed("no".into())
    }

    #[test]
    fn every_cell_is_taken_once_after_its_host_was_booted() {
        let all = cells();
        let queue = Queue::new(all.clone()).unwrap();
        let (mut boots, mut keys) = (0, Vec::new());
        while let Some(task) = queue.next() {
            match task {
                Task::Boot(boot) => {
                    boots += 1;
                    queue.booted(&boot, ended());
                }
                Task::Cell(cell, _) => keys.push(cell.key()),
            }
            assert!(queue.lock().boots.len() <= 1);
        }
        // Of each workload and seed one.
        assert_eq!(boots, 4);
        keys.sort();
        let mut expected: Vec<_> = all.iter().map(Chosen::key).collect();
        expected.sort();
        assert_eq!(keys, expected);
    }

    #[test]
    fn two_workers_boot_two_hosts() {
        let queue = Queue::new(cells()).unwrap();
        let (Some(Task::Boot(one)), Some(Task::Boot(two))) = (queue.next(), queue.next()) else {
            panic!();
        };
        assert_ne!(one, two);
        queue.booted(&two, ended());
        let Some(Task::Cell(cell, _)) = queue.next() else {
            panic!();
        };
        assert_eq!(cell.boot(), two);
        queue.close();
        assert!(queue.next().is_none());
    }
}
