//! A host with Debian's newest packaged kernel, of trixie-backports: it has sched_ext, as the
//! 6.12 of Debian 12 and 13 has not. What the mirror had when it was made is kept in the
//! cache; another machine has what is newest there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::kernel::Kernel;
use crate::packaged::{dependency, found, install_modules};
use crate::proc::{self, Cancel};
use crate::{Error, Result};

const MIRROR: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
    http://deb.debian.org/debian trixie-backports main\n";
/// Its newest version is what this package depends on.
const PACKAGE: &str = "linux-image-cloud-amd64";
/// KVM, and what the first process reads its job from.
const MODULES: &[&str] = &["kvm_amd", "qemu_fw_cfg"];
/// Loads the modules.
const INIT: &str = "testbed/scx/init";

/// What boots it.
#[derive(Debug, Clone)]
pub struct DebianHost {
    dir: PathBuf,
    /// The first process, a script.
    pub init: PathBuf,
}

impl DebianHost {
    /// Downloads the kernel, once.
    pub fn build(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<Self> {
        let apt = Apt::open(cache, cancel)?;
        let (image, version) = apt.newest()?;
        let key = Key::new()
            .text("recipe", "1")
            .text(&image, &version)
            .text("modules", &MODULES.join(" "));
        let dir = cache.artefact("debian-host-kernel", &key, |out| {
            let unpacked = tempfile::tempdir_in(out).map_err(Error::io("write to", out))?;
            let release = image.trim_start_matches("linux-image-");
            for part in ["binary", "modules"] {
                let package = format!("linux-{part}-{release}={version}");
                apt.unpack(&package, unpacked.path(), cancel)?;
            }
            let tree = unpacked.path().join("usr/lib/modules");
            let tree = found(&tree, |_| true)?;
            let kernel = tree.join("vmlinuz");
            fs::copy(&kernel, out.join("bzImage")).map_err(Error::io("copy", &kernel))?;
            install_modules(&tree, MODULES, &out.join("modules"))
        })?;
        Ok(Self {
            dir,
            init: repo.join(INIT),
        })
    }

    /// Debian's bzImage, where kernels of ours have theirs.
    pub fn kernel(&self) -> Kernel {
        Kernel {
            dir: self.dir.clone(),
        }
    }

    /// A file with the options that the scheduler is to be started with.
    pub fn options(&self, options: &str, cache: &Cache) -> Result<PathBuf> {
        let key = Key::new().text("options", options);
        let dir = cache.artefact("scheduler-options", &key, |out| {
            let file = out.join("options");
            fs::write(&file, options).map_err(Error::io("write", &file))
        })?;
        Ok(dir.join("options"))
    }

    /// The folder of the modules and the list of them.
    pub fn modules(&self) -> PathBuf {
        self.dir.join("modules")
    }
}

/// apt with a list of its own, beside the system's.
struct Apt {
    folder: PathBuf,
    log: PathBuf,
}

impl Apt {
    /// Reads the mirror's list, the first time.
    fn open(cache: &Cache, cancel: &Cancel) -> Result<Self> {
        let apt = Self {
            folder: cache.work_dir("apt-backports")?,
            log: cache.log("apt-backports")?,
        };
        let is_read = apt.folder.join("is-read");
        let _lock = cache.lock("apt-backports")?;
        if !is_read.exists() {
            for folder in ["lists/partial", "archives/partial"] {
                let folder = apt.folder.join(folder);
                fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
            }
            let list = apt.folder.join("sources.list");
            fs::write(&list, MIRROR).map_err(Error::io("write", &list))?;
            let mut update = apt.command("apt-get");
            update.args(["-q", "update"]);
            proc::run_logged(update, &apt.log, cancel, |_| {})?;
            fs::write(&is_read, "").map_err(Error::io("write", &is_read))?;
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> std::process::Command {
        let mut command = proc::command(program);
        let at = |name: &str| self.folder.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("")),
            "Dir::State::status=/dev/null".into(),
            "APT::Sandbox::User=root".into(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Name and version of the package that is the kernel's newest.
    fn newest(&self) -> Result<(String, String)> {
        let mut show = self.command("apt-cache");
        show.args(["show", "--no-all-versions", PACKAGE]);
        let shown = proc::output(show)?;
        kernel(&shown).ok_or_else(|| {
            Error::Setup(format!(
                "trixie-backports has no kernel for {PACKAGE}: remove {} and try again",
                self.folder.display()
            ))
        })
    }

    fn unpack(&self, package: &str, into: &Path, cancel: &Cancel) -> Result<()> {
        let folder = tempfile::tempdir_in(into).map_err(Error::io("write to", into))?;
        let mut get = self.command("apt-get");
        get.current_dir(folder.path())
            .args(["-q", "download", package]);
        proc::run_logged(get, &self.log, cancel, |_| {})?;
        let file = found(folder.path(), |name| name.ends_with(".deb"))?;
        let mut unpack = proc::command("dpkg-deb");
        unpack.arg("-x").arg(file).arg(into);
        proc::output(unpack).map(drop)
    }
}

/// Of all that a package depends on, the kernel's image.
fn kernel(show: &str) -> Option<(String, String)> {
    let depends = show.lines().find_map(|l| l.strip_prefix("Depends: "))?;
    let image = depends
        .split(", ")
        .find(|package| package.starts_with("linux-image-"))?;
    dependency(&format!("Depends: {image}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_among_what_the_package_depends_on() {
        let show = "Package: linux-image-cloud-amd64\nDepends: linux-base-cloud-amd64 (= 7.3.4-1), \
            linux-image-7.3.4+deb13-cloud-amd64 (= 7.3.4-1), x\n";
        let expected = (
            "linux-image-7.3.4+deb13-cloud-amd64".into(),
            "7.3.4-1".into(),
        );
        assert_eq!(kernel(show), Some(expected));
        assert_eq!(kernel("Depends: linux-base (= 1)\n"), None);
    }
}
