//! Our own programs, linked statically so that the images need no libraries for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::proc::{self, Cancel};
use crate::{Result, payload};

/// The target is named so that the flags do not reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Packages whose program goes into an image.
pub const IN_IMAGES: &[&str] = &[
    "vmm",
    "dense-init",
    "guest-init",
    "guest-load",
    "dedup",
    "ipi-probe",
];
/// What runs plans on a user's own host. It is built by itself: what it wants of a library
/// changes no program of an image.
const BESIDE: &[&str] = &["dense-bench"];

/// The sched_ext scheduler, with the archives of Debian's libelf-dev and zlib1g-dev that
/// .cargo/config.toml names.
const SCHEDULER: [&str; 4] = [
    "--package",
    "scx-vmfirst",
    "--features",
    "scx-vmfirst/static",
];

/// Where the built programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    dir: PathBuf,
    /// The guest that is a program by itself.
    pub payload: PathBuf,
}

impl Programs {
    /// Builds them; cargo knows by itself what is still good.
    pub fn build(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<Self> {
        for packages in [IN_IMAGES, BESIDE] {
            let mut cargo = cargo_build(repo);
            for package in packages {
                cargo.args(["--package", package]);
            }
            proc::run_logged(cargo, &cache.log("programs")?, cancel, |_| {})?;
        }
        Ok(Self {
            dir: target_dir(repo).join(TARGET).join("release"),
            payload: payload::build(repo, cache)?,
        })
    }

    /// Builds the sched_ext scheduler, which only hosts with such a kernel need; its path.
    pub fn scheduler(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<PathBuf> {
        let mut cargo = cargo_build(repo);
        cargo.args(SCHEDULER);
        proc::run_logged(cargo, &cache.log("scheduler")?, cancel, |_| {})?;
        Ok(target_dir(repo).join(TARGET).join("release/scx_vmfirst"))
    }

    /// Builds the program that operators run, which no image has; its path.
    pub fn operators(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<PathBuf> {
        let mut cargo = cargo_build(repo);
        cargo.args(["--package", "vmfirst-host"]);
        proc::run_logged(cargo, &cache.log("programs")?, cancel, |_| {})?;
        Ok(target_dir(repo).join(TARGET).join("release/vmfirst"))
    }

    /// The path of one that goes into images.
    pub fn path(&self, name: &str) -> PathBuf {
        assert!(IN_IMAGES.contains(&name), "{name} goes into no image");
        self.dir.join(name)
    }

    /// The program that runs plans.
    pub fn bench(&self) -> PathBuf {
        self.dir.join("dense-bench")
    }
}

fn target_dir(repo: &Path) -> PathBuf {
    repo.join("target/static")
}

fn cargo_build(repo: &Path) -> Command {
    let mut cargo = proc::command("cargo");
    cargo
        .current_dir(repo)
        .args(["build", "--release", "--target", TARGET, "--target-dir"])
        .arg(target_dir(repo))
        .env("RUSTFLAGS", flags(repo));
    cargo
}

/// Static, and without this machine's paths in panic messages: they would move
/// data in the programs, and with it every figure.
fn flags(repo: &Path) -> String {
    let home = std::env::var("CARGO_HOME")
        .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")))
        .unwrap_or_default();
    format!(
        "-C target-feature=+crt-static --remap-path-prefix={}=/vmfirst --remap-path-prefix={home}=/cargo",
        repo.display()
    )
}
