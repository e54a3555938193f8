//! `cargo xtask bench`: the main job.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dense_bench::plan;
use dense_bench::session::{Choice, Replay, Session};
use dense_record::chosen::Chosen;
use dense_report as report;
use dense_report::compare::{replayed, same};
use dense_report::results::{Cell, Run};
use testbed::cells::{self, Keeper, Ran};
use testbed::proc::Cancel;
use testbed::workshop::{Workshop, commit};

use crate::Error;

/// Free space in GiB that builds need when nothing is cached.
const ROOM_GIB: u64 = 12;

/// The options of `cargo xtask bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// The plan.
    #[arg(long, default_value = "quick", help = plan::help())]
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
        session.begin(parts.versions()?).map_err(usage)?;
        let kept = Kept {
            session: Mutex::new(session),
            workshop: &workshop,
            commit: commit(),
        };
        cells::run_all(&workshop, &parts, args.jobs, todo, &kept)?;
        session = kept
            .session
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
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

fn usage(error: dense_record::Error) -> Error {
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
    let others = differing(&file.versions, &session.results.versions);
    let back = before.commit.as_ref();
    let back = back.map_or(String::new(), |c| format!("; the same are at commit {c}"));
    Err(Error::Usage(match others.is_empty() {
        true => said,
        false => format!("{said}; other versions: {}{back}", others.join(", ")),
    }))
}

/// Each version that differs, with both values.
fn differing(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let say = |v: Option<&String>| v.map_or("unknown", String::as_str).to_string();
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let others = names.into_iter().filter(|n| before.get(*n) != now.get(*n));
    others
        .map(|n| format!("{n} ({}, now {})", say(before.get(n)), say(now.get(n))))
        .collect()
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

/// Keeps cells in a session, whichever worker has run them.
struct Kept<'a> {
    session: Mutex<Session>,
    workshop: &'a Workshop,
    commit: Option<String>,
}

impl Kept<'_> {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper for Kept<'_> {
    fn console(&self, key: &str) -> PathBuf {
        self.session().console(key)
    }

    fn keep(&self, cell: &Chosen, ran: Result<Ran, String>) -> testbed::Result<()> {
        match ran {
            Ok(ran) => {
                let run = Run {
                    host: "emulated".into(),
                    wall_s: ran.wall_s,
                    console: &ran.console,
                    facts: ran.facts,
                    commit: self.commit.clone(),
                };
                self.session().add(Cell::new(cell, ran.measured, run))?;
            }
            Err(error) => {
                self.workshop
                    .progress
                    .say(&format!("{}: {error}", cell.key()));
                self.session().fail(cell, &error)?;
            }
        }
        Ok(())
    }
}
