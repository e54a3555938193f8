//! QEMU from Debian's source package with the patches in `testbed/emulator/patches`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::proc::{self, Cancel};
use crate::{Error, Result, packages};

/// Firmware that the emulated machine loads, with the package's folder it is in.
const FIRMWARE: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
];

/// Where Debian publishes its sources; `deb-src` is seldom in a machine's own list.
const SOURCES: &str = "deb-src http://deb.debian.org/debian bookworm main\n\
     deb-src http://deb.debian.org/debian bookworm-updates main\n\
     deb-src http://deb.debian.org/debian-security bookworm-security main\n";

/// Compile steps of a whole build, for the progress display.
const STEPS: u64 = 1_426;

/// A built emulator.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// The folder with the program and its firmware; its name ends in the key.
    pub dir: PathBuf,
}

impl Emulator {
    /// The program itself.
    pub fn program(&self) -> PathBuf {
        self.dir.join("qemu-system-x86_64")
    }

    /// Builds the emulator, or takes it from the cache; tells `on_step` how far it is.
    pub fn build(
        repo: &Path,
        cache: &Cache,
        cancel: &Cancel,
        mut on_step: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let patches = patches(repo)?;
        let version = packages::version("qemu-system-data").unwrap_or_default();
        let mut key = Key::new()
            .text("recipe", "1")
            .text("qemu", &version)
            .text("cc", &crate::kernel::compiler_version()?);
        for input in patches
            .iter()
            .map(PathBuf::as_path)
            .chain(FIRMWARE.iter().map(Path::new))
        {
            key = key.file(input)?;
        }
        let dir = cache.artefact("emulator", &key, |out| {
            let source = unpack(cache, &version, cancel)?;
            apply(&source, &patches, cache, cancel)?;
            compile(&source, cache, cancel, &mut on_step)?;
            install(&source, out)
        })?;
        Ok(Self { dir })
    }
}

fn patches(repo: &Path) -> Result<Vec<PathBuf>> {
    let dir = repo.join("testbed/emulator/patches");
    let mut found: Vec<PathBuf> = fs::read_dir(&dir)
        .map_err(Error::io("read", &dir))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .collect();
    found.sort();
    Ok(found)
}

/// Fetches and unpacks the source of the same version as Debian's data package.
fn unpack(cache: &Cache, version: &str, cancel: &Cancel) -> Result<PathBuf> {
    let work = cache.work_dir("qemu")?;
    let lists = work.join("lists");
    fs::create_dir_all(lists.join("partial")).map_err(Error::io("create", &lists))?;
    let sources = work.join("sources.list");
    fs::write(&sources, SOURCES).map_err(Error::io("write", &sources))?;
    let apt = |args: &[&str]| {
        let mut apt = proc::command("apt-get");
        apt.current_dir(&work)
            .arg("-q")
            .arg(format!("-oDir::Etc::SourceList={}", sources.display()))
            .arg("-oDir::Etc::SourceParts=-")
            .arg(format!("-oDir::State::Lists={}", lists.display()))
            .arg("-oAPT::Sandbox::User=root")
            .args(args);
        apt
    };
    let log = cache.log("qemu-source")?;
    proc::run_logged(apt(&["update"]), &log, cancel, |_| {})?;
    let package = format!("qemu={version}");
    proc::run_logged(
        apt(&["source", "--download-only", &package]),
        &log,
        cancel,
        |_| {},
    )?;

    let tree = work.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(Error::io("remove", &tree))?;
    }
    let dsc = format!(
        "qemu_{}.dsc",
        version.split_once(':').map_or(version, |v| v.1)
    );
    let mut unpack = proc::command("dpkg-source");
    unpack.current_dir(&work).args(["-x", &dsc, "tree"]);
    proc::run_logged(unpack, &log, cancel, |_| {})?;
    Ok(tree)
}

fn apply(source: &Path, patches: &[PathBuf], cache: &Cache, cancel: &Cancel) -> Result<()> {
    let log = cache.log("qemu-patches")?;
    for patch in patches {
        let mut apply = proc::command("patch");
        apply
            .current_dir(source)
            .args(["-p1", "-N", "-i"])
            .arg(patch);
        proc::run_logged(apply, &log, cancel, |_| {})?;
    }
    Ok(())
}

fn compile(
    source: &Path,
    cache: &Cache,
    cancel: &Cancel,
    on_step: &mut impl FnMut(u64, u64),
) -> Result<()> {
    let build = source.join("build");
    fs::create_dir_all(&build).map_err(Error::io("create", &build))?;
    let mut configure = in_build("../configure", &build);
    configure.args([
        "--enable-fdt=system",
        "--disable-install-blobs",
        "--target-list=x86_64-softmmu",
        "--disable-docs",
        "--disable-tools",
        "--disable-guest-agent",
        "--disable-user",
        "--without-default-features",
        "--disable-werror",
        "--enable-tcg",
    ]);
    proc::run_logged(configure, &cache.log("qemu-configure")?, cancel, |_| {})?;
    let mut ninja = in_build("ninja", &build);
    ninja.arg("qemu-system-x86_64");
    proc::run_logged(ninja, &cache.log("qemu-build")?, cancel, |line| {
        if let Some((step, total)) = ninja_step(line) {
            on_step(step, total.max(STEPS));
        }
    })
}

/// A command in the build folder that finds Debian's Python before any other.
fn in_build(program: &str, build: &Path) -> std::process::Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = proc::command(program);
    command
        .current_dir(build)
        .env("PATH", format!("/usr/bin:{path}"));
    command
}

/// Reads ninja's `[12/345] ...`.
fn ninja_step(line: &str) -> Option<(u64, u64)> {
    let (step, total) = line.strip_prefix('[')?.split_once(']')?.0.split_once('/')?;
    Some((step.parse().ok()?, total.parse().ok()?))
}

fn install(source: &Path, out: &Path) -> Result<()> {
    let built = source.join("build/qemu-system-x86_64");
    let files = FIRMWARE.iter().map(PathBuf::from).chain([built]);
    for from in files {
        let to = out.join(from.file_name().unwrap_or_default());
        fs::copy(&from, &to).map_err(Error::io("copy", &from))?;
    }
    fs::remove_dir_all(source).map_err(Error::io("remove", source))
}

#[cfg(test)]
mod tests {
    use super::ninja_step;

    #[test]
    fn ninja_lines_give_the_step() {
        assert_eq!(ninja_step("[12/345] Compiling"), Some((12, 345)));
        assert_eq!(ninja_step("ninja: done"), None);
    }
}
