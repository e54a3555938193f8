//! A guest with Debian's own cloud kernel, as it comes, and a shell.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::cache::Cache;
use crate::initrd::{self, Files};
use crate::packaged;
use crate::proc::Cancel;

/// What the guest needs and Debian has as modules: our devices, and the power button for
/// programs.
const MODULES: &[&str] = &[
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "evdev",
    "button",
];
/// From the package busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";

/// What boots it.
#[derive(Debug, Clone)]
pub struct DebianGuest {
    /// Debian's bzImage.
    pub kernel: PathBuf,
    /// Busybox, Debian's modules for our devices, and our load for them.
    pub initrd: PathBuf,
}

impl DebianGuest {
    /// Downloads the kernel, once, and makes its initial ram disk.
    pub fn build(repo: &Path, load: &Path, cache: &Cache, cancel: &Cancel) -> Result<Self> {
        let debian = packaged::of_debian(MODULES, cache, cancel)?;
        let mut files = Files::default();
        files.add("/init", &repo.join("guests/debian/init"))?;
        files.add(BUSYBOX, Path::new(BUSYBOX))?;
        files.add("/bin/guest-load", load)?;
        files.add_folder("/lib/modules", &packaged::modules(&debian)?)?;
        Ok(Self {
            kernel: debian.bzimage(),
            initrd: initrd::build("debian", &files, cache)?,
        })
    }
}
