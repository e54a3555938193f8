//! Everything that the emulated host is made of, built or taken from the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dense_bench::plan::HostKernel;
use testbed::cache::Cache;
use testbed::debian::DebianGuest;
use testbed::emulator::Emulator;
use testbed::kernel::{Kernel, Variant};
use testbed::proc::Cancel;
use testbed::programs::Programs;
use testbed::{image, packages, payload};

use crate::progress::Progress;

/// The repository that this xtask was built in.
pub fn repo() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
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

/// What a boot of the stock host with a special image needs.
#[derive(Debug, Clone)]
pub struct StockHost {
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
    pub fn open(cancel: Cancel) -> testbed::Result<Self> {
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
    ) -> testbed::Result<Parts> {
        let emulator = self.emulator()?;
        let kernels = kernels
            .into_iter()
            .map(|kernel| Ok((kernel, self.host_kernel(kernel)?)))
            .collect::<testbed::Result<_>>()?;
        Ok(Parts {
            emulator,
            kernels,
            host_images: self.host_images(workloads)?,
        })
    }

    /// A kernel of the host.
    pub fn host_kernel(&self, kernel: HostKernel) -> testbed::Result<Kernel> {
        self.kernel(match kernel {
            HostKernel::Stock => Variant::Stock,
            HostKernel::Patched => Variant::Patched,
            HostKernel::Compare => Variant::Compare,
        })
    }

    /// The emulator.
    fn emulator(&self) -> testbed::Result<Emulator> {
        self.stepwise("emulator", |on_step| {
            Emulator::build(&self.repo, &self.cache, &self.cancel, on_step)
        })
    }

    /// A kernel.
    pub fn kernel(&self, variant: Variant) -> testbed::Result<Kernel> {
        self.stepwise(&format!("{} kernel", variant.name()), |on_step| {
            Kernel::build(variant, &self.repo, &self.cache, &self.cancel, on_step)
        })
    }

    /// The host's initial ram disks, each with the guests of one workload in it.
    fn host_images<'a>(
        &self,
        workloads: impl IntoIterator<Item = &'a str>,
    ) -> testbed::Result<BTreeMap<String, PathBuf>> {
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let guest = self.kernel(Variant::Guest)?;
        let workloads: BTreeSet<&str> = workloads.into_iter().collect();
        let images = workloads
            .into_iter()
            .map(|name| {
                let image = image::host(name, &programs, &guest, &self.cache)?;
                Ok((name.to_string(), image))
            })
            .collect();
        line.finish_and_clear();
        images
    }

    /// What the tests of IPIs boot: the emulator, and a host's initial ram disk.
    pub fn probe(&self) -> testbed::Result<(Emulator, PathBuf)> {
        let emulator = self.emulator()?;
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let image = image::probe_host(&programs, &self.cache);
        line.finish_and_clear();
        Ok((emulator, image?))
    }

    /// A host to compare VMMs on: ours, and Debian's QEMU.
    pub fn host_of_vmms(&self, workload: &str) -> testbed::Result<StockHost> {
        packages::install_peers(&self.cache, &self.cancel)?;
        self.stock_host(|programs, guest| {
            image::host_with_qemu(workload, programs, guest, &self.cache)
        })
    }

    /// Our VMM, and a guest that says READY and halts, for this machine's own KVM.
    pub fn vmm_and_idle_guest(&self) -> testbed::Result<(PathBuf, PathBuf)> {
        let line = self.progress.spinner("programs");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let guest = payload::idle(&self.repo, &self.cache)?;
        line.finish_and_clear();
        Ok((programs.path("vmm"), guest))
    }

    /// A host with Debian's own kernel for its guests.
    pub fn host_of_debian(&self, workload: &str) -> testbed::Result<StockHost> {
        packages::install_for_tests(&self.cache, &self.cancel)?;
        self.stock_host(|programs, guest| {
            let load = programs.path("guest-load");
            let debian = DebianGuest::build(&self.repo, &load, &self.cache, &self.cancel)?;
            image::host_with_debian(workload, programs, guest, &debian, &self.cache)
        })
    }

    fn stock_host(
        &self,
        image: impl FnOnce(&Programs, &Kernel) -> testbed::Result<PathBuf>,
    ) -> testbed::Result<StockHost> {
        let emulator = self.emulator()?;
        let kernel = self.kernel(Variant::Stock)?;
        let guest = self.kernel(Variant::Guest)?;
        let line = self.progress.spinner("programs and images");
        let programs = Programs::build(&self.repo, &self.cache, &self.cancel)?;
        let initrd = image(&programs, &guest)?;
        line.finish_and_clear();
        Ok(StockHost {
            emulator,
            kernel,
            initrd,
        })
    }

    /// Puts into `folder` what `dense-bench run` needs on another host.
    pub fn images(&self, folder: &Path) -> testbed::Result<()> {
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
        build: impl FnOnce(&mut dyn FnMut(u64, u64)) -> testbed::Result<T>,
    ) -> testbed::Result<T> {
        let line = self.progress.bar(what, 0);
        let built = build(&mut |step, total| {
            line.set_length(total);
            line.set_position(step);
        });
        line.finish_and_clear();
        built
    }
}
