//! `cargo xtask bench`: the main job.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use dense_bench::host_init::{Done, Job};
use dense_bench::plan::Planned;
use dense_bench::report;
use dense_bench::report::compare::{replayed, same};
use dense_bench::results::{COMMIT, Cell, Run};
use dense_bench::session::{Choice, Replay, Session};
use dense_bench::spec::CellOutput;
use indicatif::ProgressBar;
use testbed::emulator::Emulator;
use testbed::machine::{Machine, Output, Start};
use testbed::proc::{self, Cancel};
use testbed::{kernel, packages};

use crate::Error;
use crate::boots::{self, Boot, Queue, Task};
use crate::parts::{Parts, Workshop, repo};

/// Virtual time in s after which a host is given up: boot, and all that a cell may take.
const HOST_LIMIT_S: u64 = 180;
/// Free space in GiB that builds need when nothing is cached.
const ROOM_GIB: u64 = 12;

/// The options of `cargo xtask bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// The plan: quick, article, fairness, ablation, controls, rounds, cost or smoke, or a .toml file like those in benches/plans
    #[arg(long, default_value = "quick")]
    pub plan: String,
    /// Which of its cells.
    #[command(flatten)]
    pub choice: Choice,
    /// Emulators side by side; each needs a core and up to 4 GiB
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Where results.json, report.html, report.md and the hosts' consoles go
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub out: PathBuf,
}

/// Runs the plan, prints the table, writes the results.
pub fn run(args: &BenchArgs, cancel: Cancel) -> Result<(), Error> {
    let mut session = Session::open(&args.plan, &args.choice, &args.out).map_err(usage)?;
    if let Some(real) = session.planned.iter().find(|c| !c.is_emulated()) {
        let key = real.key();
        let say = format!("{key} was not emulated: `dense-bench run --replay` runs it again");
        return Err(Error::Usage(say));
    }
    session.prepare().map_err(usage)?;
    let todo = session.todo();
    check_room()?;
    if !todo.is_empty() {
        let workshop = Workshop::open(cancel)?;
        let parts = workshop.all_parts(
            session.workloads.iter().map(String::as_str),
            session.kernels.iter().copied(),
        )?;
        session.begin(versions(&parts)?).map_err(usage)?;
        session = run_cells(&workshop, &parts, args.jobs, todo, session)?;
    }
    println!("{}", report::table(&session.results));
    report::write_all(&session.results, session.folder()).map_err(usage)?;
    eprintln!("results: {}", session.path().display());
    if let Some(replay) = &args.choice.replay {
        return told(replay, &session);
    }
    match session.missing() {
        0 => Ok(()),
        failed => Err(Error::Cells {
            failed,
            total: session.planned.len(),
        }),
    }
}

fn usage(error: dense_bench::Error) -> Error {
    Error::Usage(error.to_string())
}

/// Says whether a replayed cell gave the same; if not, what else differs.
fn told(replay: &Replay, session: &Session) -> Result<(), Error> {
    let (file, before) = replay.find().map_err(usage)?;
    let now = session.results.cells.first();
    let said = replayed(&before, now);
    if now.is_some_and(|now| same(&before, now)) {
        println!("{said}");
        return Ok(());
    }
    let new = &session.results.versions;
    let others = new
        .iter()
        .filter(|(name, v)| *name != COMMIT && file.versions.get(*name) != Some(v));
    let others: Vec<_> = others.map(|(name, _)| name.as_str()).collect();
    let back = file.versions.get(COMMIT);
    let back = back.map_or(String::new(), |c| format!("; the same are at commit {c}"));
    Err(Error::Usage(match others.is_empty() {
        true => said,
        false => format!("{said}; other versions: {}{back}", others.join(", ")),
    }))
}

/// Free space for the builds, or one line about it.
fn check_room() -> Result<(), Error> {
    let cache = testbed::cache::Cache::open()?;
    let dir = cache.work_dir("")?;
    let disk =
        rustix::fs::statvfs(&dir).map_err(|e| testbed::Error::io("look at", &dir)(e.into()))?;
    let free_gib = (disk.f_bavail * disk.f_frsize) >> 30;
    let cached = dir.read_dir().is_ok_and(|mut d| d.next().is_some());
    let needed = if cached { 1 } else { ROOM_GIB };
    if free_gib < needed {
        return Err(Error::Usage(format!(
            "{} has {free_gib} GiB free and the builds need {needed}; free some or set VMFIRST_CACHE to a folder elsewhere",
            dir.display()
        )));
    }
    Ok(())
}

/// What shapes a figure, for the results.
fn versions(parts: &Parts) -> Result<BTreeMap<String, String>, Error> {
    let mut versions: BTreeMap<_, _> = packages::versions().into_iter().collect();
    versions.insert("gcc".into(), kernel::compiler_version()?);
    let mut artefacts = vec![("emulator".to_string(), parts.emulator.dir.as_path())];
    for (kernel, built) in &parts.kernels {
        artefacts.push((format!("kernel_{}", kernel.name()), &built.dir));
    }
    for (workload, image) in &parts.host_images {
        let dir = image.parent().unwrap_or(image);
        artefacts.push((format!("host_image_{workload}"), dir));
    }
    for (name, dir) in artefacts {
        let key = dir.file_name().unwrap_or_default().to_string_lossy();
        versions.insert(name, key.into_owned());
    }
    versions.extend(commit().map(|commit| (COMMIT.to_string(), commit)));
    Ok(versions)
}

/// What is checked out, with `-dirty` if it was changed since; none outside of git.
fn commit() -> Option<String> {
    let mut git = proc::command("git");
    git.current_dir(repo());
    git.args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]);
    let said = git.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_string())
}

