//! `cargo xtask bench`: the main job.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use dense_bench::host_init::{Done, Job};
use dense_bench::plan::{self, HostKernel, Planned};
use dense_bench::report;
use dense_bench::results::{Cell, Results, sha256};
use dense_bench::spec::{CellOutput, Measured};
use indicatif::ProgressBar;
use testbed::emulator::Emulator;
use testbed::machine::{Machine, Output};
use testbed::proc::Cancel;
use testbed::{kernel, packages};

use crate::Error;
use crate::parts::{Parts, Workshop};

/// Virtual time in s after which a host is given up: boot, and all that a cell may take.
const HOST_LIMIT_S: u64 = 180;
/// Free space in GiB that builds need when nothing is cached.
const ROOM_GIB: u64 = 12;

/// The options of `cargo xtask bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// The plan: quick, smoke, rounds or cost, or a .toml file like those in benches/plans
    #[arg(long, default_value = "quick")]
    pub plan: String,
    /// Only cells whose key matches, as "dbench/*" or "*/s1"
    #[arg(long, value_name = "GLOB")]
    pub only: Option<String>,
    /// Samples of each cell, instead of the plan's number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,
    /// Emulators side by side; each needs a core and up to 4 GiB
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,
    /// Where results.json and the hosts' consoles go
    #[arg(long, default_value = "target/bench", value_name = "DIR")]
    pub out: PathBuf,
    /// Keep the cells that are in DIR already, run the others
    #[arg(long)]
    pub resume: bool,
}

/// Runs the plan, prints the table, writes the results.
pub fn run(args: &BenchArgs, cancel: Cancel) -> Result<(), Error> {
    let usage = |e: dense_bench::Error| Error::Usage(e.to_string());
    let planned = plan::cells(&args.plan, args.seeds, args.only.as_deref()).map_err(usage)?;
    let out = Out::open(args)?;
    let mut results = match args.resume {
        true => out.load()?,
        false => Results::new(&args.plan, BTreeMap::new()),
    };
    let todo: VecDeque<_> = planned
        .iter()
        .filter(|c| !results.has(&c.key()))
        .cloned()
        .collect();
    check_room()?;

    if !todo.is_empty() {
        let workshop = Workshop::open(cancel)?;
        // Of the whole plan, so that what --resume compares is the same with any --only.
        let whole = plan::cells(&args.plan, Some(1), None).map_err(usage)?;
        let parts = workshop.all_parts(whole.iter().map(|c| c.spec.workload.as_str()))?;
        let versions = versions(&parts)?;
        if args.resume {
            results.check_resume(&versions, &planned).map_err(usage)?;
        }
        results.versions = versions;
        results = run_cells(&workshop, &parts, args.jobs, todo, results, &out)?;
    }
    println!("{}", report::table(&results));
    eprintln!("results: {}", out.results().display());
    let failed = planned.iter().filter(|c| !results.has(&c.key())).count();
    if failed > 0 {
        return Err(Error::Cells {
            failed,
            total: planned.len(),
        });
    }
    Ok(())
}

/// The output folder.
struct Out {
    dir: PathBuf,
}

impl Out {
    /// Makes the folder and sees that it can be written to, before hours of work.
    fn open(args: &BenchArgs) -> Result<Self, Error> {
        let out = Self {
            dir: args.out.clone(),
        };
        let consoles = out.consoles();
        fs::create_dir_all(&consoles).map_err(testbed::Error::io("create", &consoles))?;
        tempfile::tempfile_in(&out.dir).map_err(testbed::Error::io("write to", &out.dir))?;
        Ok(out)
    }

    fn results(&self) -> PathBuf {
        self.dir.join("results.json")
    }

    fn consoles(&self) -> PathBuf {
        self.dir.join("consoles")
    }

    /// What an earlier run left; a fresh start if it left nothing.
    fn load(&self) -> Result<Results, Error> {
        let path = self.results();
        if !path.exists() {
            return Err(Error::Usage(format!(
                "nothing to resume: {} is not there; run without --resume first",
                path.display()
            )));
        }
        Results::load(&path).map_err(|e| Error::Usage(e.to_string()))
    }

    fn save(&self, results: &Results) -> Result<(), Error> {
        results
            .save(&self.results())
            .map_err(|e| Error::Usage(e.to_string()))
    }

    /// Keeps a console's text, also of a cell that failed.
    fn keep_console(&self, key: &str, console: &[u8]) -> PathBuf {
        let path = self
            .consoles()
            .join(format!("{}.txt", key.replace('/', "_")));
        // The result counts; a console that can't be kept costs only comfort.
        let _ = fs::write(&path, console);
        path
    }
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
    let mut artefacts = vec![
        ("emulator".to_string(), parts.emulator.dir.as_path()),
        ("kernel_stock".into(), &parts.stock.dir),
        ("kernel_patched".into(), &parts.patched.dir),
    ];
    for (workload, image) in &parts.host_images {
        let dir = image.parent().unwrap_or(image);
        artefacts.push((format!("host_image_{workload}"), dir));
    }
    for (name, dir) in artefacts {
        let key = dir.file_name().unwrap_or_default().to_string_lossy();
        versions.insert(name, key.into_owned());
    }
    Ok(versions)
}

