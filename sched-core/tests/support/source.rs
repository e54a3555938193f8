//! The C side, as text: headers out of the series, functions out of the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the topics.
pub fn topics_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-patches/linux-6.12")
}

/// Topics whose C the differential tests compile, in the order in which they are applied.
const TOPICS: [&str; 3] = ["statistics", "directed-yield", "debooster"];

/// All patches of these topics, in order.
pub fn patches() -> Vec<PathBuf> {
    let dirs = TOPICS.map(|topic| topics_dir().join(topic));
    let in_order = |dir: PathBuf| {
        let series = fs::read_to_string(dir.join("series")).unwrap();
        let names = series.lines().filter(|l| l.ends_with(".patch"));
        names.map(|name| dir.join(name)).collect::<Vec<_>>()
    };
    dirs.into_iter().flat_map(in_order).collect()
}

/// The text of `path` after all patches of the series. The series makes the file, so no
/// kernel tree is needed.
pub fn header(path: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for patch in patches() {
        apply(dir.path(), &patch, path);
    }
    fs::read_to_string(dir.path().join(path))
        .unwrap_or_else(|_| panic!("no patch of the series makes {path}"))
}

/// The lines that the series adds to `path`, for functions that are new there.
pub fn added(path: &str) -> String {
    let begin = format!("diff --git a/{path} ");
    let mut lines = String::new();
    for patch in patches() {
        let text = fs::read_to_string(&patch).unwrap();
        let Some(at) = text.find(&begin) else {
            continue;
        };
        let of_path = text[at..].lines().skip(1);
        let of_path = of_path.take_while(|line| !line.starts_with("diff --git "));
        for line in of_path.filter_map(|line| line.strip_prefix('+')) {
            lines += line;
            lines += "\n";
        }
    }
    lines
}

/// A file of the stock kernel, `text`, after all patches of the series.
pub fn patched(path: &str, text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    for patch in patches() {
        apply(dir.path(), &patch, path);
    }
    fs::read_to_string(file).unwrap()
}

fn apply(dir: &Path, patch: &Path, path: &str) {
    let text = fs::read_to_string(patch).unwrap();
    if !text.contains(&format!("diff --git a/{path} ")) {
        return;
    }
    let status = Command::new("git")
        .current_dir(dir)
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap())
        .args(["apply", "--include", path])
        .arg(patch)
        .status()
        .unwrap();
    assert!(status.success(), "git apply {}", patch.display());
}

/// Debian's package of the kernel's source has it here.
const PACKAGE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Files of the stock kernel: from the tree that `cargo xtask kernel` leaves in the
/// cache, or from the package that it is made of.
pub fn stock(paths: &[&str]) -> Result<Vec<String>, String> {
    let all = |from: &dyn Fn(&str) -> Option<String>| paths.iter().map(|p| from(p)).collect();
    if let Some(tree) = tree()
        && let Some(files) = all(&|path| in_tree(&tree, path))
    {
        return Ok(files);
    }
    let dir = tempfile::tempdir().unwrap();
    let members = paths.iter().map(|path| format!("linux-source-6.12/{path}"));
    let unpacked = Command::new("tar")
        .current_dir(dir.path())
        .args(["--strip-components=1", "--occurrence=1", "-xf", PACKAGE])
        .args(members)
        .output();
    let unpacked = unpacked.is_ok_and(|out| out.status.success());
    let files = all(&|path| fs::read_to_string(dir.path().join(path)).ok());
    files.filter(|_| unpacked).ok_or_else(|| {
        format!("no kernel source: neither {PACKAGE} nor a tree in the cache (cargo xtask kernel)")
    })
}

fn tree() -> Option<PathBuf> {
    let cache = std::env::var_os("VMFIRST_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("XDG_CACHE_HOME").map(|d| Path::new(&d).join("vmfirst")))
        .or_else(|| std::env::var_os("HOME").map(|d| Path::new(&d).join(".cache/vmfirst")))?;
    let work = fs::read_dir(cache.join("work")).ok()?;
    let mut trees = work.flatten().map(|e| e.path().join("tree"));
    trees.find(|tree| tree.join("kernel/sched/fair.c").exists())
}

fn in_tree(tree: &Path, path: &str) -> Option<String> {
    let out = Command::new("git")
        .current_dir(tree)
        .args(["show", &format!("stock:{path}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status.success().then_some(text)
}

/// The definition of the function `name` in `source`.
pub fn function(source: &str, name: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let call = format!("{name}(");
    let start = (0..lines.len())
        .find(|&i| is_definition(&lines, i, &call))
        .unwrap_or_else(|| panic!("{name}() is not defined"));
    let first = match lines[start].starts_with(&call) {
        true => start - 1,
        false => start,
    };
    let len = lines[start..].iter().position(|l| *l == "}").unwrap();
    lines[first..=start + len].join("\n") + "\n"
}

fn is_definition(lines: &[&str], at: usize, call: &str) -> bool {
    let line = lines[at];
    let named = line.starts_with(call)
        || line
            .find(call)
            .is_some_and(|i| line[..i].ends_with([' ', '*']));
    let top_level = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let body = lines[at..]
        .iter()
        .find(|l| l.starts_with('{') || l.contains(';'));
    named && top_level && body.is_some_and(|l| l.starts_with('{'))
}

/// The definition of the array `name` in `source`.
pub fn array(source: &str, name: &str) -> String {
    let start = source.find(&format!("const int {name}["));
    let start = start
        .or_else(|| source.find(&format!("const u32 {name}[")))
        .unwrap();
    let len = source[start..].find("};").unwrap() + 2;
    source[start..start + len].to_string() + "\n"
}
