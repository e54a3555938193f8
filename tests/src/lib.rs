//! End-to-end tests: one file a feature in `tests/`. Here is what they share.

pub mod browser;

use std::path::PathBuf;
use std::process::Command;

use dense_record::chosen::{Chosen, HostKernel};
use dense_record::job::{Done, Job, Launch, Launched};
use serde_json::Value;
use testbed::cells;
use testbed::kernel::{Kernel, Variant};
use testbed::machine::{Machine, Output, complaint};
use testbed::proc::Cancel;
use testbed::workshop::{Host, Parts, Workshop, repo};

/// CPUs of the emulated host in tests of single launches.
const PCPUS: u32 = 4;
/// Its memory in MiB: enough for the smoke plan under a debug kernel.
const MEM_MIB: u32 = 2048;
/// Virtual time in s after which a test gives its host up.
const LIMIT_S: u64 = 120;

/// What builds everything, and its cache.
pub fn workshop() -> Workshop {
    Workshop::open(Cancel::default()).unwrap()
}

/// The workload whose image tests boot.
const WORKLOAD: &str = "compute";

/// Everything that a boot needs; from the cache, or built.
pub fn parts() -> Parts {
    parts_for(WORKLOAD)
}

/// The same for cells of another workload.
pub fn parts_for(workload: &str) -> Parts {
    workshop().all_parts([workload], HostKernel::OURS).unwrap()
}

/// The same for cells of these workloads and kernels.
pub fn parts_of<'a>(
    workloads: impl IntoIterator<Item = &'a str>,
    kernels: impl IntoIterator<Item = HostKernel>,
) -> Parts {
    workshop().all_parts(workloads, kernels).unwrap()
}

/// A host kernel beside those in [`parts`].
pub fn kernel(variant: Variant) -> Kernel {
    workshop().kernel(variant).unwrap()
}

/// Builds the operator's program, or an example of its crate; the folder that it is in. It is
/// without the release's slow link, which changes nothing that it does.
pub fn build_operators(options: &[&str]) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(repo())
        .args(["build", "--release", "--package", "vmfirst-host"])
        .args(options);
    for fast in ["lto=\"off\"", "codegen-units=16", "opt-level=2"] {
        cargo.args(["--config", &format!("profile.release.{fast}")]);
    }
    assert!(cargo.status().unwrap().success());
    repo().join("target/release")
}

/// The packages of the series on Debian's configuration, that of the kernel first.
pub fn kernel_packages() -> Vec<PathBuf> {
    workshop().kernel_packages().unwrap().files().unwrap()
}

/// A host whose guests have Debian's own kernel.
pub fn host_of_debian() -> Host {
    workshop().host_of_debian(WORKLOAD).unwrap()
}

/// A host that runs plans by itself, as somebody's own.
pub fn host_with_bench(kernel: HostKernel) -> Host {
    workshop().host_with_bench(kernel, WORKLOAD).unwrap()
}

/// A host with Debian's newest packaged kernel, which has sched_ext, and our scheduler for it.
pub fn host_with_scheduler() -> Host {
    let host = workshop().host_with_scheduler(WORKLOAD, None);
    host.unwrap()
}

/// The same for cells of a workload: the scheduler runs with these options, or fair.
pub fn parts_with_scheduler(workload: &str, options: Option<&str>) -> Parts {
    let host = workshop().host_with_scheduler(workload, options).unwrap();
    Parts {
        emulator: host.emulator,
        kernels: [(HostKernel::Stock, host.kernel)].into(),
        host_images: [(workload.to_string(), host.initrd)].into(),
    }
}

/// A script of busybox's shell on the host.
pub fn script(text: &str) -> Launch {
    Launch {
        command: ["/bin/busybox", "sh", "-c", text].map(String::from).into(),
        input: String::new(),
    }
}

/// A host with the series and the kernel's own selftest.
pub fn host_of_selftest() -> Host {
    workshop().selftest_host().unwrap()
}

