//! The one door for the agent's writes: what was there is kept in a journal before it is
//! changed, each write has a line in the audit log, and all of it comes back.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::knob::Knob;
use super::ring::Ring;
use crate::act::Cgroup;
use crate::{Error, Result};

/// How often a value is written again that somebody else changes; after that it is theirs.
const CONTESTS_MOST: u32 = 5;

/// Names one value of one group.
type Place = (String, Knob);

/// A value that a group is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The group's path, "/" for the root.
    pub group: String,
    /// The group's number.
    pub id: u64,
    /// What is to be changed.
    pub knob: Knob,
    /// To this.
    pub value: String,
    /// Why, for the audit log.
    pub why: String,
}

impl Wish {
    fn place(&self) -> Place {
        (self.group.clone(), self.knob.clone())
    }
}

/// What a value was before it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    group: String,
    id: u64,
    knob: Knob,
    before: String,
    ours: String,
}

impl Kept {
    fn place(&self) -> Place {
        (self.group.clone(), self.knob.clone())
    }
}

/// A line of the audit log.
#[derive(Debug, Serialize)]
struct Audit<'a> {
    group: &'a str,
    knob: String,
    before: &'a str,
    after: &'a str,
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Keeps groups to what is wished.
#[derive(Debug)]
pub struct Keeper {
    base: PathBuf,
    path: PathBuf,
    journal: BTreeMap<Place, Kept>,
    audit: Ring,
    contests: BTreeMap<Place, u32>,
}

