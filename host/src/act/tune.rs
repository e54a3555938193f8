//! The host's knobs: compared with a profile, changed, and put back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use crate::read::Root;
use crate::{Error, Result};

/// Where the values from before are, until they are put back.
const JOURNAL: &str = "run/vmfirst/tune.json";
const RIGHT: &str = "; it takes root, and a kernel that isn't locked down (Secure Boot) for \
                     knobs in debugfs";

/// A knob of the kernel.
#[derive(Debug)]
pub struct Knob {
    /// Its name in profiles.
    pub name: &'static str,
    /// Where it can be, the first that is there.
    paths: &'static [&'static str],
    /// What to do where it can't be changed while the host runs.
    fixed: &'static str,
    /// What it takes where it is lacking.
    lacking: &'static str,
    /// The module of the other maker's processors: where that is loaded, the knob is none of
    /// the host's.
    not_with: Option<&'static str>,
}

/// All knobs that profiles know.
const KNOBS: &[Knob] = &[
    Knob {
        name: "halt_poll_ns",
        paths: &["sys/module/kvm/parameters/halt_poll_ns"],
        fixed: "set by: options kvm halt_poll_ns=N in /etc/modprobe.d",
        lacking: "KVM isn't loaded",
        not_with: None,
    },
    Knob {
        name: "ple_window",
        paths: &["sys/module/kvm_intel/parameters/ple_window"],
        fixed: "only when the module is loaded: options kvm_intel ple_window=N in \
                /etc/modprobe.d",
        lacking: "KVM isn't loaded, or the CPU has no pause-loop exits",
        not_with: Some("sys/module/kvm_amd"),
    },
    // It counts PAUSE instructions, ple_window cycles: the same number is not the same.
    Knob {
        name: "pause_filter_count",
        paths: &["sys/module/kvm_amd/parameters/pause_filter_count"],
        fixed: "only when the module is loaded: options kvm_amd pause_filter_count=N in \
                /etc/modprobe.d",
        lacking: "KVM isn't loaded, or the CPU has no pause filter",
        not_with: Some("sys/module/kvm_intel"),
    },
    Knob {
        name: "migration_cost_ns",
        paths: &["sys/kernel/debug/sched/migration_cost_ns"],
        fixed: "it can't be written here",
        lacking: "debugfs isn't mounted, or this isn't root",
        not_with: None,
    },
    Knob {
        name: "base_slice_ns",
        paths: &[
            "sys/kernel/debug/sched/base_slice_ns",
            "sys/kernel/debug/sched/min_granularity_ns",
        ],
        fixed: "it can't be written here",
        lacking: "debugfs isn't mounted, or this isn't root",
        not_with: None,
    },
    Knob {
        name: "directed_yield",
        paths: &["sys/kernel/directed_yield/mode"],
        fixed: "it can't be written here",
        lacking: "not in a stock kernel: vmfirst's series, with CONFIG_SCHED_DIRECTED_YIELD",
        not_with: None,
    },
    Knob {
        name: "ipi_tracking",
        paths: &["sys/module/kvm/parameters/ipi_tracking"],
        fixed: "it can't be written here",
        lacking: "not in a stock kernel: vmfirst's series, with CONFIG_KVM_IPI_TRACKING and KVM \
                  loaded",
        not_with: None,
    },
];

/// Values of knobs, for a kind of host.
#[derive(Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub what: &'static str,
    values: &'static [(&'static str, &'static str)],
}

/// The profiles.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "dense",
        what: "many VMs on few CPUs: no polling for halted vCPUs, spinners leave soon and yield to \
               whom they wait for",
        values: &[
            ("halt_poll_ns", "0"),
            ("ple_window", "4096"),
            ("pause_filter_count", "3000"),
            ("migration_cost_ns", "500000"),
            ("base_slice_ns", "3000000"),
            ("directed_yield", "lend"),
            ("ipi_tracking", "Y"),
        ],
    },
    Profile {
        name: "latency",
        what: "CPUs to spare: halted vCPUs are polled for, short slices, tasks move readily",
        values: &[
            ("halt_poll_ns", "200000"),
            ("migration_cost_ns", "100000"),
            ("base_slice_ns", "1000000"),
        ],
    },
];