/// A command on the host, whose words have no blanks in them.
pub fn launch(line: &str) -> Launch {
    Launch {
        command: line.split(' ').map(String::from).collect(),
        input: String::new(),
    }
}

/// Makes the tap vmtap`number` in a [`host_of_debian`]; there the host is 10.0.`number`.1.
pub fn tap(number: u32) -> impl Iterator<Item = Launch> {
    let device = format!("dev vmtap{number}");
    let lines = [
        format!("tuntap add {device} mode tap"),
        format!("addr add 10.0.{number}.1/24 {device}"),
        format!("link set {device} up"),
    ];
    lines
        .into_iter()
        .map(|line| launch(&format!("/usr/sbin/ip {line}")))
}

/// Boots a host with `kernel` for `job`, from the only image in `parts`.
pub fn run(parts: &Parts, kernel: &Kernel, job: &Job, seed: u64) -> (Output, Done) {
    let host = Host {
        emulator: parts.emulator.clone(),
        kernel: kernel.clone(),
        initrd: parts.host_images.values().next().unwrap().clone(),
    };
    run_host(&host, job, seed)
}

/// Boots a host for `job`.
pub fn run_host(host: &Host, job: &Job, seed: u64) -> (Output, Done) {
    let machine = Machine {
        emulator: host.emulator.clone(),
        kernel: host.kernel.bzimage(),
        initrd: host.initrd.clone(),
        pcpus: PCPUS,
        mem_mib: MEM_MIB,
        round_ns: 3000,
        seed,
        limit_s: LIMIT_S,
    };
    let work = tempfile::tempdir().unwrap();
    cells::run_job(&machine, job, work.path(), &Cancel::default()).unwrap()
}

/// Runs the probe of bare vCPUs, once for each line of arguments, on a host of
/// `pcpus` CPUs: what it said each time, and the host's console, without a report.
pub fn probe(variant: Variant, pcpus: u32, commands: &[&str]) -> (Vec<Value>, String) {
    probe_seeded(variant, pcpus, commands, 1)
}

/// As [`probe`], in the host of another seed.
pub fn probe_seeded(
    variant: Variant,
    pcpus: u32,
    commands: &[&str],
    seed: u64,
) -> (Vec<Value>, String) {
    let launch = |args: &&str| Launch {
        command: std::iter::once("/vmfirst/ipi-probe")
            .chain(args.split(' '))
            .map(String::from)
            .collect(),
        input: String::new(),
    };
    let job = Job::Launches(commands.iter().map(launch).collect());
    let (output, done) = run_probe(&kernel(variant), pcpus, &job, seed);
    let console = String::from_utf8_lossy(&output.console).into_owned();
    let Done::Launches(launched) = done else {
        panic!("{done:?}: {console}");
    };
    let parse = |(l, command): (Launched, &&str)| {
        assert_eq!(l.code, Some(0), "{command}: {console}");
        serde_json::from_str(&l.console[0]).unwrap()
    };
    let values = launched.into_iter().zip(commands).map(parse).collect();
    assert_eq!(complaint(&console), None, "{console}");
    (values, console)
}

fn run_probe(kernel: &Kernel, pcpus: u32, job: &Job, seed: u64) -> (Output, Done) {
    let (emulator, initrd) = workshop().probe().unwrap();
    let machine = Machine {
        emulator,
        kernel: kernel.bzimage(),
        initrd,
        pcpus,
        mem_mib: MEM_MIB,
        round_ns: 3000,
        seed,
        limit_s: LIMIT_S,
    };
    let work = tempfile::tempdir().unwrap();
    cells::run_job(&machine, job, work.path(), &Cancel::default()).unwrap()
}

/// Boots a host for a cell of a plan, as `cargo xtask bench` does.
pub fn run_cell(parts: &Parts, planned: &Chosen) -> (Output, Done) {
    let work = tempfile::tempdir().unwrap();
    cells::run_cell(parts, planned, work.path(), &Cancel::default()).unwrap()
}
