//! What is in the initial ram disks: the emulated host's and the guests'.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::debian::{BUSYBOX, DebianGuest};
use crate::initrd::{Files, build};
use crate::kernel::Kernel;
use crate::programs::Programs;
use crate::scx_host::DebianHost;
use crate::{Error, Result, packages};

/// A workload's guest image: its name, a program of ours, programs from Debian
/// and their data.
struct Guest {
    workload: &'static str,
    own: Option<&'static str>,
    programs: &'static [&'static str],
    data: &'static [&'static str],
    /// Debian packages, and how the paths of the files begin that are wanted of them.
    trees: &'static [(&'static str, &'static str)],
}

/// The guests' images. `guests/README.md` says what each workload is.
const GUESTS: &[Guest] = &[
    Guest::of_init("callfunc"),
    Guest::of_init("compute"),
    Guest {
        programs: &["/usr/bin/dbench"],
        data: &["/usr/share/dbench/client.txt"],
        ..Guest::of_init("dbench")
    },
    Guest {
        own: Some("dedup"),
        ..Guest::of_init("dedup")
    },
    Guest {
        programs: &["/usr/bin/hackbench"],
        ..Guest::of_init("hackbench")
    },
    Guest {
        programs: &["/usr/bin/make", "/usr/bin/tcc"],
        data: &[
            "/usr/lib/x86_64-linux-gnu/crt1.o",
            "/usr/lib/x86_64-linux-gnu/crti.o",
            "/usr/lib/x86_64-linux-gnu/crtn.o",
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "/usr/lib/x86_64-linux-gnu/libc.so",
            "/usr/lib/x86_64-linux-gnu/libc_nonshared.a",
        ],
        trees: &[
            ("tcc", "/usr/lib/x86_64-linux-gnu/tcc/"),
            ("libc6-dev", "/usr/include/"),
        ],
        ..Guest::of_init("make")
    },
    Guest {
        programs: &["/usr/bin/stress-ng"],
        ..Guest::of_init("malloc")
    },
    Guest {
        programs: &["/usr/bin/memcached", "/usr/bin/memcslap"],
        ..Guest::of_init("memcached")
    },
    Guest {
        programs: &[
            // initdb and pg_ctl start the server by it.
            "/bin/sh",
            "/usr/lib/postgresql/15/bin/initdb",
            "/usr/lib/postgresql/15/bin/pg_ctl",
            "/usr/lib/postgresql/15/bin/pgbench",
            "/usr/lib/postgresql/15/bin/postgres",
            "/usr/lib/postgresql/15/bin/psql",
            "/usr/lib/postgresql/15/lib/dict_snowball.so",
            "/usr/lib/postgresql/15/lib/plpgsql.so",
        ],
        // What a database is made from.
        data: &[
            "/usr/share/postgresql/15/information_schema.sql",
            "/usr/share/postgresql/15/pg_hba.conf.sample",
            "/usr/share/postgresql/15/pg_ident.conf.sample",
            "/usr/share/postgresql/15/postgres.bki",
            "/usr/share/postgresql/15/postgresql.conf.sample",
            "/usr/share/postgresql/15/snowball_create.sql",
            "/usr/share/postgresql/15/sql_features.txt",
            "/usr/share/postgresql/15/system_constraints.sql",
            "/usr/share/postgresql/15/system_functions.sql",
            "/usr/share/postgresql/15/system_views.sql",
            "/usr/share/postgresql/15/timezonesets/Default",
        ],
        trees: &[
            (
                "postgresql-15",
                "/usr/share/postgresql/15/extension/plpgsql",
            ),
            ("postgresql-15", "/usr/share/postgresql/15/tsearch_data/"),
        ],
        ..Guest::of_init("pgbench")
    },
    Guest::of_init("shootdown"),
    Guest {
        programs: &["/usr/bin/stress-ng"],
        ..Guest::of_init("tlb-shootdown")
    },
    Guest {
        programs: &["/usr/bin/vips"],
        ..Guest::of_init("vips")
    },
];