/// How a knob stands to a profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It has the profile's value.
    Same(String),
    /// It has this one.
    Differs(String),
    /// It has this one, and can't be changed while the host runs: why.
    Fixed(String, String),
    /// The kernel lacks it: why.
    Lacking(String),
}

/// Why a knob in debugfs can't be looked at.
const LOCKED_DOWN: &str = "the kernel is locked down (Secure Boot): no debugfs";

/// What a knob had before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    path: String,
    value: String,
}

/// Changes the knobs of a host.
#[derive(Debug)]
pub struct Tuner(Root);

impl Tuner {
    /// For a host.
    pub fn new(root: Root) -> Self {
        Self(root)
    }

    /// How each knob of a profile stands: knob, the profile's value, state.
    pub fn compare(&self, profile: &Profile) -> Vec<(&'static Knob, &'static str, State)> {
        let values = profile.values.iter().filter_map(|(name, asked)| {
            let knob = KNOBS.iter().find(|knob| knob.name == *name)?;
            let others = knob
                .not_with
                .is_some_and(|module| self.0.path(module).exists());
            (!others).then_some((knob, *asked, self.state(knob, asked)))
        });
        values.collect()
    }

    fn state(&self, knob: &Knob, asked: &str) -> State {
        let Some((path, now)) = self.find(knob) else {
            let in_debugfs = |path: &&str| path.starts_with("sys/kernel/debug/");
            let refused = knob.paths.iter().any(in_debugfs) && self.0.is_locked_down();
            return State::Lacking(match refused {
                true => LOCKED_DOWN.into(),
                false => knob.lacking.into(),
            });
        };
        let mode = fs::metadata(self.0.path(path)).map(|m| m.permissions());
        if now == asked {
            State::Same(now)
        } else if mode.is_ok_and(|mode| mode.readonly()) {
            State::Fixed(now, knob.fixed.into())
        } else {
            State::Differs(now)
        }
    }

    fn find(&self, knob: &Knob) -> Option<(&'static str, String)> {
        let mut paths = knob.paths.iter();
        paths.find_map(|path| Some((*path, self.get(path).ok()?)))
    }

    /// A knob with a choice of words has the one that holds in brackets.
    fn get(&self, path: &str) -> io::Result<String> {
        let text = self.0.text(path)?;
        let chosen = text
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        Ok(chosen.map_or(text.trim(), |(word, _)| word).to_string())
    }

    /// Changes what differs and can be changed; returns how many. When one fails, those
    /// before it are put back.
    pub fn apply(&self, profile: &Profile) -> Result<usize> {
        let kept = self.kept()?;
        let mut journal = kept.clone();
        let mut changes = Vec::new();
        for (knob, asked, state) in self.compare(profile) {
            if let (State::Differs(now), Some((path, _))) = (state, self.find(knob)) {
                if !journal.iter().any(|kept| kept.path == path) {
                    journal.push(Kept {
                        path: path.into(),
                        value: now.clone(),
                    });
                }
                changes.push((path, now, asked));
            }
        }
        if changes.is_empty() {
            return Ok(0);
        }
        // Before the first change: a crash between leaves what undo needs.
        self.keep(&journal)?;
        for (done, (path, _, asked)) in changes.iter().enumerate() {
            if let Err(error) = self.put(path, asked) {
                let back = changes[..done].iter().rev();
                let stays: Vec<_> = back
                    .filter(|(path, before, _)| self.put(path, before).is_err())
                    .map(|(path, ..)| format!("/{path}"))
                    .collect();
                self.keep(&kept)?;
                return Err(match stays.is_empty() {
                    true => error,
                    false => Error::Stuck {
                        error: Box::new(error),
                        stays: stays.join(", "),
                    },
                });
            }
        }
        Ok(changes.len())
    }

