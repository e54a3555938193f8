//! Recorded trees: a host's files as lines of one text, so that a reader of a test sees
//! what the host had. "PATH = TEXT" is a file, with Rust's escapes \0 \n \t \\ \xNN;
//! "PATH -> TARGET" is a link; "#" begins a remark. `cargo run -p vmfirst-host --example
//! record PID...` writes one.

#![allow(dead_code, reason = "each test uses a part")]

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use vmfirst_host::read::Root;

/// Makes the files of a tree in `at`.
pub fn unpack(text: &str, at: &Path) {
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let (path, link, value) = match (line.split_once(" = "), line.split_once(" -> ")) {
            (Some((path, text)), Some((other, target))) => match path.len() < other.len() {
                true => (path, false, text),
                false => (other, true, target),
            },
            (Some((path, text)), None) => (path, false, text),
            (None, Some((path, target))) => (path, true, target),
            (None, None) => (line.trim_end_matches(" ="), false, ""),
        };
        let path = at.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let value = unescaped(value);
        match link {
            true => symlink(std::ffi::OsString::from_vec(value), &path).unwrap(),
            false => fs::write(&path, value).unwrap(),
        }
    }
}

/// A recorded tree of tests/trees/ in a folder of its own.
pub fn recorded(name: &str) -> (tempfile::TempDir, Root) {
    let path = format!("{}/tests/trees/{name}.tree", env!("CARGO_MANIFEST_DIR"));
    of(&fs::read_to_string(path).unwrap())
}

/// A tree with these lines.
pub fn of(text: &str) -> (tempfile::TempDir, Root) {
    // In memory where that can be: files of the kernel are not on a disk either.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.unwrap();
    unpack(text, folder.path());
    let root = Root::at(folder.path());
    (folder, root)
}

/// The lines of a file or link.
pub fn line(path: &str, bytes: &[u8], link: bool) -> String {
    let sign = if link { "->" } else { "=" };
    let mut text = format!("{} {sign} ", path.trim_start_matches('/'));
    for &byte in bytes {
        match byte {
            0 => text.push_str("\\0"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(byte.into()),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().expect("something behind a backslash") {
            b'0' => 0,
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let code = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&code).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    bytes
}

/// A VMM's process that is written, not recorded: after what the program's documentation
/// and source say of its arguments, threads and files.
pub struct Process<'a> {
    pub pid: i32,
    /// Its program's path; none for a thread of the kernel.
    pub exe: Option<&'a str>,
    pub arguments: &'a [&'a str],
    /// Its path in cgroup v2.
    pub group: &'a str,
    /// How many vCPUs it has open; none: it has no VM open.
    pub vcpus: Option<i32>,
    /// Names of its threads, the first one's first; their ids follow on the process's.
    pub threads: &'a [&'a str],
}

impl Process<'_> {
    /// Writes its files.
    pub fn write(&self, at: &Path) {
        let pid = self.pid;
        let folder = at.join(format!("proc/{pid}"));
        fs::create_dir_all(folder.join("fd")).unwrap();
        let mut arguments = self.arguments.join("\0");
        if !arguments.is_empty() {
            arguments.push('\0');
        }
        fs::write(folder.join("cmdline"), arguments).unwrap();
        if let Some(exe) = self.exe {
            symlink(exe, folder.join("exe")).unwrap();
        }
        if let Some(vcpus) = self.vcpus {
            symlink("anon_inode:kvm-vm", folder.join("fd/11")).unwrap();
            for vcpu in 0..vcpus {
                let target = format!("anon_inode:kvm-vcpu:{vcpu}");
                symlink(target, folder.join(format!("fd/{}", 12 + vcpu))).unwrap();
            }
        }
        for (tid, name) in (pid..).zip(self.threads) {
            let task = folder.join(format!("task/{tid}"));
            fs::create_dir_all(&task).unwrap();
            let zeros = vec!["0"; 30].join(" ");
            // Fields 3 to 21, the start time, and the rest.
            let stat = format!(
                "{tid} ({name}) S 1 {pid} {pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 {} 0 {} {zeros}\n",
                self.threads.len(),
                tid * 10
            );
            fs::write(task.join("stat"), stat).unwrap();
            fs::write(task.join("comm"), format!("{name}\n")).unwrap();
            fs::write(task.join("schedstat"), "7000000 3000000 20\n").unwrap();
            fs::write(task.join("cgroup"), format!("0::{}\n", self.group)).unwrap();
        }
    }
}

/// A host of cgroup v2 without processes.
pub fn host() -> (tempfile::TempDir, Root) {
    of("proc/2/task/2/comm = kthreadd\\n\n\
        proc/2/cmdline =\n\
        proc/stat = cpu  100 0 100 700 100 0 0 0 0 0\\n\n\
        proc/cpuinfo = processor\\t: 0\\nphysical id\\t: 0\\ncore id\\t: 0\\n\\nprocessor\\t: 1\\nphysical id\\t: 0\\ncore id\\t: 0\\n\n\
        proc/self/mountinfo = 30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\\n\n\
        sys/fs/cgroup/cgroup.controllers = cpuset cpu io memory pids\\n\n")
}

/// The counters that a stock kernel's folder of a VM has.
pub const STOCK_COUNTERS: [&str; 4] = [
    "exits",
    "halt_exits",
    "directed_yield_attempted",
    "directed_yield_successful",
];

/// Adds a QEMU with two vCPUs, KVM's counters of a stock kernel and a group with a limit.
pub fn add_qemu(at: &Path, pid: i32, name: &str) {
    let group = format!("/m/{name}");
    Process {
        pid,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &["qemu-system-x86_64", "-name", &format!("guest={name}")],
        group: &group,
        vcpus: Some(2),
        threads: &["qemu-system-x86", "CPU 0/KVM", "CPU 1/KVM", "IO iothread1"],
    }
    .write(at);
    count(at, pid, 123_456);
    let group = at.join(format!("sys/fs/cgroup{group}"));
    fs::create_dir_all(&group).unwrap();
    let stat = "usage_usec 1\nnr_periods 1\nnr_throttled 0\nthrottled_usec 0\n";
    fs::write(group.join("cpu.stat"), stat).unwrap();
}

/// Has all of its counters say `value`.
pub fn count(at: &Path, pid: i32, value: u64) {
    let kvm = at.join(format!("sys/kernel/debug/kvm/{pid}-11"));
    fs::create_dir_all(&kvm).unwrap();
    for counter in STOCK_COUNTERS {
        fs::write(kvm.join(counter), format!("{value}\n")).unwrap();
    }
}
