//! Cells in emulated hosts: several emulators side by side, each host booted once for all
//! cells that begin alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use dense_record::chosen::Chosen;
use dense_record::job::{Done, Job};
use dense_record::measured::{CellOutput, Facts, Measured};
use indicatif::ProgressBar;

use crate::boots::{self, Boot, Queue, Task};
use crate::machine::{Machine, Output, Start};
use crate::proc::Cancel;
use crate::workshop::{Parts, Workshop};
use crate::{Error, Result};

/// A cell that ran.
#[derive(Debug)]
pub struct Ran {
    /// What its host measured.
    pub measured: Measured,
    /// All that the host's console said.
    pub console: Vec<u8>,
    /// What it took on a real clock, in s.
    pub wall_s: f64,
    /// What is known of the host from outside.
    pub facts: Facts,
}

/// What keeps the results of cells.
pub trait Keeper: Sync {
    /// Where the console of the cell with this key goes.
    fn console(&self, key: &str) -> PathBuf;
    /// Takes a cell's result, or in one line why there is none.
    fn keep(&self, cell: &Chosen, ran: std::result::Result<Ran, String>) -> Result<()>;
}

/// Runs all cells, `jobs` at a time; each is kept as soon as it ends.
pub fn run_all(
    workshop: &Workshop,
    parts: &Parts,
    jobs: u8,
    todo: Vec<Chosen>,
    keeper: &dyn Keeper,
) -> Result<()> {
    let shared = Shared {
        bar: workshop.progress.bar("cells", todo.len() as u64),
        queue: Queue::new(todo)?,
        keeper,
        workshop,
        parts,
    };
    let ended: Vec<Result<()>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| shared.work())).collect();
        let ended = workers.into_iter().map(|worker| {
            let ended = worker.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    shared.bar.finish_and_clear();
    ended.into_iter().collect()
}

/// What the workers share.
struct Shared<'a> {
    queue: Queue,
    keeper: &'a dyn Keeper,
    workshop: &'a Workshop,
    parts: &'a Parts,
    bar: ProgressBar,
}

impl Shared<'_> {
    /// Does what there is to do until there is nothing; one that can't go on ends all.
    fn work(&self) -> Result<()> {
        while let Some(task) = self.queue.next() {
            let done = match task {
                Task::Boot(boot) => self.boot(&boot),
                Task::Cell(cell, boot) => self.cell(&cell, &boot),
            };
            if done.is_err() {
                self.queue.close();
                return done;
            }
        }
        Ok(())
    }

    fn boot(&self, boot: &Chosen) -> Result<()> {
        let machine = self.parts.machine(boot);
        let work = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
        let cancel = &self.workshop.cancel;
        let saved = boots::save(&machine, boot, self.queue.folder(), work.path(), cancel);
        let outcome = match saved {
            Ok(outcome) => outcome,
            Err(error) => {
                let kept = self.keeper.console(&boot.key());
                let _ = fs::copy(work.path().join("console"), &kept);
                Boot::Failed(unless_cancelled(error.with_console(kept))?)
            }
        };
        self.queue.booted(boot, outcome);
        Ok(())
    }

    /// Runs a cell; one that fails is kept as such.
    fn cell(&self, cell: &Chosen, boot: &Boot) -> Result<()> {
        self.workshop.progress.step(&cell.key());
        let ran = self.run(cell, boot, &self.keeper.console(&cell.key()));
        let ran = match ran {
            Ok(ran) => Ok(ran),
            Err(error) => Err(unless_cancelled(error)?),
        };
        self.keeper.keep(cell, ran)?;
        self.bar.inc(1);
        Ok(())
    }

    fn run(&self, cell: &Chosen, boot: &Boot, kept: &Path) -> Result<Ran> {
        let work = tempfile::tempdir().map_err(Error::io("create", "a temporary folder"))?;
        let started = Instant::now();
        let machine = self.parts.machine(cell);
        let output = boot.run(&machine, cell, work.path(), &self.workshop.cancel);
        let _ = fs::copy(work.path().join("console"), kept);
        let wall_s = started.elapsed().as_secs_f64() + boot.wall_s();
        let (output, done) = output.map_err(|error| error.with_console(kept.into()))?;
        let failed = match done {
            Done::Cell(CellOutput::Ok(measured)) => {
                return Ok(Ran {
                    measured,
                    console: output.console,
                    wall_s,
                    facts: self.parts.facts(cell)?,
                });
            }
            Done::Cell(CellOutput::Failed { error }) | Done::Failed(error) => error,
            Done::Launches(_) | Done::Cost(_) => "it did something else than the cell".into(),
        };
        let kept = kept.display();
        Err(Error::Host(format!("{failed} (console: {kept})")))
    }
}

/// An error as text, unless it is that the user wants no more.
fn unless_cancelled(error: Error) -> Result<String> {
    match error {
        Error::Cancelled => Err(error),
        error => Ok(error.to_string()),
    }
}

/// Boots a host and runs one cell there.
pub fn run_cell(
    parts: &Parts,
    cell: &Chosen,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done)> {
    let boot = cell.boot();
    let booted = boots::save(&parts.machine(&boot), &boot, work, work, cancel)?;
    booted.run(&parts.machine(cell), cell, work, cancel)
}

/// Boots a host for a job; returns what it printed and what it said.
pub fn run_job(
    machine: &Machine,
    job: &Job,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done)> {
    let output = machine.run(&boots::text(job)?, Start::Boot, work, cancel)?;
    let done = boots::done(&output)?;
    Ok((output, done))
}