    /// Puts back what was there before the first change; returns a line for each. What
    /// can't be put back stays in the journal.
    pub fn undo(&self) -> Result<Vec<String>> {
        let kept = self.kept()?;
        let mut lines = Vec::new();
        let mut left = Vec::new();
        let mut failed = None;
        for knob in kept.into_iter().rev() {
            let now = self.get(&knob.path).unwrap_or_default();
            match self.put(&knob.path, &knob.value) {
                Ok(()) => lines.push(format!("/{}: {now} -> {}", knob.path, knob.value)),
                Err(error) => {
                    left.push(knob);
                    failed = Some(error);
                }
            }
        }
        left.reverse();
        self.keep(&left)?;
        match failed {
            Some(error) => Err(error),
            None if lines.is_empty() => Ok(vec!["nothing to undo".into()]),
            None => Ok(lines),
        }
    }

    fn put(&self, path: &str, value: &str) -> Result<()> {
        let refused = |source| Error::refused("write", format!("/{path}"), source, RIGHT);
        let write = || {
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(self.0.path(path))?
                .write_all(value.as_bytes())
        };
        write().map_err(refused)?;
        let found = self.get(path).map_err(refused)?;
        match found == value {
            true => Ok(()),
            false => Err(Error::Differs {
                what: format!("/{path}"),
                asked: value.into(),
                found,
            }),
        }
    }

