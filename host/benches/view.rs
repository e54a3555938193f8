//! What `vmfirst view` costs, beside Debian's lxcfs where that is installed: 1000 processes in 200
//! groups, five in each, open, read to its end and close the same file of their machine.
//!
//! `cargo bench -p vmfirst-host --bench view [FILE...]`, as root with /dev/fuse; half an hour. All is in a
//! mount namespace of its own, with cgroup v2 in the place of the host's. Each run has all
//! programs one after the other, for each file: as fast as readers can, and each reader once a
//! second. Then 10^7 reads, and the program's resident memory before and after. What is printed:
//! reads per s, p50 and p99 of a read in us, CPU time in us per read of the program and of the
//! readers, and how often a look at all readers found one in state D.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::param::clock_ticks_per_second;

const GROUPS: usize = 200;
const READERS: usize = 1000;
const RUNS: usize = 3;
const FILES: [&str; 5] = [
    "proc/meminfo",
    "proc/stat",
    "proc/uptime",
    "proc/loadavg",
    "proc/cpuinfo",
];
/// After so long all readers are where they belong; then they read for so long.
const START: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(3);
/// Reads of the long run.
const LONG: u64 = 10_000_000;
const CGROUP: &str = "/sys/fs/cgroup";

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("reader") => reader(&words[1..]),
        // Cargo says that it is a benchmark.
        _ => measure(words.into_iter().filter(|word| word != "--bench").collect()),
    }
}

/// What readers do: each `pause`, until `window` is over or `most` reads are done.
#[derive(Clone, Copy)]
struct Task {
    pause: Duration,
    window: Duration,
    most: u64,
}

/// A reader: it moves itself into its group, waits until all are to start, and prints how long
/// each read took, in ns; the largest number for one that failed.
fn reader(words: &[String]) {
    let number = |at: usize| -> u64 { words[at].parse().unwrap() };
    let (file, group) = (Path::new(&words[0]), Path::new(&words[1]));
    fs::write(group.join("cgroup.procs"), "0").unwrap();
    let pause = Duration::from_nanos(number(2));
    let mut buffer = vec![0; 64 << 10];
    let mut took = Vec::new();
    // It ends when all are to start.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    let start = Instant::now();
    // Not all at the same moment.
    sleep(pause * (std::process::id() % 1000) / 1000);
    while start.elapsed() < Duration::from_nanos(number(3)) && took.len() < number(4) as usize {
        let begin = Instant::now();
        let read = whole(file, &mut buffer);
        let elapsed = begin.elapsed();
        let elapsed = elapsed.as_nanos() as u64;
        took.push(if read.is_ok_and(|read| read > 0) {
            elapsed
        } else {
            u64::MAX
        });
        sleep(pause.saturating_sub(begin.elapsed()));
    }
    let took: Vec<u8> = took.into_iter().flat_map(u64::to_ne_bytes).collect();
    // Nobody listens when the benchmark was ended.
    let _ = std::io::stdout().write_all(&took);
}

fn whole(file: &Path, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut file = File::open(file)?;
    let mut all = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(all),
            read => all += read,
        }
    }
}

/// A program that serves a mount.
struct Server {
    name: &'static str,
    child: Option<Child>,
    folder: PathBuf,
}

