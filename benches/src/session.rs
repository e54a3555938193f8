//! A run of a plan: which cells, what is there already, where results go. The same
//! for the emulated host and for a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dense_record::chosen::{Chosen, HostKernel};
use dense_record::{Error, Result};
use dense_report::results::{Cell, Failure, Results};

use crate::plan;

/// Which cells of a plan; the options of every command that runs one.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Choice {
    /// Only cells whose key matches, as "dbench/*" or "*/s1"
    #[arg(long, value_name = "GLOB")]
    pub only: Option<String>,
    /// Samples of each cell, instead of the plan's number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub seeds: Option<u64>,
    /// Only part I of N of the cells, as 2/3; each part keeps what is compared together
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Keep the cells that are in DIR already, run the others
    #[arg(long)]
    pub resume: bool,
    /// Run one cell again as a results file has it, as results.json#dbench/2x4on4/q3000/stock/s1
    #[arg(long, value_name = "FILE#CELL", conflicts_with_all = ["only", "seeds", "shard", "resume"])]
    pub replay: Option<Replay>,
}

/// A part of a plan's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    part: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let numbers = text.split_once('/').map(|(i, n)| (i.parse(), n.parse()));
        match numbers {
            Some((Ok(part), Ok(of))) if 1 <= part && part <= of => Ok(Self { part, of }),
            _ => Err("it is I/N with I from 1 to N, as 2/3".into()),
        }
    }
}

impl Shard {
    /// Its cells. Those that differ in variant only stay together: they are compared.
    fn of(self, cells: Vec<Chosen>) -> Vec<Chosen> {
        let mut sets: Vec<String> = Vec::new();
        let mut mine = Vec::new();
        for cell in cells {
            let set = cell.key_of("");
            let number = sets.iter().position(|s| *s == set).unwrap_or_else(|| {
                sets.push(set);
                sets.len() - 1
            });
            if number % self.of == self.part - 1 {
                mine.push(cell);
            }
        }
        mine
    }
}

/// A cell of a results file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    file: PathBuf,
    key: String,
}

impl FromStr for Replay {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('#') {
            Some((file, key)) if !file.is_empty() && !key.is_empty() => Ok(Self {
                file: file.into(),
                key: key.into(),
            }),
            _ => Err("it is FILE#CELL, as results.json#dbench/2x4on4/q3000/stock/s1".into()),
        }
    }
}

impl Replay {
    /// The results file, and the cell in it.
    pub fn find(&self) -> Result<(Results, Cell)> {
        let results = Results::load(&self.file)?;
        let cell = results.cells.iter().find(|c| c.key() == self.key).cloned();
        let cell = cell.ok_or_else(|| {
            let keys: Vec<_> = results.cells.iter().map(Cell::key).collect();
            Error::Invalid(format!(
                "{} has no cell {}; there are: {}",
                self.file.display(),
                self.key,
                keys.join(", ")
            ))
        })?;
        Ok((results, cell))
    }
}

/// A run of a plan.
#[derive(Debug)]
pub struct Session {
    /// All cells asked for.
    pub planned: Vec<Chosen>,
    /// The workloads of the whole plan: what is built for them is the same for any
    /// choice of its cells.
    pub workloads: BTreeSet<String>,
    /// The kernels of the whole plan.
    pub kernels: BTreeSet<HostKernel>,
    /// What is there of them, saved whenever it changes.
    pub results: Results,
    resumed: bool,
    out: PathBuf,
}

impl Session {
    /// Checks the plan, and reads the results that are there if they are to be kept.
    pub fn open(plan: &str, choice: &Choice, out: &Path) -> Result<Self> {
        let (plan, planned, whole) = match &choice.replay {
            Some(replay) => {
                let (results, cell) = replay.find()?;
                cell.chosen.check()?;
                let planned = vec![cell.chosen];
                (results.plan, planned.clone(), planned)
            }
            None => {
                let planned = plan::cells(plan, choice.seeds, choice.only.as_deref())?;
                (plan.to_string(), planned, plan::cells(plan, Some(1), None)?)
            }
        };
        let planned = match choice.shard {
            Some(shard) => shard.of(planned),
            None => planned,
        };
        let path = out.join("results.json");
        let results = match choice.resume {
            true if !path.exists() => {
                return Err(Error::Invalid(format!(
                    "nothing to resume: {} is not there; run without --resume first",
                    path.display()
                )));
            }
            true => Results::load(&path)?,
            false => Results::new(&plan, BTreeMap::new()),
        };
        Ok(Self {
            planned,
            kernels: whole.iter().map(|c| c.host_kernel).collect(),
            workloads: whole.into_iter().map(|c| c.workload).collect(),
            results,
            resumed: choice.resume,
            out: out.into(),
        })
    }

    /// Makes the folder and sees that it can be written to, before hours of work.
    pub fn prepare(&self) -> Result<()> {
        let consoles = self.out.join("consoles");
        fs::create_dir_all(&consoles).map_err(Error::io("create", &consoles))?;
        tempfile::tempfile_in(&self.out).map_err(Error::io("write to", &self.out))?;
        Ok(())
    }