    fn kept(&self) -> Result<Vec<Kept>> {
        let what = format!("/{JOURNAL}");
        let text = match fs::read_to_string(self.0.path(JOURNAL)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|source| Error::refused("read", what.clone(), source, RIGHT))?,
        };
        serde_json::from_str(&text).map_err(|error| {
            Error::Unavailable(format!(
                "{what} is damaged ({error}): put the knobs back by hand and remove it"
            ))
        })
    }

    /// Writes the journal to a new file that takes the old one's place when it is on disk.
    fn keep(&self, kept: &[Kept]) -> Result<()> {
        let path = self.0.path(JOURNAL);
        let refused = |source| Error::refused("write", format!("/{JOURNAL}"), source, RIGHT);
        if kept.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(error)),
                _ => Ok(()),
            };
        }
        let write = || -> io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let new = path.with_extension("new");
            let _ = fs::remove_file(&new);
            let mut file: File = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            serde_json::to_writer(&mut file, kept)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str, bool)]) -> (tempfile::TempDir, Tuner) {
        let root = tempfile::tempdir().unwrap();
        for (path, text, writable) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let mut mode = fs::metadata(&path).unwrap().permissions();
            mode.set_readonly(!writable);
            fs::set_permissions(&path, mode).unwrap();
        }
        let tuner = Tuner::new(Root::at(root.path()));
        (root, tuner)
    }

    const HALT: &str = "sys/module/kvm/parameters/halt_poll_ns";
    const PLE: &str = "sys/module/kvm_amd/parameters/pause_filter_count";
    const SLICE: &str = "sys/kernel/debug/sched/base_slice_ns";

    fn profile(name: &str) -> &'static Profile {
        PROFILES.iter().find(|p| p.name == name).unwrap()
    }

    /// What is with a knob of the profile dense.
    fn of_dense(tuner: &Tuner, name: &str) -> State {
        let mut states = tuner.compare(profile("dense")).into_iter();
        states.find(|(knob, ..)| knob.name == name).unwrap().2
    }

    #[test]
    fn a_profile_is_shown_applied_and_undone() {
        let files = [
            (HALT, "200000\n", true),
            (PLE, "1000\n", false),
            (SLICE, "2800000\n", true),
        ];
        let (root, tuner) = host(&files);
        let state = |name| of_dense(&tuner, name);
        assert_eq!(state("halt_poll_ns"), State::Differs("200000".into()));
        assert!(
            matches!(state("pause_filter_count"), State::Fixed(now, why) if now == "1000" && why.contains("modprobe.d"))
        );
        assert!(matches!(state("directed_yield"), State::Lacking(_)));
        // Another maker's.
        let states = tuner.compare(profile("dense"));
        assert!(states.iter().all(|(knob, ..)| knob.name != "ple_window"));
        assert_eq!(tuner.apply(profile("dense")).unwrap(), 2);
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!((read(HALT), read(PLE)), ("0".into(), "1000\n".into()));
        // A second profile keeps what was there before the first.
        assert_eq!(tuner.apply(profile("latency")).unwrap(), 2);
        assert_eq!(tuner.undo().unwrap().len(), 2);
        assert_eq!(
            (read(HALT), read(SLICE)),
            ("200000".into(), "2800000".into())
        );
        assert!(!root.path().join(JOURNAL).exists());
        assert_eq!(tuner.undo().unwrap(), ["nothing to undo"]);
    }

    /// A kernel with vmfirst's series prints words and "Y" or "N", and has the profile's values
    /// unless they were changed.
    #[test]
    fn what_vmfirsts_kernel_has_is_compared_and_changed() {
        let mode = "sys/kernel/directed_yield/mode";
        let tracking = "sys/module/kvm/parameters/ipi_tracking";
        let (root, tuner) = host(&[(mode, "lend\n", true), (tracking, "N\n", true)]);
        let state = |name| of_dense(&tuner, name);
        assert_eq!(state("directed_yield"), State::Same("lend".into()));
        assert_eq!(state("ipi_tracking"), State::Differs("N".into()));
        assert_eq!(tuner.apply(profile("dense")).unwrap(), 1);
        let now = fs::read_to_string(root.path().join(tracking)).unwrap();
        assert_eq!(now, "Y");
        assert_eq!(tuner.undo().unwrap(), [format!("/{tracking}: Y -> N")]);
    }

    /// Root can't look at it either; the others are changed.
    #[test]
    fn a_kernel_that_is_locked_down_says_so() {
        let lockdown = "sys/kernel/security/lockdown";
        for (text, why) in [
            ("none [integrity] confidentiality\n", "Secure Boot"),
            ("[none] integrity confidentiality\n", "debugfs"),
        ] {
            let (_root, tuner) = host(&[(HALT, "200000\n", true), (lockdown, text, true)]);
            let slice = of_dense(&tuner, "base_slice_ns");
            let State::Lacking(said) = slice else {
                panic!("{slice:?}");
            };
            assert!(said.contains(why), "{said}");
            assert_eq!(said == LOCKED_DOWN, text.contains("[integrity]"));
            assert_eq!(tuner.apply(profile("dense")).unwrap(), 1);
        }
    }

    /// A file that forgets what is written to it.
    #[test]
    fn when_one_knob_fails_all_are_put_back() {
        let (root, tuner) = host(&[(HALT, "200000\n", true)]);
        let slice = root.path().join(SLICE);
        fs::create_dir_all(slice.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/dev/null", &slice).unwrap();
        let error = tuner.apply(profile("dense")).unwrap_err().to_string();
        assert!(error.contains("was set to 3000000 and has"), "{error}");
        assert_eq!(
            fs::read_to_string(root.path().join(HALT)).unwrap(),
            "200000"
        );
        assert!(!root.path().join(JOURNAL).exists());
    }

    #[test]
    fn a_damaged_journal_stops_before_anything_is_changed() {
        let (root, tuner) = host(&[(HALT, "200000\n", true), (JOURNAL, "{", true)]);
        let error = tuner.apply(profile("dense")).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(
            fs::read_to_string(root.path().join(HALT)).unwrap(),
            "200000\n"
        );
    }
}
