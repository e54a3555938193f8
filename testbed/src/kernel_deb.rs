//! The series on Debian's own configuration of 6.12, as packages that apt installs beside the
//! stock kernel: that of the cloud flavour, with all its modules, and a name of its own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::Cache;
use crate::kernel::{Kernel, Variant, Workplace, compiler_version, source_version};
use crate::packages::{self, FOR_KERNEL_PACKAGES};
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// From the package linux-config-6.12.
const CONFIG: &str = "/usr/src/linux-config-6.12/config.amd64_none_cloud-amd64.xz";
/// Lines that `make` prints for a whole build, about; for the progress display.
const STEPS: u64 = 7_400;
/// Those of what is built that users need. A newer linux-libc-dev would take the place of
/// Debian's.
const WANTED: &[&str] = &["linux-image-", "linux-headers-"];
/// No package with debug information: it is a GiB.
const PROFILES: &str = "pkg.linux-upstream.nokerneldbg";

/// The packages: the kernel with its modules, and the headers for modules of others.
#[derive(Debug, Clone)]
pub struct KernelPackages {
    /// The folder of the `.deb` files; its name ends in the key.
    pub dir: PathBuf,
}

impl KernelPackages {
    /// Builds them, or takes them from the cache; tells `on_step` how far it is.
    pub fn build(
        repo: &Path,
        cache: &Cache,
        cancel: &Cancel,
        mut on_step: impl FnMut(u64, u64),
    ) -> Result<Self> {
        packages::install_missing(FOR_KERNEL_PACKAGES, cache, cancel)?;
        let version = source_version()?;
        let key = Kernel::key(Variant::Debian, repo, &version, &compiler_version()?)?
            .text("packages", "1")
            .file(Path::new(CONFIG))?;
        let dir = cache.artefact("kernel-debs", &key, |out| {
            let place = Workplace::open(Variant::Debian, repo, cache, cancel)?;
            let mut make = place.make();
            make.args(["LOCALVERSION=", "bindeb-pkg"])
                .arg(format!("KDEB_PKGVERSION={version}+vmfirst"))
                .env("DEB_BUILD_PROFILES", PROFILES);
            let mut step = 0;
            place.run(make, &cache.log("kernel-debs")?, cancel, || {
                step += 1;
                on_step(step, STEPS.max(step));
            })?;
            take(place.build.parent().unwrap_or(&place.build), out)
        })?;
        Ok(Self { dir })
    }

    /// The packages' files, that of the kernel first.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = debs(&self.dir)?;
        files.sort_by_key(|file| !is_image(file));
        Ok(files)
    }
}

/// Debian's configuration, as the kernel's own tools want it.
pub(crate) fn write_config(to: &Path) -> Result<()> {
    let out = fs::File::create(to).map_err(Error::io("create", to))?;
    let mut xz = proc::command("xz");
    xz.args(["-dc", CONFIG]).stdout(out);
    let status = proc::run(xz, &Cancel::default(), || {})?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Setup(format!("xz cannot unpack {CONFIG}"))),
    }
}

fn is_image(file: &Path) -> bool {
    name(file).starts_with(WANTED[0])
}

fn name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let files = entries.flatten().map(|entry| entry.path());
    Ok(files.filter(|f| name(f).ends_with(".deb")).collect())
}

/// The kernel's scripts leave packages beside the build folder.
fn take(from: &Path, out: &Path) -> Result<()> {
    for file in debs(from)? {
        if WANTED.iter().any(|wanted| name(&file).starts_with(wanted)) {
            let to = out.join(name(&file));
            fs::copy(&file, &to).map_err(Error::io("copy", &file))?;
        }
        fs::remove_file(&file).map_err(Error::io("remove", &file))?;
    }
    match debs(out)?.iter().any(|file| is_image(file)) {
        true => Ok(()),
        false => Err(Error::Setup(
            "make bindeb-pkg left no linux-image package".into(),
        )),
    }
}