    /// Notes what shapes the figures; refuses to add to results of something else.
    pub fn begin(&mut self, versions: BTreeMap<String, String>) -> Result<()> {
        if self.resumed {
            self.results.check_resume(&versions, &self.planned)?;
        }
        self.results.versions = versions;
        self.save()
    }

    /// The cells that have no result yet.
    pub fn todo(&self) -> Vec<Chosen> {
        let missing = |c: &&Chosen| !self.results.has(&c.key());
        self.planned.iter().filter(missing).cloned().collect()
    }

    /// How many of them there are.
    pub fn missing(&self) -> usize {
        self.todo().len()
    }

    /// Adds a cell's result.
    pub fn add(&mut self, cell: Cell) -> Result<()> {
        let key = cell.key();
        self.results.failures.retain(|f| f.key != key);
        self.results.cells.push(cell);
        self.save()
    }

    /// Marks a cell as failed.
    pub fn fail(&mut self, planned: &Chosen, error: &str) -> Result<()> {
        let key = planned.key();
        self.results.failures.retain(|f| f.key != key);
        self.results.failures.push(Failure {
            console: self.console(&key).display().to_string(),
            error: error.replace('\n', " "),
            key,
        });
        self.save()
    }

    /// Where the results are.
    pub fn path(&self) -> PathBuf {
        self.out.join("results.json")
    }

    /// The folder for everything.
    pub fn folder(&self) -> &Path {
        &self.out
    }

    /// Where a cell's console goes.
    pub fn console(&self, key: &str) -> PathBuf {
        let name = format!("{}.txt", key.replace('/', "_"));
        self.out.join("consoles").join(name)
    }

    fn save(&self) -> Result<()> {
        self.results.save(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use dense_record::measured::{Facts, Measured};
    use dense_report::results::Run;

    use super::*;

    fn cell(chosen: &Chosen) -> Cell {
        let run = Run {
            host: "emulated".into(),
            wall_s: 1.0,
            console: b"",
            facts: Facts::new(),
            commit: None,
        };
        Cell::new(chosen, Measured::default(), run)
    }

    #[test]
    fn shards_are_all_cells_once_and_keep_pairs_together() {
        let all = plan::cells("quick", None, None).unwrap();
        let part = |text: &str| text.parse::<Shard>().unwrap().of(all.clone());
        let shards = [part("1/3"), part("2/3"), part("3/3")];
        let mut keys: Vec<_> = shards.iter().flatten().map(Chosen::key).collect();
        let mut expected: Vec<_> = all.iter().map(Chosen::key).collect();
        keys.sort();
        expected.sort();
        assert_eq!(keys, expected);
        for shard in shards {
            let sets: Vec<_> = shard.iter().map(|c| c.key_of("")).collect();
            assert!(sets.chunks(2).all(|pair| pair[0] == pair[1]), "{sets:?}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for text in ["", "1", "0/2", "3/2", "1/0", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
        for text in ["", "#", "x#", "#x", "x"] {
            assert!(text.parse::<Replay>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_failed_cell_is_kept_until_it_succeeds() {
        let out = tempfile::tempdir().unwrap();
        let choice = Choice::default();
        let mut session = Session::open("smoke", &choice, out.path()).unwrap();
        session.prepare().unwrap();
        session.begin(BTreeMap::new()).unwrap();
        let planned = session.planned[0].clone();
        let all = session.missing();
        session.fail(&planned, "guest 0:\nhung").unwrap();
        assert_eq!(session.missing(), all);
        let failure = Results::load(&session.path()).unwrap().failures.remove(0);
        assert_eq!(failure.key, planned.key());
        assert_eq!(failure.error, "guest 0: hung");
        assert!(failure.console.contains("compute_2x4on4"), "{failure:?}");

        session.add(cell(&planned)).unwrap();
        let saved = Results::load(&session.path()).unwrap();
        assert_eq!((saved.failures.len(), saved.cells.len()), (0, 1));
        assert_eq!(session.missing(), all - 1);
    }

    #[test]
    fn a_cell_is_planned_again_from_the_results_alone() {
        let out = tempfile::tempdir().unwrap();
        let planned =
            plan::cells("layouts", None, Some("*/cg-vcpu/pin-one-to-one/stock/*")).unwrap();
        let mut results = Results::new("layouts", BTreeMap::new());
        results.cells.push(cell(&planned[0]));
        let path = out.path().join("results.json");
        results.save(&path).unwrap();
        let replay = |key: &str| Choice {
            replay: Some(format!("{}#{key}", path.display()).parse().unwrap()),
            ..Choice::default()
        };
        let again = Session::open("", &replay(&planned[0].key()), out.path()).unwrap();
        assert_eq!(again.planned, planned);
        let error = Session::open("", &replay("nope"), out.path()).unwrap_err();
        assert!(error.to_string().contains(&planned[0].key()), "{error}");
    }
}
