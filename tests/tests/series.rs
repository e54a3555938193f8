//! The series applies to stock source with `git am` and is clean for checkpatch and for
//! sparse.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testbed::cache::Cache;
use testbed::kernel::{Source, compare, series};
use testbed::proc::Cancel;
use testbed::sparse;

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

fn patches() -> Vec<PathBuf> {
    let patches = series(&xtask::parts::repo()).unwrap();
    assert!(!patches.is_empty(), "the series is empty");
    patches
}

#[test]
fn the_series_applies_to_stock_source_with_git_am_and_the_comparison_on_top() {
    let tree = StockTree::new();
    let comparison = compare(&xtask::parts::repo()).unwrap();
    assert!(!comparison.is_empty(), "the comparison is empty");
    for patch in patches().into_iter().chain(comparison) {
        let am = tree.git(&["am", "--quiet", &patch.to_string_lossy()]);
        assert_success(&am, &patch.display().to_string());
    }
}

#[test]
fn every_patch_is_clean_for_checkpatch_strict() {
    let tree = StockTree::new();
    for patch in patches() {
        let check = Command::new("perl")
            .current_dir(tree.path())
            .args(["scripts/checkpatch.pl", "--strict", "--no-summary"])
            .arg(&patch)
            .output()
            .unwrap();
        assert_success(&check, &patch.display().to_string());
        tree.git(&["am", "--quiet", &patch.to_string_lossy()]);
    }
}

#[test]
fn sparse_says_nothing_about_the_series() {
    let cache = Cache::open().unwrap();
    let repo = xtask::parts::repo();
    let said = sparse::complaints(&repo, &cache, &Cancel::default()).unwrap();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

#[test]
fn the_series_file_names_every_patch_that_is_there() {
    let listed = patches();
    let dir = listed[0].parent().unwrap_or(Path::new("."));
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .collect();
    found.sort();
    assert_eq!(listed, found);
}
