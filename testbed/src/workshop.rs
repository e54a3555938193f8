//! Everything that the emulated host is made of, built or taken from the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dense_record::chosen::{Chosen, HostKernel, word};
use dense_record::measured::Facts;

use crate::cache::Cache;
use crate::debian::DebianGuest;
use crate::emulator::Emulator;
use crate::initrd;
use crate::kernel::{self, Kernel, Variant};
use crate::kernel_deb::KernelPackages;
use crate::libvirt_host::LibvirtHost;
use crate::machine::{self, Machine};
use crate::packaged;
use crate::proc::{self, Cancel};
use crate::programs::Programs;
use crate::progress::Progress;
use crate::scx_host::DebianHost;
use crate::{Result, image, packages, payload, selftest};

/// The repository that this was built in.
pub fn repo() -> PathBuf {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
    testbed.parent().unwrap_or(testbed).to_path_buf()
}

/// Everything that a boot of the emulated host needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The emulator.
    pub emulator: Emulator,
    /// The host's kernels that were asked for.
    pub kernels: BTreeMap<HostKernel, Kernel>,
    /// The host's initial ram disks by the workload of the guests in them.
    pub host_images: BTreeMap<String, PathBuf>,
}

/// What a host needs and a packaged kernel has as modules: KVM, taps, and the job that the
/// emulator hands over.
const HOST_MODULES: &[&str] = &["kvm_amd", "tun", "qemu_fw_cfg"];

/// Virtual time in s after which a host is given up: boot, and all that a cell may take.
const HOST_LIMIT_S: u64 = 180;

impl Parts {
    /// The host for a cell.
    pub fn machine(&self, cell: &Chosen) -> Machine {
        Machine {
            emulator: self.emulator.clone(),
            kernel: self.kernels[&cell.host_kernel].bzimage(),
            initrd: self.host_images[&cell.workload].clone(),
            pcpus: cell.pcpus,
            mem_mib: cell.host_mem_mib(),
            round_ns: cell.round_ns,
            seed: cell.seed,
            limit_s: HOST_LIMIT_S,
        }
    }

    /// What is known of that host from outside.
    pub fn facts(&self, cell: &Chosen) -> Result<Facts> {
        let pairs = [
            ("hz", self.kernels[&cell.host_kernel].hz()?),
            (
                "instructions_per_ns",
                machine::instructions_per_ns().to_string(),
            ),
        ];
        Ok(pairs.map(|(name, value)| (name.to_string(), value)).into())
    }

    /// What shapes a figure, for the results: packages, compilers, and the artefacts by the
    /// hash of all their inputs.
    pub fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions: BTreeMap<_, _> = packages::versions().into_iter().collect();
        versions.insert("gcc".into(), kernel::compiler_version()?);
        versions.insert("rustc".into(), kernel::rust_version()?);
        versions.insert("machine".into(), machine::version());
        let mut artefacts = vec![("emulator".to_string(), self.emulator.dir.as_path())];
        for (kernel, built) in &self.kernels {
            artefacts.push((format!("kernel_{}", word(kernel)), &built.dir));
        }
        for (workload, image) in &self.host_images {
            let dir = image.parent().unwrap_or(image);
            artefacts.push((format!("host_image_{workload}"), dir));
        }
        for (name, dir) in artefacts {
            let key = dir.file_name().unwrap_or_default().to_string_lossy();
            versions.insert(name, key.into_owned());
        }
        Ok(versions)
    }
}

/// What is checked out, with `-dirty` if it was changed since; none outside of git.
pub fn commit() -> Option<String> {
    let mut git = proc::command("git");
    git.current_dir(repo());
    git.args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]);
    let said = git.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_string())
}

/// What a boot of a host with a special image needs.
#[derive(Debug, Clone)]
pub struct Host {
    /// The emulator.
    pub emulator: Emulator,
    /// The host's kernel.
    pub kernel: Kernel,
    /// The host's initial ram disk.
    pub initrd: PathBuf,
}

/// What builds share.
#[derive(Debug, Clone)]
pub struct Workshop {
    /// The repository's root.
    pub repo: PathBuf,
    /// Where slow builds are kept.
    pub cache: Cache,
    /// Set when the user wants to stop.
    pub cancel: Cancel,
    /// What the user sees.
    pub progress: Progress,
}

