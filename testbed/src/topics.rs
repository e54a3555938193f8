//! The kernel series: topics, each a folder of patches on top of another topic.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder of the topics.
const DIR: &str = "kernel-patches/linux-6.12";

/// All topics, in the order of the file `topics`.
#[derive(Debug)]
pub struct Topics {
    dir: PathBuf,
    topics: Vec<Topic>,
}

#[derive(Debug)]
struct Topic {
    name: String,
    /// The topic that it is applied on top of.
    below: Option<String>,
}

impl Topics {
    /// Reads the file `topics` of a repository.
    pub fn read(repo: &Path) -> Result<Self> {
        let dir = repo.join(DIR);
        let mut topics: Vec<Topic> = Vec::new();
        for line in lines(&dir.join("topics"))? {
            let mut words = line.split_whitespace().map(String::from);
            let name = words.next().unwrap_or_default();
            let below = words.next();
            if let Some(below) = &below
                && !topics.iter().any(|topic| topic.name == *below)
            {
                return Err(Error::Setup(format!(
                    "{DIR}/topics: {name} is on top of {below}, which no line above it names"
                )));
            }
            topics.push(Topic { name, below });
        }
        Ok(Self { dir, topics })
    }

    /// The names of all topics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(|topic| topic.name.as_str())
    }

    /// The patches of a topic, without those below it.
    pub fn own(&self, name: &str) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join(name);
        let patches = lines(&dir.join("series"))?;
        Ok(patches.iter().map(|patch| dir.join(patch)).collect())
    }

    /// The patches that a topic is applied on top of.
    pub fn below(&self, name: &str) -> Result<Vec<PathBuf>> {
        let Some(topic) = self.topics.iter().find(|topic| topic.name == name) else {
            return Err(Error::Setup(format!("{DIR}/topics does not name {name}")));
        };
        match &topic.below {
            Some(below) => self.stack(below),
            None => Ok(Vec::new()),
        }
    }

    /// All patches of a kernel with a topic.
    pub fn stack(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut patches = self.below(name)?;
        patches.extend(self.own(name)?);
        Ok(patches)
    }

    /// For each patch of each topic the patches up to it, itself the last.
    pub fn steps(&self) -> Result<Vec<Vec<PathBuf>>> {
        let mut steps = Vec::new();
        for name in self.names() {
            let mut patches = self.below(name)?;
            for patch in self.own(name)? {
                patches.push(patch);
                steps.push(patches.clone());
            }
        }
        Ok(steps)
    }
}

/// The lines of a file that are neither empty nor a comment.
fn lines(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
    let lines = text.lines().map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(String::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with topics of one patch each.
    fn repo(topics: &str) -> tempfile::TempDir {
        let repo = tempfile::tempdir().unwrap();
        let dir = repo.path().join(DIR);
        for name in ["a", "b", "c"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(
                dir.join(name).join("series"),
                format!("# of {name}\n{name}.patch\n"),
            )
            .unwrap();
        }
        fs::write(dir.join("topics"), topics).unwrap();
        repo
    }

    fn names(patches: &[PathBuf]) -> Vec<&str> {
        let name = |patch: &PathBuf| patch.file_stem().unwrap().to_owned();
        let known = ["a", "b", "c"];
        let find = |patch| known.into_iter().find(|k| name(patch) == **k).unwrap();
        patches.iter().map(find).collect()
    }

    #[test]
    fn a_topic_is_applied_on_top_of_the_one_below_it() {
        let repo = repo("a\nb a\n\nc a\n");
        let topics = Topics::read(repo.path()).unwrap();
        assert_eq!(names(&topics.stack("a").unwrap()), ["a"]);
        assert_eq!(names(&topics.stack("c").unwrap()), ["a", "c"]);
        assert_eq!(names(&topics.own("c").unwrap()), ["c"]);
        let steps = topics.steps().unwrap();
        let steps: Vec<_> = steps.iter().map(|step| names(step)).collect();
        assert_eq!(steps, [vec!["a"], vec!["a", "b"], vec!["a", "c"]]);
    }

    #[test]
    fn a_topic_that_nobody_named_is_an_error() {
        let repo = repo("a\nb c\nc a\n");
        let error = Topics::read(repo.path()).unwrap_err().to_string();
        assert!(error.contains("b is on top of c"), "{error}");
        let repo = super::tests::repo("a\n");
        let topics = Topics::read(repo.path()).unwrap();
        assert!(topics.stack("b").unwrap_err().to_string().contains("b"));
    }
}