impl Guest {
    /// An image with nothing but the first process, which has the workload in itself.
    const fn of_init(workload: &'static str) -> Self {
        Self {
            workload,
            own: None,
            programs: &[],
            data: &[],
            trees: &[],
        }
    }
}

/// Debian's QEMU that has no other machine than microvm.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64-microvm";
/// What it loads: qboot, which starts a bzImage.
const QEMU_FIRMWARE: &str = "/usr/share/qemu/bios-microvm.bin";

/// From the package iproute2: makes taps and gives them addresses.
const IP: &str = "/usr/sbin/ip";

/// From the package util-linux: makes a task an offline one.
const CHRT: &str = "/usr/bin/chrt";

/// Workloads of the guest that is a kernel of its own; it needs no image.
const PAYLOADS: &[&str] = &[
    "truth-2-cluster",
    "truth-2-x2apic",
    "truth-2-xapic",
    "truth-3-cluster",
    "truth-3-x2apic",
    "truth-3-xapic",
    "truth-all",
    "truth-but2-cluster",
    "truth-but2-x2apic",
    "truth-but2-xapic",
    "truth-call",
    "truth-half-cluster",
    "truth-half-x2apic",
    "truth-half-xapic",
    "truth-lock",
    "truth-wake",
];

/// Builds a workload's guest image.
fn guest(workload: &str, programs: &Programs, cache: &Cache) -> Result<PathBuf> {
    if PAYLOADS.contains(&workload) {
        return build(workload, &Files::default(), cache);
    }
    let Some(guest) = GUESTS.iter().find(|g| g.workload == workload) else {
        let guests = GUESTS.iter().map(|g| g.workload);
        let names: Vec<_> = guests.chain(PAYLOADS.iter().copied()).collect();
        return Err(Error::Setup(format!(
            "no workload is called {workload}; there are: {}",
            names.join(", ")
        )));
    };
    let mut files = Files::default();
    files.add("/init", &programs.path("guest-init"))?;
    if let Some(own) = guest.own {
        files.add(&format!("/usr/bin/{own}"), &programs.path(own))?;
    }
    for program in guest.programs {
        files.add_program(program)?;
    }
    for data in guest.data {
        files.add(data, Path::new(data))?;
    }
    for (package, folder) in guest.trees {
        for path in packages::files(package)? {
            if path.starts_with(folder) && Path::new(&path).is_file() {
                files.add(&path, Path::new(&path))?;
            }
        }
    }
    build(workload, &files, cache)
}

/// Copies everything that guests of all workloads need into a folder, as the emulated
/// host's image has it, for a host of one's own.
pub fn folder(to: &Path, programs: &Programs, guest_kernel: &Kernel, cache: &Cache) -> Result<()> {
    let guests = to.join("guest");
    fs::create_dir_all(&guests).map_err(Error::io("create", &guests))?;
    let mut files = vec![
        (programs.bench(), to.join("dense-bench")),
        (programs.path("vmm"), to.join("vmm")),
        (guest_kernel.bzimage(), guests.join("bzImage")),
    ];
    for Guest { workload, .. } in GUESTS {
        let image = guest(workload, programs, cache)?;
        files.push((image, guests.join(format!("{workload}.cpio"))));
    }
    for (from, to) in files {
        fs::copy(&from, &to).map_err(Error::io("copy to", &to))?;
    }
    Ok(())
}

/// Builds the emulated host's image with everything that guests of one workload need, and
/// folders of modules, each called as the kernel's release is that they are for.
pub fn host(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    modules: &[PathBuf],
    cache: &Cache,
) -> Result<PathBuf> {
    let mut files = host_files(workload, programs, guest_kernel, cache)?;
    for folder in modules {
        let release = folder.file_name().unwrap_or_default().to_string_lossy();
        files.add_folder(&format!("/lib/modules/{release}"), folder)?;
    }
    build("host", &files, cache)
}