/// What the workers share.
struct Shared<'a> {
    todo: Mutex<VecDeque<Planned>>,
    results: Mutex<Results>,
    workshop: &'a Workshop,
    parts: &'a Parts,
    out: &'a Out,
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
    todo: VecDeque<Planned>,
    results: Results,
    out: &Out,
) -> Result<Results, Error> {
    let shared = Shared {
        bar: workshop.progress.bar("cells", todo.len() as u64),
        todo: Mutex::new(todo),
        results: Mutex::new(results),
        workshop,
        parts,
        out,
    };
    out.save(&lock(&shared.results))?;
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
        .results
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

impl Shared<'_> {
    /// Takes cells until there are none; a cell that fails is told and left out.
    fn work(&self) -> Result<(), Error> {
        loop {
            let Some(planned) = lock(&self.todo).pop_front() else {
                return Ok(());
            };
            match run_cell(self.workshop, self.parts, &planned, self.out) {
                Ok(cell) => {
                    let mut results = lock(&self.results);
                    results.cells.push(cell);
                    self.out.save(&results)?;
                }
                Err(Error::Testbed(testbed::Error::Cancelled)) => {
                    return Err(testbed::Error::Cancelled.into());
                }
                Err(error) => {
                    let say = format!("{}: {error}", planned.key());
                    self.workshop.progress.say(&say);
                }
            }
            self.bar.inc(1);
        }
    }
}

/// Boots a host for one cell.
pub fn run_machine(
    parts: &Parts,
    planned: &Planned,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done), Error> {
    let kernel = match planned.variant.kernel {
        HostKernel::Stock => &parts.stock,
        HostKernel::Patched => &parts.patched,
    };
    let machine = machine(parts, kernel.bzimage(), planned);
    run_job(
        &machine,
        &Job::Cell(Box::new(planned.spec.clone())),
        work,
        cancel,
    )
}

/// Boots a host for a job; returns what it printed and what it said.
pub fn run_job(
    machine: &Machine,
    job: &Job,
    work: &Path,
    cancel: &Cancel,
) -> Result<(Output, Done), Error> {
    let job = serde_json::to_string(job).map_err(|e| Error::Usage(e.to_string()))?;
    let output = machine.run(&job, work, cancel)?;
    let done = serde_json::from_str(&output.result)
        .map_err(|e| Error::Usage(format!("the host's answer is not understood: {e}")))?;
    Ok((output, done))
}

/// The host for a cell, with a given kernel.
pub fn machine(parts: &Parts, kernel: PathBuf, planned: &Planned) -> Machine {
    Machine {
        emulator: Emulator::clone(&parts.emulator),
        kernel,
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
    out: &Out,
) -> Result<Cell, Error> {
    let key = planned.key();
    let work = tempfile::tempdir().map_err(testbed::Error::io("create", "a temporary folder"))?;
    let started = Instant::now();
    let output = run_machine(parts, planned, work.path(), &workshop.cancel);
    let wall_s = started.elapsed().as_secs_f64();
    if let Err(Error::Testbed(testbed::Error::Cancelled)) = output {
        return Err(testbed::Error::Cancelled.into());
    }
    let console = fs::read(work.path().join("console")).unwrap_or_default();
    let kept = out.keep_console(&key, &console);
    let (output, done) = output.map_err(|error| match error {
        Error::Testbed(e) => e.with_console(kept.clone()).into(),
        other => other,
    })?;
    let failed = match done {
        Done::Cell(CellOutput::Ok(measured)) => {
            return Ok(cell(planned, measured, &output, wall_s));
        }
        Done::Cell(CellOutput::Failed { error }) | Done::Failed(error) => error,
        Done::Launches(_) => "the host did something else than the cell".into(),
    };
    Err(Error::Usage(format!(
        "{failed} (console: {})",
        kept.display()
    )))
}

fn cell(planned: &Planned, measured: Measured, output: &Output, wall_s: f64) -> Cell {
    let spec = &planned.spec;
    Cell {
        workload: spec.workload.clone(),
        variant: planned.variant.name.clone(),
        guests: spec.guests,
        vcpus: spec.vcpus,
        pcpus: planned.pcpus,
        seed: spec.seed,
        kernel: measured.kernel,
        options: planned.options(),
        host: "emulated".into(),
        value: measured.value,
        unit: measured.unit,
        per_guest: measured.per_guest,
        guest_extras: measured.guest_extras,
        counters: measured.counters,
        window_s: measured.window_ns as f64 / 1e9,
        virtual_s: measured.host_ns as f64 / 1e9,
        wall_s,
        console_sha256: sha256(&output.console),
    }
}
