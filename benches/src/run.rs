//! `dense-bench run`: a plan on this host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dense_agent::cell::{self, Console, STATE, same_cell};
use dense_agent::facts::{describe, facts};
use dense_record::chosen::Chosen;
use dense_record::json::sha256;
use dense_record::measured::{CellOutput, Facts};
use dense_record::spec::{CellSpec, Paths};
use dense_record::{Error, Result};
use dense_report as report;
use dense_report::results::{Cell, Run};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::plan;
use crate::preflight::Host;
use crate::session::{Choice, Session};

/// The options of `dense-bench run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The plan.
    #[arg(default_value = "quick", help = plan::help())]
    pub plan: String,
    /// Which of its cells.
    #[command(flatten)]
    pub choice: Choice,
    /// Where results.json, report.html and the guests' consoles go
    #[arg(long, default_value = "dense-bench-results", value_name = "DIR")]
    pub out: PathBuf,
    /// The folder with vmm and guest/, as `cargo xtask images` makes it; by default the
    /// one that this program is in
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Where the guests' disks go; a tmpfs
    #[arg(long, default_value = "/dev/shm", value_name = "DIR")]
    pub scratch: PathBuf,
    /// Where changes to the host are noted; one a host
    #[arg(long, default_value = STATE, value_name = "DIR")]
    pub state: PathBuf,
}

/// Runs the plan, prints the table; false if cells failed. A cell that fails is
/// marked so, and the run goes on until `stop` is set.
pub fn run(args: &RunArgs, stop: &AtomicBool) -> Result<bool> {
    let mut session = Session::open(&args.plan, &args.choice, &args.out)?;
    session.planned = here(std::mem::take(&mut session.planned));
    let (chosen, notes) = Host::look().choose(std::mem::take(&mut session.planned))?;
    for note in notes {
        eprintln!("dense-bench: {note}");
    }
    session.planned = chosen;
    let paths = paths(args.images.as_deref())?;
    session.prepare()?;
    session.begin(versions(&paths, &session.planned)?)?;

    let todo = session.todo();
    let total = todo.len();
    let began = Instant::now();
    for (number, planned) in todo.iter().enumerate() {
        tell(number, total, began, planned);
        let spec = CellSpec::new(planned, paths.clone());
        one(&mut session, planned, &spec, args, stop)?;
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Invalid("stopped; --resume goes on".into()));
        }
    }
    report::write_all(&session.results, session.folder())?;
    print!("{}", report::table(&session.results));
    if let Some(replay) = &args.choice.replay {
        let (_, before) = replay.find()?;
        let now = session.results.cells.first();
        println!("{}", report::compare::replayed(&before, now));
    }
    Ok(session.missing() == 0)
}

/// The cells as a real host has them: without an emulator's rounds, each once.
fn here(planned: Vec<Chosen>) -> Vec<Chosen> {
    let mut keys = BTreeSet::new();
    let real = planned.into_iter().map(|cell| Chosen {
        round_ns: 0,
        ..cell
    });
    real.filter(|cell| keys.insert(cell.key())).collect()
}

/// Runs a cell on as many CPUs as it says, and keeps what came out.
fn one(
    session: &mut Session,
    planned: &Chosen,
    spec: &CellSpec,
    args: &RunArgs,
    stop: &AtomicBool,
) -> Result<()> {
    let path = session.console(&planned.key());
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    let console: Console = Arc::new(Mutex::new(file));
    let host = cell::Host {
        scratch: &args.scratch,
        state: &args.state,
        console: &console,
        stop,
        booted: same_cell,
    };
    let all = limit_cpus(planned.pcpus)?;
    let began = Instant::now();
    let output = cell::run(spec, host);
    sched_setaffinity(None, &all).map_err(Error::io("set the CPUs of", "this process"))?;
    match output {
        CellOutput::Ok(measured) => {
            let console = fs::read(&path).map_err(Error::io("read", &path))?;
            let run = Run {
                host: describe(&facts()),
                wall_s: began.elapsed().as_secs_f64(),
                console: &console,
                facts: Facts::new(),
                commit: None,
            };
            session.add(Cell::new(planned, measured, run))
        }
        CellOutput::Failed { .. } if stop.load(Ordering::Relaxed) => Ok(()),
        CellOutput::Failed { error } => {
            let key = planned.key();
            eprintln!("dense-bench: {key}: {error} (console: {})", path.display());
            session.fail(planned, &error)
        }
    }
}

/// Keeps this process, and the VMs that it starts, on the first so many CPUs; returns
/// those that it had.
fn limit_cpus(count: u32) -> Result<CpuSet> {
    let all = sched_getaffinity(None).map_err(Error::io("read the CPUs of", "this process"))?;
    let mut few = CpuSet::new();
    let usable = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu));
    usable.take(count as usize).for_each(|cpu| few.set(cpu));
    sched_setaffinity(None, &few).map_err(Error::io("set the CPUs of", "this process"))?;
    Ok(all)
}

/// How far it is, a line for each cell.
fn tell(number: usize, total: usize, began: Instant, planned: &Chosen) {
    let mut out = std::io::stderr();
    let left = match number {
        0 => "?".to_string(),
        _ => {
            let each = began.elapsed().as_secs_f64() / number as f64;
            format!("{:.0}", each * (total - number) as f64 / 60.0)
        }
    };
    let key = planned.key();
    // Only for the eye.
    let _ = writeln!(
        out,
        "cell {} of {total}, {left} minutes left: {key}",
        number + 1
    );
}

/// Where programs and images are: in `images`, or beside this program.
fn paths(images: Option<&Path>) -> Result<Paths> {
    let folder = match images {
        Some(folder) => folder.to_path_buf(),
        None => {
            let program = std::env::current_exe().map_err(Error::io("find", "this program"))?;
            program.parent().unwrap_or(Path::new("/")).to_path_buf()
        }
    };
    let paths = Paths {
        vmm: folder.join("vmm"),
        kernel: folder.join("guest/bzImage"),
        initrds: folder.join("guest"),
        mke2fs: "/sbin/mke2fs".into(),
    };
    for path in [&paths.vmm, &paths.kernel] {
        if !path.is_file() {
            return Err(Error::Invalid(format!(
                "{} is not there: make the folder with `cargo xtask images DIR`, copy it to \
                 this host, and give it by --images",
                path.display()
            )));
        }
    }
    Ok(paths)
}

/// What shapes the figures, apart from the host itself.
fn versions(paths: &Paths, planned: &[Chosen]) -> Result<BTreeMap<String, String>> {
    let hash = |path: &Path| Ok(sha256(&fs::read(path).map_err(Error::io("read", path))?));
    let mut versions = BTreeMap::from([
        (
            "dense-bench".to_string(),
            env!("CARGO_PKG_VERSION").to_string(),
        ),
        ("host".into(), describe(&facts())),
        ("vmm_sha256".into(), hash(&paths.vmm)?),
        ("guest_kernel_sha256".into(), hash(&paths.kernel)?),
    ]);
    let workloads: BTreeSet<_> = planned.iter().map(|c| &c.workload).collect();
    for workload in workloads {
        let image = paths.initrds.join(format!("{workload}.cpio"));
        // A cell without its image fails by itself, and says so.
        if let Ok(hash) = hash(&image) {
            versions.insert(format!("image_{workload}_sha256"), hash);
        }
    }
    Ok(versions)
}