impl Keeper {
    /// For the groups below `base`; takes up the journal of an agent that was killed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the journal is there and can't be understood.
    pub fn open(base: &Path, journal: PathBuf, audit: Ring) -> Result<Self> {
        let what = journal.display().to_string();
        let kept: Vec<Kept> = match fs::read_to_string(&journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::refused("read", what, source, "")),
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Error::Unavailable(format!(
                    "{what} is damaged ({error}): put the groups' values back by hand and \
                     remove it"
                ))
            })?,
        };
        Ok(Self {
            base: base.into(),
            path: journal,
            journal: kept.into_iter().map(|kept| (kept.place(), kept)).collect(),
            audit,
            contests: BTreeMap::new(),
        })
    }

    /// How many values are changed.
    pub fn changed(&self) -> usize {
        self.journal.len()
    }

    /// How many lines of the audit log were lost.
    pub fn audit_lost(&self) -> u64 {
        self.audit.lost()
    }

    /// What a value was before it was changed, if it is.
    pub fn before(&self, group: &str, knob: &Knob) -> Option<String> {
        let kept = self.journal.get(&(group.into(), knob.clone()))?;
        Some(kept.before.clone())
    }

    /// Forgets who else wrote to what, as after a new configuration.
    pub fn forgive(&mut self) {
        self.contests.clear();
    }

    /// Changes what differs from the wishes and puts back what is wished no longer; returns
    /// what became of each wish.
    ///
    /// # Errors
    /// The journal can't be written: then nothing is changed.
    pub fn keep_to(&mut self, wishes: &[Wish]) -> Result<Vec<Result<()>>> {
        let wished: BTreeMap<Place, u64> = wishes.iter().map(|w| (w.place(), w.id)).collect();
        let is_wished = |place: &Place, kept: &Kept| wished.get(place) == Some(&kept.id);
        let journal = std::mem::take(&mut self.journal);
        let (stay, unwanted) = journal.into_iter().partition(|(p, k)| is_wished(p, k));
        self.journal = stay;
        if !unwanted.is_empty() {
            self.put_back(unwanted, "it is declared no longer")?;
        }
        let plans: Vec<_> = wishes.iter().map(|wish| self.plan(wish)).collect();
        if plans.iter().any(|plan| matches!(plan, Ok(Some(_)))) {
            let old = self.journal.clone();
            // Before the first change: a crash between leaves what is needed.
            for kept in plans.iter().flatten().flatten() {
                self.journal.insert(kept.place(), kept.clone());
            }
            if let Err(error) = self.save() {
                self.journal = old;
                return Err(error);
            }
        }
        let done = wishes.iter().zip(plans).map(|(wish, plan)| match plan? {
            Some(kept) => self.change(wish, &kept),
            None => Ok(()),
        });
        let done: Vec<_> = done.collect();
        if done.iter().any(Result::is_err) {
            self.save()?;
        }
        Ok(done)
    }

    /// What a wish takes: a line of the journal, or nothing.
    fn plan(&mut self, wish: &Wish) -> Result<Option<Kept>> {
        let group = self.group(&wish.group, wish.id)?;
        let now = wish.knob.get(&group)?;
        if wish.knob.is_same(&wish.value, &now) {
            return Ok(None);
        }
        let place = wish.place();
        let kept = self.journal.get(&place);
        if let Some(kept) = kept.filter(|kept| kept.ours == wish.value) {
            let contests = self.contests.entry(place).or_default();
            if *contests >= CONTESTS_MOST {
                return Err(Error::Unavailable(format!(
                    "somebody else sets {} of {} again and again, to {now}: it is left to them \
                     until vmfirst agent is reloaded",
                    wish.knob, wish.group
                )));
            }
            *contests += 1;
            return Ok(Some(kept.clone()));
        }
        Ok(Some(Kept {
            group: wish.group.clone(),
            id: wish.id,
            knob: wish.knob.clone(),
            before: kept.map_or(now, |kept| kept.before.clone()),
            ours: wish.value.clone(),
        }))
    }

    fn change(&mut self, wish: &Wish, kept: &Kept) -> Result<()> {
        let group = self.group(&wish.group, wish.id);
        let before = group.as_ref().ok().and_then(|g| wish.knob.get(g).ok());
        let before = before.unwrap_or_default();
        let done = group.and_then(|group| {
            wish.knob.set(&group, &wish.value).inspect_err(|_| {
                // The kernel may have taken it and made something else of it.
                let _ = wish.knob.set(&group, &before);
            })
        });
        if done.is_err() && before == kept.before {
            self.journal.remove(&kept.place());
        }
        self.tell_wish(wish, &before, &done);
        done
    }

    /// Writes to a file that keeps nothing, as memory.reclaim; it has a line in the audit log.
    pub fn command(&mut self, wish: &Wish) -> Result<()> {
        let group = self.group(&wish.group, wish.id);
        let done = group.and_then(|group| group.write(&wish.knob.to_string(), &wish.value));
        self.tell_wish(wish, "", &done);
        done
    }

    /// The line of a wish in the audit log.
    fn tell_wish(&mut self, wish: &Wish, before: &str, done: &Result<()>) {
        self.audit.add(&Audit {
            group: &wish.group,
            knob: wish.knob.to_string(),
            before,
            after: &wish.value,
            why: &wish.why,
            error: done.as_ref().err().map(ToString::to_string),
        });
    }

    /// Puts all values back that were changed; those that can't be stay in the journal.
    pub fn restore(&mut self, why: &str) -> Result<usize> {
        let all = std::mem::take(&mut self.journal);
        self.put_back(all, why)
    }

    /// Puts values back; returns how many.
    fn put_back(&mut self, kept: BTreeMap<Place, Kept>, why: &str) -> Result<usize> {
        let (mut failed, mut count) = (None, 0);
        for (place, kept) in kept {
            match self.back(&kept, why) {
                Ok(true) => count += 1,
                Ok(false) => {}
                Err(error) => {
                    failed = Some(error);
                    self.journal.insert(place, kept);
                }
            }
        }
        self.save()?;
        failed.map_or(Ok(count), Err)
    }

    /// Whether the value was the agent's still and was put back. A group that is gone has
    /// nothing to put back, and a value that somebody else has set since is theirs.
    fn back(&mut self, kept: &Kept, why: &str) -> Result<bool> {
        let put = || -> Result<bool> {
            let group = self.group(&kept.group, kept.id)?;
            let now = kept.knob.get(&group)?;
            if !kept.knob.is_same(&kept.ours, &now) {
                return Ok(false);
            }
            kept.knob.set(&group, &kept.before).map(|()| true)
        };
        let done = match put() {
            Err(error) if error.is_gone() => return Ok(false),
            done => done,
        };
        let why = match done {
            Ok(false) => "somebody else has changed it since: it stays",
            _ => why,
        };
        self.audit.add(&Audit {
            group: &kept.group,
            knob: kept.knob.to_string(),
            before: &kept.ours,
            after: &kept.before,
            why,
            error: done.as_ref().err().map(ToString::to_string),
        });
        done
    }

    /// The group with this number; another one may have its name by now.
    fn group(&self, path: &str, id: u64) -> Result<Cgroup> {
        let folder = self.base.join(path.trim_start_matches('/'));
        match fs::metadata(&folder) {
            Ok(there) if there.ino() == id => Ok(Cgroup::at(folder)),
            _ => Err(Error::Gone(format!("control group {path}"))),
        }
    }

    /// Writes the journal to a new file that takes the old one's place when it is on disk.
    fn save(&self) -> Result<()> {
        let what = self.path.display().to_string();
        let kept: Vec<&Kept> = self.journal.values().collect();
        save(&self.path, &kept).map_err(|source| Error::refused("write", what, source, ""))
    }

    /// What would be written for these wishes: group, knob, value now, value then.
    pub fn differing<'a>(&self, wishes: &'a [Wish]) -> Vec<(&'a Wish, Result<String>)> {
        let mut found = Vec::new();
        for wish in wishes {
            let group = self.group(&wish.group, wish.id);
            match group.and_then(|group| wish.knob.get(&group)) {
                Ok(now) if wish.knob.is_same(&wish.value, &now) => {}
                now => found.push((wish, now)),
            }
        }
        found
    }
}

