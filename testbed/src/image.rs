//! Initial ram disks: the emulated host's and the guests'.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType};

use crate::cache::{Cache, Key};
use crate::debian::{BUSYBOX, DebianGuest};
use crate::kernel::Kernel;
use crate::proc;
use crate::programs::Programs;
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

/// What goes into an initial ram disk: path in the image, file outside, mode.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, (PathBuf, u32)>,
}

impl Files {
    /// Puts a file at a path of the image, with the permissions that it has.
    pub fn add(&mut self, to: &str, from: &Path) -> Result<()> {
        let from = from.canonicalize().map_err(Error::io("find", from))?;
        let meta = fs::metadata(&from).map_err(Error::io("look at", &from))?;
        let mode = meta.permissions().mode() & 0o777;
        self.files.insert(to.into(), (from, mode));
        Ok(())
    }

    /// Puts a program at its own path, and the shared libraries that it needs.
    pub fn add_program(&mut self, program: &str) -> Result<()> {
        self.add(program, Path::new(program))?;
        let mut ldd = proc::command("ldd");
        ldd.arg(program);
        for library in libraries(&proc::output(ldd)?) {
            self.add(library, Path::new(library))?;
        }
        Ok(())
    }

    fn key(&self) -> Result<Key> {
        let mut key = Key::new().text("recipe", "1");
        for (to, (from, mode)) in &self.files {
            key = key.text("path", &format!("{to} {mode:o}")).file(from)?;
        }
        Ok(key)
    }

    /// Writes an uncompressed cpio archive, as the kernel unpacks it fastest.
    fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        let mut out = BufWriter::new(file);
        self.write_entries(&mut out)
            .and_then(|()| cpio::newc::trailer(&mut out)?.flush())
            .map_err(Error::io("write", path))
    }

    fn write_entries(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut inode = 0;
        let mut next = |name: &str, kind: ModeFileType, mode: u32| {
            inode += 1;
            Builder::new(name.trim_start_matches('/'))
                .ino(inode)
                .mode(mode)
                .set_mode_file_type(kind)
        };
        for dir in self.folders() {
            next(&dir, ModeFileType::Directory, 0o755)
                .write(&mut *out, 0)
                .finish()?;
        }
        // The kernel opens the console for init before anything is mounted.
        next("dev/console", ModeFileType::Char, 0o600)
            .rdev_major(5)
            .rdev_minor(1)
            .write(&mut *out, 0)
            .finish()?;
        for (to, (from, mode)) in &self.files {
            let mut content = File::open(from)?;
            let length = u32::try_from(content.metadata()?.len())
                .map_err(|_| std::io::Error::other("a file of 4 GiB or more"))?;
            let mut entry = next(to, ModeFileType::Regular, *mode).write(&mut *out, length);
            std::io::copy(&mut content, &mut entry)?;
            entry.finish()?;
        }
        Ok(())
    }

    /// Every folder that the files need, parents first.
    fn folders(&self) -> Vec<String> {
        let mut folders: Vec<String> = ["dev", "proc", "sys", "tmp", "run", "mnt"]
            .iter()
            .map(|d| format!("/{d}"))
            .chain(self.files.keys().flat_map(|to| {
                Path::new(to)
                    .ancestors()
                    .skip(1)
                    .map(|a| a.display().to_string())
                    .filter(|a| a != "/")
                    .collect::<Vec<_>>()
            }))
            .collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

/// The paths in `ldd`'s output.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.split_whitespace().filter(|word| word.starts_with('/'))
}

/// Builds an initial ram disk of `files`, or takes it from the cache.
pub fn build(name: &str, files: &Files, cache: &Cache) -> Result<PathBuf> {
    let dir = cache.artefact(&format!("image-{name}"), &files.key()?, |out| {
        files.write(&out.join("initrd"))
    })?;
    Ok(dir.join("initrd"))
}

/// Workloads of the guest that is a kernel of its own; it needs no image.
const PAYLOADS: &[&str] = &["truth-all", "truth-call", "truth-lock", "truth-wake"];

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
        (programs.path("dense-bench"), to.join("dense-bench")),
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

/// Builds the emulated host's image with everything that guests of one workload need.
pub fn host(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    cache: &Cache,
) -> Result<PathBuf> {
    build(
        "host",
        &host_files(workload, programs, guest_kernel, cache)?,
        cache,
    )
}

fn host_files(
    workload: &str,
    programs: &Programs,
    guest_kernel: &Kernel,
    cache: &Cache,
) -> Result<Files> {
    let mut files = Files::default();
    files.add("/init", &programs.path("dense-bench"))?;
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

/// Builds the emulated host's image for the tests of IPIs: no guest but the probe's.
pub fn probe_host(programs: &Programs, cache: &Cache) -> Result<PathBuf> {
    let mut files = Files::default();
    files.add("/init", &programs.path("dense-bench"))?;
    files.add("/vmfirst/ipi-probe", &programs.path("ipi-probe"))?;
    build("probe-host", &files, cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output_gives_libraries_and_the_loader() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                   \t/lib64/ld-linux.so.2 (0x7f)\n";
        let found: Vec<_> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld-linux.so.2"]);
    }

    #[test]
    fn an_archive_holds_folders_the_console_and_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        fs::write(&file, "hello").unwrap();
        let mut files = Files::default();
        files.add("/a/b/data", &file).unwrap();
        let archive = dir.path().join("out");
        files.write(&archive).unwrap();

        let mut input = File::open(&archive).unwrap();
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(&mut input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_string());
            reader.finish().unwrap();
        }
        let expected = [
            "a",
            "a/b",
            "dev",
            "mnt",
            "proc",
            "run",
            "sys",
            "tmp",
            "dev/console",
            "a/b/data",
        ];
        assert_eq!(names, expected);
    }
}
