//! Instructions, by callgrind, which are the same on every run; and criterion's times
//! beside them, if `--bench hot` has left some:
//!
//! ```text
//! cargo bench -p sched-core --bench hot
//! cargo bench -p sched-core --bench instructions -- benches/results/sched-core.json
//! cargo run --release -p sched-sim -- docs
//! ```
//!
//! A call's instructions are the difference of a run of 2,000 calls and one of 1,000, less
//! those of a call that does nothing.

use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

mod work;

const CALLS: u64 = 1_000;
/// Each makes other inputs.
const SEEDS: [u64; 5] = [1, 22, 333, 4444, 55555];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--child", name, seed, calls] => child(name, seed.parse()?, calls.parse()?),
        [path, "--bench"] => measure(Path::new(path)),
        ["--bench"] => Err("where to? cargo bench ... -- benches/results/sched-core.json".into()),
        // `cargo test --benches`: each of them once.
        _ => work::ALL.iter().try_for_each(|w| child(w.name, 1, 1)),
    }
}

fn child(name: &str, seed: u64, calls: u64) -> Result<()> {
    let work = work::ALL.iter().find(|w| w.name == name);
    let mut call = (work.ok_or("no such work")?.set_up)(seed);
    (0..calls).for_each(|_| _ = black_box(call()));
    Ok(())
}

fn measure(path: &Path) -> Result<()> {
    let nothing = instructions("nothing", 1)?;
    let mut rows = Vec::new();
    for work in &work::ALL[1..] {
        let each = SEEDS.iter().map(|seed| instructions(work.name, *seed));
        let mut each = each.collect::<Result<Vec<f64>>>()?;
        each.iter_mut().for_each(|count| *count -= nothing);
        each.sort_by(f64::total_cmp);
        let ns = time(work.name);
        println!("{}: {each:?} instructions, {ns} ns", work.name);
        rows.push(json!({ "name": work.name, "instructions": each, "ns": ns }));
    }
    // Cargo runs benches in the package's folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = serde_json::to_string_pretty(&json!({ "cpu": cpu(), "work": rows }))?;
    Ok(std::fs::write(root.join(path), text + "\n")?)
}

/// Of one call.
fn instructions(name: &str, seed: u64) -> Result<f64> {
    let (few, many) = (run(name, seed, CALLS)?, run(name, seed, 2 * CALLS)?);
    Ok((many - few) as f64 / CALLS as f64)
}

fn run(name: &str, seed: u64, calls: u64) -> Result<u64> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["--child", name, &seed.to_string(), &calls.to_string()])
        .output()
        .map_err(|e| format!("valgrind (Debian's package): {e}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let count = said.split("Collected : ").nth(1);
    let count = count.and_then(|rest| rest.split_whitespace().next());
    Ok(count.ok_or_else(|| format!("callgrind: {said}"))?.parse()?)
}

/// Criterion's median with its 95 % interval, ns.
fn time(name: &str) -> Value {
    let read = || {
        let exe = std::env::current_exe().ok()?;
        let folder: PathBuf = exe.ancestors().nth(3)?.join("criterion");
        // As criterion names its folders.
        let name = name.replace(':', "_");
        let path = folder.join(name).join("new/estimates.json");
        let text = std::fs::read_to_string(path).ok()?;
        let median = serde_json::from_str::<Value>(&text).ok()?["median"].clone();
        let interval = &median["confidence_interval"];
        let [low, high] = ["lower_bound", "upper_bound"].map(|end| interval[end].clone());
        Some(json!([low, median["point_estimate"], high]))
    };
    read().unwrap_or(Value::Null)
}

fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(": ")?.1.into())
}
