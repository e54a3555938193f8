//! Kernels as Debian packages have them: the image, its configuration, and the modules that
//! somebody needs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::kernel::Kernel;
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// Its newest version is what this package depends on.
const PACKAGE: &str = "linux-image-6.12-cloud-amd64";

/// Debian's own, downloaded once, with these modules and what they need.
pub fn of_debian(modules: &[&str], cache: &Cache, cancel: &Cancel) -> Result<Kernel> {
    let (name, version) = newest()?;
    let key = key(modules).text(&name, &version);
    let dir = cache.artefact("debian-kernel", &key, |out| {
        let into = tempfile::tempdir_in(out).map_err(Error::io("write to", out))?;
        download(&name, &version, into.path(), cache, cancel)?;
        let package = found(into.path(), |name| name.ends_with(".deb"))?;
        unpack(&package, modules, out)
    })?;
    Ok(Kernel { dir })
}

/// That of a package that was built here.
pub fn of_file(package: &Path, modules: &[&str], cache: &Cache) -> Result<Kernel> {
    let key = key(modules).file(package)?;
    let dir = cache.artefact("debian-kernel", &key, |out| unpack(package, modules, out))?;
    Ok(Kernel { dir })
}

fn key(modules: &[&str]) -> Key {
    Key::new()
        .text("recipe", "2")
        .text("modules", &modules.join(" "))
}

/// The folder of its modules, which is called as the kernel's release is. `order` there
/// names them, each after those that it needs.
pub fn modules(kernel: &Kernel) -> Result<PathBuf> {
    found(&kernel.dir.join("modules"), |_| true)
}

/// Name and version of the package with the kernel itself.
fn newest() -> Result<(String, String)> {
    let mut show = proc::command("apt-cache");
    show.args(["show", "--no-all-versions", PACKAGE]);
    dependency(&proc::output(show)?).ok_or_else(|| {
        Error::Setup(format!(
            "apt-cache knows no kernel of {PACKAGE}: run `apt-get update`"
        ))
    })
}

/// The first of `Depends: name (= version), …`.
pub(crate) fn dependency(show: &str) -> Option<(String, String)> {
    let depends = show.lines().find_map(|l| l.strip_prefix("Depends: "))?;
    let (name, rest) = depends.split_once(" (= ")?;
    let (version, _) = rest.split_once(')')?;
    Some((name.into(), version.into()))
}

fn download(name: &str, version: &str, into: &Path, cache: &Cache, cancel: &Cancel) -> Result<()> {
    let mut get = proc::command("apt-get");
    get.current_dir(into)
        .args(["-q", "download", &format!("{name}={version}")]);
    proc::run_logged(get, &cache.log("debian-kernel")?, cancel, |_| {})
}

/// The file of `folder` whose name is right.
pub(crate) fn found(folder: &Path, is_it: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    entries
        .find_map(|entry| {
            let path = entry.ok()?.path();
            is_it(path.file_name()?.to_str()?).then_some(path)
        })
        .ok_or_else(|| Error::Setup(format!("{}: not what was expected", folder.display())))
}

/// Takes the kernel and the modules, each after those that it needs.
fn unpack(package: &Path, modules: &[&str], out: &Path) -> Result<()> {
    let root = tempfile::tempdir_in(out).map_err(Error::io("write to", out))?;
    let root = root.path();
    let mut unpack = proc::command("dpkg-deb");
    unpack.arg("-x").arg(package).arg(root);
    proc::output(unpack)?;
    for (from, to) in [("vmlinuz-", "bzImage"), ("config-", "config")] {
        let file = found(&root.join("boot"), |name| name.starts_with(from))?;
        fs::copy(&file, out.join(to)).map_err(Error::io("copy", &file))?;
    }
    let tree = found(&root.join("lib/modules"), |_| true)?;
    let to = out.join("modules");
    fs::create_dir(&to).map_err(Error::io("create", &to))?;
    let release = tree.file_name().unwrap_or_default();
    install_modules(&tree, modules, &to.join(release))
}

/// Unpacks modules out of a kernel's tree of them; a file called `order` names them, each
/// after those that it needs.
pub(crate) fn install_modules(tree: &Path, names: &[&str], to: &Path) -> Result<()> {
    let mut paths = BTreeMap::new();
    find_modules(tree, &mut paths)?;
    let mut modules = Modules {
        paths,
        to: to.into(),
        order: Vec::new(),
    };
    fs::create_dir(to).map_err(Error::io("create", to))?;
    for name in names {
        modules.take(name)?;
    }
    let order = to.join("order");
    fs::write(&order, modules.order.join("\n") + "\n").map_err(Error::io("write", &order))
}

/// All packed modules below a folder, by name.
fn find_modules(folder: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.is_dir() {
            find_modules(&path, paths)?;
        } else if let Some(name) = path.to_str().filter(|path| path.ends_with(".ko.xz")) {
            paths.insert(module_name(name), path);
        }
    }
    Ok(())
}

/// The name of the module in a file: dashes count as underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

struct Modules {
    paths: BTreeMap<String, PathBuf>,
    to: PathBuf,
    order: Vec<String>,
}

impl Modules {
    /// A module and what it needs.
    fn take(&mut self, name: &str) -> Result<()> {
        if self.order.iter().any(|taken| taken == name) {
            return Ok(());
        }
        let packed = self
            .paths
            .get(name)
            .cloned()
            .ok_or_else(|| Error::Setup(format!("the packaged kernel has no module {name}")))?;
        let to = self.to.join(format!("{name}.ko"));
        let out = fs::File::create(&to).map_err(Error::io("create", &to))?;
        let mut xz = proc::command("xz");
        xz.arg("-dc").arg(&packed).stdout(out);
        let status = proc::run(xz, &Cancel::default(), || {})?;
        if !status.success() {
            return Err(Error::Setup(format!(
                "xz cannot unpack {}",
                packed.display()
            )));
        }
        for needed in needs(&fs::read(&to).map_err(Error::io("read", &to))?) {
            self.take(&needed)?;
        }
        self.order.push(name.into());
        Ok(())
    }
}

/// The modules that a module's own description names.
fn needs(module: &[u8]) -> Vec<String> {
    let text = module
        .split(|&byte| byte == 0)
        .find_map(|text| text.strip_prefix(b"depends="))
        .unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(module_name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_package_depends_on() {
        let show = "Package: linux-image-6.12-cloud-amd64\nDepends: linux-image-6.12.1+deb12-cloud-amd64 (= 6.12.1-1), x\n";
        let expected = ("linux-image-6.12.1+deb12-cloud-amd64", "6.12.1-1");
        assert_eq!(
            dependency(show),
            Some((expected.0.into(), expected.1.into()))
        );
        assert_eq!(dependency("Package: x\n"), None);
    }

    #[test]
    fn a_module_tells_what_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=net_failover,virtio-ring\0name=x\0";
        assert_eq!(needs(module), ["net_failover", "virtio_ring"]);
        assert!(needs(b"\0depends=\0").is_empty());
        assert_eq!(
            module_name("kernel/drivers/char/hw_random/virtio-rng.ko"),
            "virtio_rng"
        );
    }
}