/// Puts a value's JSON in a file's place, whole or not at all.
pub fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)?;
    serde_json::to_writer(&mut file, value)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    struct Host {
        root: tempfile::TempDir,
        keeper: Keeper,
    }

    impl Host {
        fn new(groups: &[(&str, &str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (group, file, text) in groups {
                let folder = root.path().join("cgroup").join(group);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(file), text).unwrap();
            }
            let keeper = Self::open(&root);
            Self { root, keeper }
        }

        /// As an agent does that starts.
        fn open(root: &tempfile::TempDir) -> Keeper {
            let audit = Ring::new(root.path().join("audit"), 1 << 20);
            let base = root.path().join("cgroup");
            Keeper::open(&base, root.path().join("journal"), audit).unwrap()
        }

        fn wish(&self, group: &str, knob: Knob, value: &str) -> Wish {
            let folder = self.root.path().join("cgroup").join(group);
            Wish {
                group: format!("/{group}"),
                id: fs::metadata(folder).unwrap().ino(),
                knob,
                value: value.into(),
                why: "priority".into(),
            }
        }

        fn read(&self, file: &str) -> String {
            let path = self.root.path().join("cgroup").join(file);
            fs::read_to_string(path).unwrap().trim().into()
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.root.path().join("cgroup").join(file), text).unwrap();
        }

        fn audit(&self) -> Vec<Value> {
            let text = fs::read_to_string(self.root.path().join("audit")).unwrap_or_default();
            text.lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect()
        }
    }

    const WEIGHTS: &[(&str, &str, &str)] = &[
        ("a", "cpu.weight", "300\n"),
        ("a", "cpu.idle", "0\n"),
        ("b", "cpu.weight", "100\n"),
    ];

    #[test]
    fn values_change_have_a_line_each_and_come_back() {
        let mut host = Host::new(WEIGHTS);
        let wishes = [
            host.wish("a", Knob::Cpu, "idle"),
            host.wish("b", Knob::Cpu, "800"),
        ];
        assert!(
            host.keeper
                .keep_to(&wishes)
                .unwrap()
                .iter()
                .all(Result::is_ok)
        );
        assert_eq!(
            (host.read("a/cpu.idle"), host.read("b/cpu.weight")),
            ("1".into(), "800".into())
        );
        // Nothing to do, so nothing is written.
        host.keeper.keep_to(&wishes).unwrap();
        assert_eq!(host.audit().len(), 2);
        assert_eq!(
            (&host.audit()[0]["before"], &host.audit()[0]["after"]),
            (&"300".into(), &"idle".into())
        );
        // The first value is kept whatever follows.
        let more = [host.wish("a", Knob::Cpu, "12")];
        host.keeper.keep_to(&more).unwrap();
        assert_eq!(host.read("b/cpu.weight"), "100");
        assert_eq!(host.keeper.restore("the agent ends").unwrap(), 1);
        assert_eq!(
            (host.read("a/cpu.idle"), host.read("a/cpu.weight")),
            ("0".into(), "300".into())
        );
        assert_eq!(host.keeper.changed(), 0);
    }

    /// SIGKILL leaves the journal: the next agent knows what was there, even when the old one
    /// was killed between the journal's line and the change.
    #[test]
    fn the_next_agent_puts_back_what_a_killed_one_left() {
        let mut host = Host::new(WEIGHTS);
        let wishes = [
            host.wish("a", Knob::Cpu, "idle"),
            host.wish("b", Knob::Cpu, "800"),
        ];
        host.keeper.keep_to(&wishes).unwrap();
        host.write("b/cpu.weight", "100");
        let mut next = Host::open(&host.root);
        assert_eq!(next.changed(), 2);
        assert_eq!(next.restore("the agent starts").unwrap(), 1);
        assert_eq!(
            (host.read("a/cpu.idle"), host.read("a/cpu.weight")),
            ("0".into(), "300".into())
        );
        assert_eq!(host.read("b/cpu.weight"), "100");
        assert_eq!(Host::open(&host.root).changed(), 0);
    }

    #[test]
    fn what_somebody_else_sets_again_and_again_is_left_to_them() {
        let mut host = Host::new(WEIGHTS);
        let wishes = [host.wish("b", Knob::Cpu, "800")];
        for _ in 0..=CONTESTS_MOST {
            assert!(host.keeper.keep_to(&wishes).unwrap()[0].is_ok());
            host.write("b/cpu.weight", "200");
        }
        let error = host.keeper.keep_to(&wishes).unwrap().remove(0).unwrap_err();
        assert!(
            error.to_string().contains("again and again, to 200"),
            "{error}"
        );
        assert_eq!(host.read("b/cpu.weight"), "200");
        // It is theirs at the end, too.
        assert_eq!(host.keeper.restore("the agent ends").unwrap(), 0);
        assert_eq!(host.read("b/cpu.weight"), "200");
    }

    /// Of another group with the same name nothing is known.
    #[test]
    fn a_group_that_was_made_anew_has_nothing_put_back() {
        let mut host = Host::new(WEIGHTS);
        let wishes = [host.wish("b", Knob::Cpu, "800")];
        host.keeper.keep_to(&wishes).unwrap();
        // The old folder stays somewhere, so that its number isn't given anew.
        let base = host.root.path().join("cgroup");
        fs::rename(base.join("b"), base.join("old")).unwrap();
        fs::create_dir(base.join("b")).unwrap();
        host.write("b/cpu.weight", "800");
        let error = host.keeper.keep_to(&wishes).unwrap().remove(0).unwrap_err();
        assert!(error.is_gone(), "{error}");
        assert_eq!(host.keeper.restore("the agent ends").unwrap(), 0);
        assert_eq!(host.read("b/cpu.weight"), "800");
    }

    /// A file that forgets what is written to it.
    #[test]
    fn what_the_kernel_does_not_take_is_an_error_and_not_in_the_journal() {
        let mut host = Host::new(WEIGHTS);
        let file = host.root.path().join("cgroup/b/memory.low");
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        let wishes = [
            host.wish("b", Knob::file("memory.low"), "4096"),
            host.wish("b", Knob::file("io.weight"), "5"),
            host.wish("a", Knob::Cpu, "5"),
        ];
        let done = host.keeper.keep_to(&wishes).unwrap();
        assert!(
            done[0]
                .as_ref()
                .unwrap_err()
                .to_string()
                .contains("was set to 4096")
        );
        assert!(matches!(done[1], Err(Error::Unavailable(_))));
        assert!(done[2].is_ok());
        assert_eq!(host.keeper.changed(), 1);
        assert!(host.audit()[0]["error"].as_str().unwrap().contains("4096"));
    }

    #[test]
    fn without_a_journal_nothing_is_changed() {
        let mut host = Host::new(WEIGHTS);
        host.keeper.path = "/dev/null/journal".into();
        let wishes = [host.wish("b", Knob::Cpu, "800")];
        assert!(host.keeper.keep_to(&wishes).is_err());
        assert_eq!(host.read("b/cpu.weight"), "100");
        fs::write(host.root.path().join("journal"), "{").unwrap();
        let base = host.root.path().join("cgroup");
        let ring = Ring::new(host.root.path().join("audit"), 100);
        let damaged = Keeper::open(&base, host.root.path().join("journal"), ring).unwrap_err();
        assert!(damaged.to_string().contains("damaged"), "{damaged}");
    }
}