impl Server {
    fn start(name: &'static str, command: &mut Command, folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let command = command
            .arg(&folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        while !folder.join("proc/uptime").exists() {
            sleep(Duration::from_millis(10));
        }
        Self {
            name,
            child: Some(child),
            folder,
        }
    }

    /// CPU time so far.
    fn cpu(&self) -> Duration {
        let Some(child) = &self.child else {
            return Duration::ZERO;
        };
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let words: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .map(|at| words[at].parse::<u64>().unwrap())
            .iter()
            .sum();
        Duration::from_secs(ticks) / clock_ticks_per_second() as u32
    }

    /// Resident memory, in KiB.
    fn resident(&self) -> u64 {
        let child = self.child.as_ref().unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = rustix::mount::unmount(&self.folder, UnmountFlags::DETACH);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What one cell showed.
struct Cell {
    reads: usize,
    failed: usize,
    seconds: f64,
    p50: f64,
    p99: f64,
    server_us: f64,
    readers_us: f64,
    looks: u32,
    blocked: u32,
}

impl Cell {
    fn per_s(&self) -> f64 {
        self.reads as f64 / self.seconds
    }
}

/// Has all readers read a file of a mount.
fn cell(server: &Server, file: &str, groups: &[PathBuf], task: Task) -> Cell {
    let top = groups[0].parent().unwrap();
    let (wait, start) = std::io::pipe().unwrap();
    let mut readers: Vec<Child> = (0..READERS)
        .map(|at| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("reader").arg(server.folder.join(file));
            command.arg(&groups[at % groups.len()]);
            let numbers = [task.pause, task.window].map(|time| time.as_nanos() as u64);
            command.args(numbers.iter().chain([&task.most]).map(u64::to_string));
            command.stdin(wait.try_clone().unwrap());
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    sleep(START);
    drop(start);
    let (begin, before) = (Instant::now(), (server.cpu(), used(top)));
    let (mut looks, mut blocked) = (0, 0);
    let mut took: Vec<u64> = Vec::new();
    if task.window < Duration::from_secs(60) {
        while begin.elapsed() + Duration::from_millis(250) < task.window {
            sleep(Duration::from_millis(200));
            looks += 1;
            blocked += readers
                .iter()
                .filter(|reader| is_blocked(reader.id()))
                .count() as u32;
        }
    }
    let mut failed = 0;
    for reader in &mut readers {
        let mut bytes = Vec::new();
        reader
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        assert!(reader.wait().unwrap().success());
        let times = bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u64::from_ne_bytes(*bytes));
        took.extend(times.filter(|time| *time != u64::MAX));
        failed += bytes.len() / 8;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / took.len() as f64;
    let (server_us, readers_us) = (each(server.cpu() - before.0), each(used(top) - before.1));
    took.sort_unstable();
    let at = |part: f64| took[(took.len() as f64 * part) as usize] as f64 / 1e3;
    Cell {
        reads: took.len(),
        failed: failed - took.len(),
        seconds,
        p50: at(0.5),
        p99: at(0.99),
        server_us,
        readers_us,
        looks,
        blocked,
    }
}

/// CPU time of a group and those in it.
fn used(group: &Path) -> Duration {
    let stat = fs::read_to_string(group.join("cpu.stat")).unwrap();
    let line = stat
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    Duration::from_micros(line.unwrap().parse().unwrap())
}

fn is_blocked(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().unwrap().starts_with('D')
}

/// A mount namespace of this process's own with cgroup v2 in the host's place, and the groups.
fn groups() -> Vec<PathBuf> {
    // SAFETY: this process has one thread.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(done, 0, "it takes root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    rustix::mount::unmount(CGROUP, UnmountFlags::DETACH).unwrap();
    rustix::mount::mount("none", CGROUP, "cgroup2", MountFlags::empty(), None).unwrap();
    let top = Path::new(CGROUP).join(format!("vmfirst-bench-{}", std::process::id()));
    let groups = (0..GROUPS).map(|at| top.join(at.to_string()));
    groups
        .inspect(|group| fs::create_dir_all(group).unwrap())
        .collect()
}

fn servers(folder: &Path) -> Vec<Server> {
    let mut ours = Command::new(env!("CARGO_BIN_EXE_vmfirst"));
    let mut servers = vec![Server::start(
        "vmfirst view",
        ours.arg("view"),
        folder.join("view"),
    )];
    if Path::new("/usr/bin/lxcfs").exists() {
        let mut lxcfs = Command::new("/usr/bin/lxcfs");
        lxcfs.args(["-f", "-l", "-p"]).arg(folder.join("pid"));
        servers.push(Server::start("lxcfs", &mut lxcfs, folder.join("lxcfs")));
    }
    servers.push(Server {
        name: "the host's own",
        child: None,
        folder: "/".into(),
    });
    servers
}

/// All of it, or only some files, without the long run.
fn measure(only: Vec<String>) {
    let files: Vec<_> = FILES
        .into_iter()
        .filter(|file| only.is_empty() || only.iter().any(|only| only == file))
        .collect();
    let groups = groups();
    let folder = tempfile::tempdir().unwrap();
    let servers = servers(folder.path());
    let fast = Task {
        pause: Duration::ZERO,
        window: WINDOW,
        most: u64::MAX,
    };
    let paced = Task {
        pause: Duration::from_secs(1),
        ..fast
    };
    for (title, task) in [("as fast as they can", fast), ("each once a second", paced)] {
        println!(
            "{READERS} readers in {GROUPS} groups, {title}; the median of {RUNS} runs (least to most)"
        );
        println!(
            "file | program | reads/s | p50 us | p99 us | program's us per read | readers' us | failed | D"
        );
        for file in &files {
            let mut cells: Vec<Vec<Cell>> = servers.iter().map(|_| Vec::new()).collect();
            for _ in 0..RUNS {
                for (server, cells) in servers.iter().zip(&mut cells) {
                    cells.push(cell(server, file, &groups, task));
                }
            }
            for (server, cells) in servers.iter().zip(&cells) {
                println!("{file} | {} | {}", server.name, row(cells));
            }
        }
    }
    if only.is_empty() {
        long(&servers[0], &groups);
    }
    drop(servers);
    for group in groups
        .iter()
        .map(PathBuf::as_path)
        .chain(groups[0].parent())
    {
        fs::remove_dir(group).unwrap();
    }
}

fn row(cells: &[Cell]) -> String {
    let figure = |of: fn(&Cell) -> f64| {
        let mut all: Vec<_> = cells.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let (least, most) = (all[0], all[all.len() - 1]);
        let digits = if most < 100.0 { 1 } else { 0 };
        format!(
            "{:.digits$} ({least:.digits$} to {most:.digits$})",
            all[all.len() / 2]
        )
    };
    let sum = |of: fn(&Cell) -> u32| cells.iter().map(of).sum::<u32>();
    [
        figure(Cell::per_s),
        figure(|cell| cell.p50),
        figure(|cell| cell.p99),
        figure(|cell| cell.server_us),
        figure(|cell| cell.readers_us),
        cells
            .iter()
            .map(|cell| cell.failed)
            .sum::<usize>()
            .to_string(),
        format!(
            "{} in {} looks",
            sum(|cell| cell.blocked),
            sum(|cell| cell.looks)
        ),
    ]
    .join(" | ")
}

/// Ten million reads, of one file after the other.
fn long(server: &Server, groups: &[PathBuf]) {
    let task = Task {
        pause: Duration::ZERO,
        window: Duration::from_secs(3600),
        most: LONG / (READERS * FILES.len()) as u64,
    };
    println!(
        "resident memory of {}: {} KiB",
        server.name,
        server.resident()
    );
    let mut reads = 0;
    for file in FILES {
        reads += cell(server, file, groups, task).reads;
        println!(
            "after {reads} reads, the last of {file}: {} KiB",
            server.resident()
        );
    }
}