impl Workshop {
    /// Opens the cache, watches for Ctrl-C and installs missing Debian packages.
    pub fn open(cancel: Cancel) -> Result<Self> {
        let progress = Progress::default();
        let cache = Cache::open()?;
        let line = progress.spinner("Debian packages");
        let warnings = packages::install(&cache, &cancel)?;
        line.finish_and_clear();
        for warning in warnings {
            progress.say(&format!("warning: {warning}"));
        }
        Ok(Self {
            repo: repo(),
            cache,
            cancel,
            progress,
        })
    }

    /// All that benchmarks of these workloads on these kernels need.
    pub fn all_parts<'a>(
        &self,
        workloads: impl IntoIterator<Item = &'a str>,
        kernels: impl IntoIterator<Item = HostKernel>,
    ) -> Result<Parts> {
        let emulator = self.emulator()?;
        let kernels: BTreeMap<HostKernel, Kernel> = kernels
            .into_iter()
            .map(|kernel| Ok((kernel, self.host_kernel(kernel)?)))
            .collect::<Result<_>>()?;
        let modules: Vec<PathBuf> = kernels
            .iter()
            .filter(|(which, _)| which.has_modules())
            .map(|(_, kernel)| packaged::modules(kernel))
            .collect::<Result<_>>()?;
        Ok(Parts {
            emulator,
            kernels,
            host_images: self.host_images(workloads, &modules)?,
        })
    }

    /// A kernel of the host.
    pub fn host_kernel(&self, kernel: HostKernel) -> Result<Kernel> {
        let variant = match kernel {
            HostKernel::Stock => Variant::Stock,
            HostKernel::Patched => Variant::Patched,
            HostKernel::Compare => Variant::Compare,
            HostKernel::Debian => {
                return packaged::of_debian(HOST_MODULES, &self.cache, &self.cancel);
            }
            HostKernel::DebianPatched => {
                let packages = self.kernel_packages()?.files()?;
                return packaged::of_file(&packages[0], HOST_MODULES, &self.cache);
            }
        };
        self.kernel(variant)
    }

    /// The packages of the series on Debian's configuration.
    pub fn kernel_packages(&self) -> Result<KernelPackages> {
        self.stepwise("kernel packages", |on_step| {
            KernelPackages::build(&self.repo, &self.cache, &self.cancel, on_step)
        })
    }

    /// The emulator.
    fn emulator(&self) -> Result<Emulator> {
        self.stepwise("emulator", |on_step| {
            Emulator::build(&self.repo, &self.cache, &self.cancel, on_step)
        })
    }

    /// A kernel.
    pub fn kernel(&self, variant: Variant) -> Result<Kernel> {
        self.stepwise(&format!("{} kernel", variant.name()), |on_step| {
            Kernel::build(variant, &self.repo, &self.cache, &self.cancel, on_step)
        })
    }

    /// The host's initial ram disks, each with the guests of one workload in it, and folders
    /// of modules.
    fn host_images<'a>(
        &self,
        workloads: impl IntoIterator<Item = &'a str>,
        modules: &[PathBuf],
    ) -> Result<BTreeMap<String, PathBuf>> {
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let guest = self.kernel(Variant::Guest)?;
        let workloads: BTreeSet<&str> = workloads.into_iter().collect();
        let images = workloads
            .into_iter()
            .map(|name| {
                let image = image::host(name, &programs, &guest, modules, &self.cache)?;
                Ok((name.to_string(), image))
            })
            .collect();
        line.finish_and_clear();
        images
    }

    /// What the tests of IPIs boot: the emulator, and a host's initial ram disk.
    pub fn probe(&self) -> Result<(Emulator, PathBuf)> {
        let emulator = self.emulator()?;
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let image = image::probe_host(&programs, &self.cache);
        line.finish_and_clear();
        Ok((emulator, image?))
    }

    /// A host with the series that has the kernel's own selftest.
    pub fn selftest_host(&self) -> Result<Host> {
        let selftest = selftest::build(&self.repo, &self.cache, &self.cancel)?;
        let emulator = self.emulator()?;
        let kernel = self.kernel(Variant::Patched)?;
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let initrd = image::selftest_host(&programs, &selftest, &self.cache);
        line.finish_and_clear();
        Ok(Host {
            emulator,
            kernel,
            initrd: initrd?,
        })
    }

    /// A host to compare VMMs on: ours, and Debian's QEMU.
    pub fn host_of_vmms(&self, workload: &str) -> Result<Host> {
        packages::install_peers(&self.cache, &self.cancel)?;
        self.stock_host(|programs, guest| {
            image::host_with_qemu(workload, programs, guest, &self.cache)
        })
    }

    /// Our VMM, and a guest that says READY and halts, for this machine's own KVM.
    pub fn vmm_and_idle_guest(&self) -> Result<(PathBuf, PathBuf)> {
        let line = self.progress.spinner("programs");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let guest = payload::idle(&self.repo, &self.cache)?;
        line.finish_and_clear();
        Ok((programs.path("vmm"), guest))
    }

    /// A host with Debian's own kernel for its guests.
    pub fn host_of_debian(&self, workload: &str) -> Result<Host> {
        packages::install_for_tests(&self.cache, &self.cancel)?;
        self.stock_host(|programs, guest| {
            let load = programs.path("guest-load");
            let debian = DebianGuest::build(&self.repo, &load, &self.cache, &self.cancel)?;
            image::host_with_debian(workload, programs, guest, &debian, &self.cache)
        })
    }

    /// A host that runs plans itself, with the guests of one workload.
    pub fn host_with_bench(&self, kernel: HostKernel, workload: &str) -> Result<Host> {
        let kernel = self.host_kernel(kernel)?;
        self.host(kernel, |programs, guest| {
            image::host_with_bench(workload, programs, guest, &self.cache)
        })
    }

    /// A host with Debian's newest packaged kernel, which has sched_ext, and our scheduler; it
    /// runs from the start on where its options are given.
    pub fn host_with_scheduler(&self, workload: &str, options: Option<&str>) -> Result<Host> {
        packages::install_for_tests(&self.cache, &self.cancel)?;
        let line = self.progress.spinner("Debian's kernel and the scheduler");
        let debian = DebianHost::build(&self.repo, &self.cache, &self.cancel)?;
        let scheduler = image::Scheduler {
            program: Programs::scheduler(&self.repo, &self.cache, &self.cancel)?,
            options: options
                .map(|options| debian.options(options, &self.cache))
                .transpose()?,
        };
        line.finish_and_clear();
        self.host(debian.kernel(), |programs, guest| {
            let host = (&debian, &scheduler);
            image::host_with_scheduler(workload, programs, guest, host, &self.cache)
        })
    }

    /// A host with Debian's own kernel as it comes, and nothing but these files; one of them is
    /// /init.
    pub fn host_of_files(&self, name: &str, files: &initrd::Files) -> Result<Host> {
        Ok(Host {
            emulator: self.emulator()?,
            kernel: self.host_kernel(HostKernel::Debian)?,
            initrd: initrd::build(name, files, &self.cache)?,
        })
    }

    /// A host of Debian's own, with systemd and libvirt.
    pub fn host_with_libvirt(&self) -> Result<LibvirtHost> {
        packages::install_for_tests(&self.cache, &self.cancel)?;
        let emulator = self.emulator()?;
        let line = self.progress.spinner("Debian with libvirt");
        let host = LibvirtHost::build(emulator, &self.cache, &self.cancel);
        line.finish_and_clear();
        host
    }

    /// Our VMM, a guest with Debian's own kernel, and the image of a disk whose guest spins.
    pub fn vmm_and_guests(&self) -> Result<(PathBuf, DebianGuest, PathBuf)> {
        let line = self.progress.spinner("programs");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let load = programs.path("guest-load");
        let debian = DebianGuest::build(&self.repo, &load, &self.cache, &self.cancel)?;
        let spin = payload::spin(&self.repo, &self.cache)?;
        line.finish_and_clear();
        Ok((programs.path("vmm"), debian, spin))
    }

    fn stock_host(
        &self,
        image: impl FnOnce(&Programs, &Kernel) -> Result<PathBuf>,
    ) -> Result<Host> {
        self.host(self.kernel(Variant::Stock)?, image)
    }

    fn host(
        &self,
        kernel: Kernel,
        image: impl FnOnce(&Programs, &Kernel) -> Result<PathBuf>,
    ) -> Result<Host> {
        let emulator = self.emulator()?;
        let guest = self.kernel(Variant::Guest)?;
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let initrd = image(&programs, &guest)?;
        line.finish_and_clear();
        Ok(Host {
            emulator,
            kernel,
            initrd,
        })
    }

    /// Puts into `folder` what `dense-bench run` needs on another host.
    pub fn images(&self, folder: &Path) -> Result<()> {
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let guest = self.kernel(Variant::Guest)?;
        image::folder(folder, &programs, &guest, &self.cache)?;
        line.finish_and_clear();
        Ok(())
    }

    fn stepwise<T>(
        &self,
        what: &str,
        build: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T>,
    ) -> Result<T> {
        let line = self.progress.bar(what, 0);
        let built = build(&mut |step, total| {
            line.set_length(total);
            line.set_position(step);
        });
        line.finish_and_clear();
        built
    }
}
