//! Each topic of the series applies to stock source with `git am` and is clean for
//! checkpatch and for sparse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testbed::cache::Cache;
use testbed::kernel::Source;
use testbed::proc::Cancel;
use testbed::sparse;
use testbed::topics::Topics;

/// A work tree of stock source that goes away with the test.
struct StockTree {
    source: Source,
    dir: tempfile::TempDir,
}

impl StockTree {
    fn new() -> Self {
        let source = Source::open(&Cache::open().unwrap(), &Cancel::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tree");
        let add = ["worktree", "add", "--quiet", "--detach"];
        let made = source.git(&add).arg(&path).arg("stock").output().unwrap();
        assert_success(&made, "git worktree add");
        Self { source, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn git(&self, args: &[&str]) -> Output {
        let mut git = self.source.git(&[]);
        git.arg("-C").arg(self.path()).args(args).output().unwrap()
    }
}

impl Drop for StockTree {
    fn drop(&mut self) {
        let remove = ["worktree", "remove", "--force"];
        let _ = self.source.git(&remove).arg(self.path()).output();
    }
}

fn assert_success(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn topics() -> Topics {
    Topics::read(&testbed::workshop::repo()).unwrap()
}

/// Applies `patches` to `tree`.
fn am(tree: &StockTree, patches: &[PathBuf]) {
    for patch in patches {
        let am = tree.git(&["am", "--quiet", &patch.to_string_lossy()]);
        assert_success(&am, &patch.display().to_string());
    }
}

/// Designs of others are written to be compared with, not to be merged.
const NOT_FOR_MERGING: &str = "compare";

#[test]
fn every_topic_applies_with_git_am_and_is_clean_for_checkpatch_strict() {
    let topics = topics();
    for topic in topics.names() {
        let tree = StockTree::new();
        am(&tree, &topics.below(topic).unwrap());
        let own = topics.own(topic).unwrap();
        assert!(!own.is_empty(), "{topic} is empty");
        for patch in own {
            if topic != NOT_FOR_MERGING {
                let check = Command::new("perl")
                    .current_dir(tree.path())
                    .args(["scripts/checkpatch.pl", "--strict", "--no-summary"])
                    .arg(&patch)
                    .output()
                    .unwrap();
                assert_success(&check, &patch.display().to_string());
            }
            am(&tree, &[patch]);
        }
    }
}

#[test]
fn sparse_says_nothing_about_the_series() {
    let cache = Cache::open().unwrap();
    let repo = testbed::workshop::repo();
    let said = sparse::complaints(&repo, &cache, &Cancel::default()).unwrap();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

/// All patches in a folder and in those below it.
fn patches_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(patches_in(&path)),
            false if path.extension().is_some_and(|e| e == "patch") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

#[test]
fn the_series_files_name_every_patch_that_is_there() {
    let topics = topics();
    let mut listed: Vec<PathBuf> = topics
        .names()
        .flat_map(|topic| topics.own(topic).unwrap())
        .collect();
    listed.sort();
    let dir = testbed::workshop::repo().join("kernel-patches/linux-6.12");
    assert_eq!(listed, patches_in(&dir));
}
