//! Programs that compute the same in C, or in a changed `sched_core`.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cases::Case;

const BLOCK: usize = 512;

/// A compiled program that knows some cases.
pub struct Worker {
    _dir: tempfile::TempDir,
    program: PathBuf,
    nargs: usize,
}

/// The first input on which two sides differ.
#[derive(Debug)]
#[expect(dead_code, reason = "read by Debug only, when a test fails")]
pub struct Difference {
    /// Inputs.
    pub args: Vec<u64>,
    /// What Rust says.
    pub rust: u64,
    /// What the worker says.
    pub worker: u64,
}

impl Worker {
    /// Compiles `definitions`, C that the cases' expressions need.
    pub fn in_c(definitions: &str, cases: &[&Case], nargs: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let c = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
        let list: Vec<_> = cases
            .iter()
            .map(|case| format!("X({}, {})", case.name, case.c))
            .collect();
        let source = format!(
            "#include <stddef.h>\n#include \"kernel.h\"\n{definitions}\n#define NARGS {nargs}\n\
             #define CASES {}\n#include \"worker.h\"\n",
            list.join(" ")
        );
        fs::write(dir.path().join("worker.c"), source).unwrap();
        // As the kernel: signed overflow wraps.
        let mut cc = Command::new("cc");
        cc.current_dir(dir.path())
            .args(["-O2", "-fwrapv", "-w", "-I"])
            .arg(c)
            .args(["-o", "worker", "worker.c"]);
        finish(&mut cc);
        Self::at(dir, nargs)
    }

    /// Compiles a copy of this crate in which `from` reads `to`, once, in `file`.
    pub fn mutant(file: &str, from: &str, to: &str, nargs: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        copy_dir(&root.join("src"), &dir.path().join("src"));
        let file = dir.path().join("src").join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {file:?}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();

        let mut lib = rustc(dir.path());
        lib.args(["--crate-type", "rlib", "--crate-name", "sched_core"]);
        finish(lib.arg("src/lib.rs"));
        let mut worker = rustc(dir.path());
        worker.args(["--extern", "sched_core=libsched_core.rlib", "--crate-name"]);
        finish(
            worker
                .arg("worker")
                .arg(root.join("tests/support/mutant.rs")),
        );
        Self::at(dir, nargs)
    }

    fn at(dir: tempfile::TempDir, nargs: usize) -> Self {
        Self {
            program: dir.path().join("worker"),
            _dir: dir,
            nargs,
        }
    }

    /// Feeds `count` inputs to both sides and compares.
    pub fn compare(
        &self,
        case: &Case,
        inputs: &mut super::Inputs,
        count: usize,
    ) -> Option<Difference> {
        let mut child = self.start(case);
        let mut block = vec![0; BLOCK * self.nargs];
        let mut left = count;
        let mut difference = None;
        while left > 0 && difference.is_none() {
            let n = left.min(BLOCK);
            let rows = &mut block[..n * self.nargs];
            rows.chunks_mut(self.nargs)
                .for_each(|row| inputs.fill(case.args, row));
            difference = self.compare_block(case, &mut child, rows);
            left -= n;
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "{} ended badly", case.name);
        difference
    }

    fn compare_block(&self, case: &Case, child: &mut Child, rows: &[u64]) -> Option<Difference> {
        let bytes: Vec<u8> = rows.iter().flat_map(|v| v.to_ne_bytes()).collect();
        let mut answers = vec![0; rows.len() / self.nargs * 8];
        child.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
        // A short last block ends the input, or the worker would wait for the rest.
        if answers.len() < BLOCK * 8 {
            drop(child.stdin.take());
        }
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut answers).unwrap();
        let answers = answers
            .chunks(8)
            .map(|b| u64::from_ne_bytes(b.try_into().unwrap()));
        rows.chunks(self.nargs)
            .zip(answers)
            .find_map(|(row, worker)| {
                let rust = (case.rust)(row);
                (rust != worker).then(|| Difference {
                    args: row[..case.args.len()].to_vec(),
                    rust,
                    worker,
                })
            })
    }

    fn start(&self, case: &Case) -> Child {
        Command::new(&self.program)
            .arg(case.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn rustc(dir: &Path) -> Command {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc
        .current_dir(dir)
        .args(["--edition", "2024", "-Copt-level=1", "--cap-lints=allow"]);
    rustc
}

fn finish(command: &mut Command) {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}:\n{stderr}");
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