/// What the workers share.
struct Shared<'a> {
    queue: Queue,
    session: Mutex<Session>,
    workshop: &'a Workshop,
    parts: &'a Parts,
    bar: ProgressBar,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs all cells, `jobs` at a time; each is saved as soon as it ends.
fn run_cells(
    workshop: &Workshop,
    parts: &Parts,
    jobs: u8,
    todo: Vec<Planned>,
    session: Session,
) -> Result<Session, Error> {
    let shared = Shared {
        bar: workshop.progress.bar("cells", todo.len() as u64),
        queue: Queue::new(todo)?,
        session: Mutex::new(session),
        workshop,
        parts,
    };
    let ended: Vec<Result<(), Error>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| shared.work())).collect();
        workers
            .into_iter()
            .map(|w| {
                w.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    shared.bar.finish_and_clear();
    ended.into_iter().collect::<Result<(), Error>>()?;
    Ok(shared
        .session
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

impl Shared<'_> {
    /// Does what there is to do until there is nothing; one that can't go on ends all.
    fn work(&self) -> Result<(), Error> {
        while let Some(task) = self.queue.next() {
            let done = match task {
                Task::Boot(boot) => self.boot(&boot),
                Task::Cell(planned, boot) => self.cell(&planned, &boot),
            };
            if done.is_err() {
                self.queue.close();
                return done;
            }
        }
        Ok(())
    }

    fn boot(&self, boot: &Planned) -> Result<(), Error> {
        let machine = machine(self.parts, boot);
        let work =
            tempfile::tempdir().map_err(testbed::Error::io("create", "a temporary folder"))?;
        let cancel = &self.workshop.cancel;
        let saved = boots::save(&machine, boot, self.queue.folder(), work.path(), cancel);
        let outcome = match saved {
            Ok(outcome) => outcome,
            Err(error) => {
                let kept = lock(&self.session).console(&boot.key());
                let _ = fs::copy(work.path().join("console"), &kept);
                Boot::Failed(unless_cancelled(kept_at(error, &kept))?)
            }
        };
        self.queue.booted(boot, outcome);
        Ok(())
    }

    /// Runs a cell; one that fails is marked so.
    fn cell(&self, planned: &Planned, boot: &Boot) -> Result<(), Error> {
        let console = lock(&self.session).console(&planned.key());
        match run_cell(self.workshop, self.parts, planned, boot, &console) {
            Ok(cell) => lock(&self.session).add(cell).map_err(usage)?,
            Err(error) => {
                let error = unless_cancelled(error)?;
                let say = format!("{}: {error}", planned.key());
                self.workshop.progress.say(&say);
                let mut session = lock(&self.session);
                session.fail(planned, &error).map_err(usage)?;
            }
        }
        self.bar.inc(1);
        Ok(())
    }
}

/// An error as text, unless it is that the user wants no more.
fn unless_cancelled(error: Error) -> Result<String, Error> {
    match error {
        Error::Testbed(testbed::Error::Cancelled) => Err(error),
        error => Ok(error.to_string()),
    }
}

/// The same error, with the console where it is kept.
fn kept_at(error: Error, kept: &Path) -> Error {
    match error {
        Error::Testbed(e) => e.with_console(kept.to_path_buf()).into(),
        other => other,
    }
}

/// Boots a host and runs one cell there.
pub fn run_machine(
    parts: &Parts,
    planned: &Planned,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done), Error> {
    let boot = planned.boot();
    let booted = boots::save(&machine(parts, &boot), &boot, work, work, cancel)?;
    booted.run(&machine(parts, planned), planned, work, cancel)
}

/// Boots a host for a job; returns what it printed and what it said.
pub fn run_job(
    machine: &Machine,
    job: &Job,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done), Error> {
    let output = machine.run(&boots::text(job)?, Start::Boot, work, cancel)?;
    let done = boots::done(&output)?;
    Ok((output, done))
}

/// The host for a cell.
fn machine(parts: &Parts, planned: &Planned) -> Machine {
    Machine {
        emulator: Emulator::clone(&parts.emulator),
        kernel: parts.kernels[&planned.variant.kernel].bzimage(),
        initrd: parts.host_images[&planned.spec.workload].clone(),
        pcpus: planned.pcpus,
        mem_mib: planned.host_mem_mib(),
        round_ns: planned.round_ns,
        seed: planned.spec.seed,
        limit_s: HOST_LIMIT_S,
    }
}

fn run_cell(
    workshop: &Workshop,
    parts: &Parts,
    planned: &Planned,
    boot: &Boot,
    kept: &Path,
) -> Result<Cell, Error> {
    let work = tempfile::tempdir().map_err(testbed::Error::io("create", "a temporary folder"))?;
    let started = Instant::now();
    let machine = machine(parts, planned);
    let output = boot.run(&machine, planned, work.path(), &workshop.cancel);
    let _ = fs::copy(work.path().join("console"), kept);
    let wall_s = started.elapsed().as_secs_f64() + boot.wall_s();
    let (output, done) = output.map_err(|error| kept_at(error, kept))?;
    let failed = match done {
        Done::Cell(CellOutput::Ok(measured)) => {
            let run = Run {
                host: "emulated".into(),
                wall_s,
                console: &output.console,
            };
            return Ok(Cell::new(planned, measured, &run));
        }
        Done::Cell(CellOutput::Failed { error }) | Done::Failed(error) => error,
        Done::Launches(_) | Done::Cost(_) => "the host did something else than the cell".into(),
    };
    Err(Error::Usage(format!(
        "{failed} (console: {})",
        kept.display()
    )))
}
