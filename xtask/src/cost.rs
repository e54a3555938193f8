//! `cargo xtask cost`: what VMMs cost by themselves, in the emulated host or here.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use dense_agent::facts::{describe, facts};
use dense_agent::vmm_cost as measure;
use dense_record::cost::{Cost, CostSpec, Results};
use dense_record::job::{Done, Job};
use dense_report::vmm_cost;
use testbed::cells::run_job;
use testbed::machine::Machine;
use testbed::proc::Cancel;
use testbed::workshop::{Host, Workshop};
use testbed::{image, machine, packages};

use crate::Error;

/// The guest is an initial ram disk whose init says READY and waits.
const WORKLOAD: &str = "compute";
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";
const MEM_MIB: u64 = 128;
const PCPUS: u32 = 2;
const HOST_MEM_MIB: u32 = 1024;
const ROUND_NS: u64 = 1000;
const LIMIT_S: u64 = 180;

/// The options of `cargo xtask cost`.
#[derive(Debug, Clone, clap::Args)]
pub struct CostArgs {
    /// Boots of the host, each with other rounds
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: u64,
    /// Launches of each VMM in a boot
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub runs: u32,
    /// Measure vmm here, on this machine's own KVM, with a guest of a few instructions;
    /// as root, with tracefs mounted
    #[arg(long, conflicts_with = "seeds")]
    pub here: bool,
    /// Where the results go
    #[arg(long, default_value = "target/vmm-cost.json", value_name = "FILE")]
    pub out: PathBuf,
}

/// Measures, prints the table, writes the results.
pub fn run(args: &CostArgs, cancel: Cancel) -> Result<(), Error> {
    let workshop = Workshop::open(cancel)?;
    let results = match args.here {
        true => here(&workshop, args.runs)?,
        false => emulated(&workshop, args)?,
    };
    println!("{}", vmm_cost(&results));
    results
        .save(&args.out)
        .map_err(|e| Error::Usage(e.to_string()))
}

/// Of vmm on this machine.
fn here(workshop: &Workshop, runs: u32) -> Result<Results, Error> {
    let (vmm, guest) = workshop.vmm_and_idle_guest()?;
    let [vmm, guest] = [vmm, guest].map(|path| path.display().to_string());
    let command = ["run", "--kernel", &guest, "--mem", &format!("{MEM_MIB}M")].map(String::from);
    let spec = CostSpec {
        vmms: vec![("vmm".into(), [&[vmm][..], &command].concat())],
        ..spec(runs)
    };
    let costs = measure::run(&spec).map_err(|e| Error::Usage(e.to_string()))?;
    let kernel = rustix::system::uname();
    // As kvm_amd: what KVM runs guests by.
    let modules = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let names = modules.map(|module| module.file_name().to_string_lossy().into_owned());
    let kvm: Vec<_> = names.filter(|name| name.starts_with("kvm_")).collect();
    Ok(Results {
        plan: "vmm-cost-here".into(),
        host: format!(
            "{}, Linux {}, KVM by {}",
            describe(&facts()),
            kernel.release().to_string_lossy(),
            kvm.join(", ")
        ),
        versions: BTreeMap::new(),
        spec,
        costs,
    })
}

/// Of vmm and its peers in the emulated host.
fn emulated(workshop: &Workshop, args: &CostArgs) -> Result<Results, Error> {
    let Host {
        emulator,
        kernel,
        initrd,
    } = workshop.host_of_vmms(WORKLOAD)?;
    let mut versions: BTreeMap<_, _> = packages::versions().into_iter().collect();
    for package in packages::PEERS {
        let version = packages::version(package).unwrap_or_default();
        versions.insert(package.to_string(), version);
    }
    versions.insert("gcc".into(), testbed::kernel::compiler_version()?);
    versions.insert("rustc".into(), testbed::kernel::rust_version()?);
    versions.insert("machine".into(), machine::version());
    for dir in [
        Some(emulator.dir.as_path()),
        Some(&kernel.dir),
        initrd.parent(),
    ] {
        let key = dir.and_then(|d| d.file_name()).unwrap_or_default();
        if let Some((name, key)) = key.to_string_lossy().rsplit_once('-') {
            versions.insert(name.into(), key.into());
        }
    }
    let mut results = Results {
        plan: "vmm-cost".into(),
        host: format!(
            "emulated host of {PCPUS} CPUs, 1 instruction a virtual ns and CPU, rounds of {ROUND_NS} ns"
        ),
        versions,
        spec: spec(args.runs),
        costs: BTreeMap::new(),
    };
    let bar = workshop.progress.bar("boots", args.seeds);
    for seed in 1..=args.seeds {
        let machine = Machine {
            emulator: emulator.clone(),
            kernel: kernel.bzimage(),
            initrd: initrd.clone(),
            pcpus: PCPUS,
            mem_mib: HOST_MEM_MIB,
            round_ns: ROUND_NS,
            seed,
            limit_s: LIMIT_S,
        };
        for (name, costs) in boot(&machine, &results.spec, &workshop.cancel)? {
            results.costs.entry(name).or_default().extend(costs);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(results)
}

type Costs = BTreeMap<String, Vec<Cost>>;

fn boot(machine: &Machine, spec: &CostSpec, cancel: &Cancel) -> Result<Costs, Error> {
    let work = tempfile::tempdir().map_err(testbed::Error::io("create", "a temporary folder"))?;
    let job = Job::Cost(spec.clone());
    match run_job(machine, &job, work.path(), cancel)? {
        (_, Done::Cost(costs)) => Ok(costs),
        (_, Done::Failed(why)) => Err(Error::Usage(why)),
        (_, other) => Err(Error::Usage(format!(
            "the host did something else: {other:?}"
        ))),
    }
}

fn spec(runs: u32) -> CostSpec {
    let kernel = "/vmfirst/guest/bzImage";
    let initrd = format!("/vmfirst/guest/{WORKLOAD}.cpio");
    let mem = format!("{MEM_MIB}M");
    let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
    let ours = [
        "/vmfirst/vmm",
        "run",
        "--kernel",
        kernel,
        "--initrd",
        &initrd,
        "--cpus",
        "1",
        "--mem",
        &mem,
        "--cmdline",
        CMDLINE,
    ];
    // Of QEMU's docs/system/i386/microvm.rst; with ACPI this guest kernel gets no
    // interrupt of the serial port.
    let qemu = [
        image::QEMU,
        "-bios",
        "bios-microvm.bin",
        "-M",
        "microvm,acpi=off,x-option-roms=off,isa-serial=on,rtc=on",
        "-enable-kvm",
        "-cpu",
        "host",
        "-smp",
        "1",
        "-m",
        &mem,
        "-name",
        "guest,debug-threads=on",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-serial",
        "stdio",
        "-kernel",
        kernel,
        "-initrd",
        &initrd,
        "-append",
        CMDLINE,
    ];
    CostSpec {
        vmms: vec![
            ("vmm".into(), words(&ours)),
            ("QEMU microvm".into(), words(&qemu)),
        ],
        runs,
        mem_mib: MEM_MIB,
        settle_ms: 1000,
        idle_ms: 4000,
    }
}