fn host_files(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    cache: &Cache,
) -> Result<Files> {
    let mut files = Files::default();
    files.add("/init", &programs.path("dense-init"))?;
    files.add("/vmfirst/vmm", &programs.path("vmm"))?;
    let kernel = match PAYLOADS.contains(&workload) {
        true => programs.payload.clone(),
        false => guest_kernel.bzimage(),
    };
    files.add("/vmfirst/guest/bzImage", &kernel)?;
    files.add("/vmfirst/guest/vmlinux", &guest_kernel.vmlinux())?;
    files.add_program("/sbin/mke2fs")?;
    let image = guest(workload, programs, cache)?;
    files.add(&format!("/vmfirst/guest/{workload}.cpio"), &image)?;
    Ok(files)
}

/// The same with Debian's own kernel for guests beside ours, a shell, and what sets up
/// networks and loads them.
pub fn host_with_debian(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    debian: &DebianGuest,
    cache: &Cache,
) -> Result<PathBuf> {
    let mut files = host_files(workload, programs, guest_kernel, cache)?;
    files.add("/vmfirst/debian/vmlinuz", &debian.kernel)?;
    files.add("/vmfirst/debian/initrd", &debian.initrd)?;
    files.add("/vmfirst/guest-load", &programs.path("guest-load"))?;
    files.add(BUSYBOX, Path::new(BUSYBOX))?;
    files.add_program(IP)?;
    build("host-with-debian", &files, cache)
}

/// The same with Debian's QEMU beside our VMM, its microvm build.
pub fn host_with_qemu(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    cache: &Cache,
) -> Result<PathBuf> {
    let mut files = host_files(workload, programs, guest_kernel, cache)?;
    files.add_program(QEMU)?;
    files.add(QEMU_FIRMWARE, Path::new(QEMU_FIRMWARE))?;
    build("host-with-qemu", &files, cache)
}

/// The same with `dense-bench` beside our VMM, to run plans there.
pub fn host_with_bench(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    cache: &Cache,
) -> Result<PathBuf> {
    let mut files = host_files(workload, programs, guest_kernel, cache)?;
    files.add("/vmfirst/dense-bench", &programs.bench())?;
    build("host-with-bench", &files, cache)
}

/// Our sched_ext scheduler.
#[derive(Debug)]
pub struct Scheduler {
    /// The program.
    pub program: PathBuf,
    /// A file with its options, if it is to run from the start on.
    pub options: Option<PathBuf>,
}

/// The same for a kernel of Debian's that has KVM as modules, with our scheduler beside our VMM.
pub fn host_with_scheduler(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    (debian, scheduler): (&DebianHost, &Scheduler),
    cache: &Cache,
) -> Result<PathBuf> {
    let mut files = host_files(workload, programs, guest_kernel, cache)?;
    if let Some(options) = &scheduler.options {
        files.add("/scheduler", options)?;
    }
    files.add("/init", &debian.init)?;
    files.add("/init.vmfirst", &programs.path("dense-init"))?;
    files.add("/vmfirst/scx_vmfirst", &scheduler.program)?;
    files.add("/vmfirst/ipi-probe", &programs.path("ipi-probe"))?;
    files.add(BUSYBOX, Path::new(BUSYBOX))?;
    files.add_program(CHRT)?;
    files.add_folder("/modules", &debian.modules())?;
    build("host-with-scheduler", &files, cache)
}

/// Builds the emulated host's image for the tests of IPIs: no guest but the probe's.
pub fn probe_host(programs: &Programs, cache: &Cache) -> Result<PathBuf> {
    let mut files = Files::default();
    files.add("/init", &programs.path("dense-init"))?;
    files.add("/vmfirst/ipi-probe", &programs.path("ipi-probe"))?;
    build("probe-host", &files, cache)
}

/// Builds the emulated host's image for the kernel's own selftest.
pub fn selftest_host(programs: &Programs, selftest: &Path, cache: &Cache) -> Result<PathBuf> {
    let mut files = Files::default();
    files.add("/init", &programs.path("dense-init"))?;
    files.add("/vmfirst/spin_yield_test", selftest)?;
    build("selftest-host", &files, cache)
}
