//! Guests without an operating system: `guests/truth`, `guests/idle` and `guests/spin`.

use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::kernel::compiler_version;
use crate::{Result, proc};

/// What a guest is made of, below `guests`.
struct Sources {
    /// Its folder, and the program in it.
    name: &'static str,
    /// For the compiler.
    compiled: &'static [&'static str],
    /// What these include.
    others: &'static [&'static str],
    /// What says where it is loaded.
    script: &'static str,
}

const TRUTH: Sources = Sources {
    name: "truth",
    compiled: &["start.S", "truth.c"],
    others: &["truth.h"],
    script: "truth.lds",
};
const IDLE: Sources = Sources {
    name: "idle",
    compiled: &["start.S"],
    others: &[],
    script: "../truth/truth.lds",
};
const SPIN: Sources = Sources {
    name: "spin",
    compiled: &["start.S"],
    others: &[],
    script: "spin.lds",
};
/// What tells the compiler that there is nothing beneath the code, and keeps it from
/// registers that interrupts would have to save.
const FLAGS: &str = "-O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie -mno-red-zone \
    -mgeneral-regs-only -fno-stack-protector -fno-asynchronous-unwind-tables -nostdlib -static \
    -Wl,--build-id=none,--no-warn-rwx-segments";

/// Builds the guest that tells who waited for whom; returns an ELF file that a VMM boots.
pub fn build(repo: &Path, cache: &Cache) -> Result<PathBuf> {
    compile(&TRUTH, repo, cache)
}

/// Builds the guest that says READY and halts.
pub fn idle(repo: &Path, cache: &Cache) -> Result<PathBuf> {
    compile(&IDLE, repo, cache)
}

/// Builds the boot sector whose vCPUs spin; returns a disk's image.
pub fn spin(repo: &Path, cache: &Cache) -> Result<PathBuf> {
    compile(&SPIN, repo, cache)
}

/// Compiles a guest, or takes it from the cache.
fn compile(guest: &Sources, repo: &Path, cache: &Cache) -> Result<PathBuf> {
    let name = guest.name;
    let folder = repo.join("guests").join(name);
    let mut key = Key::new()
        .text("flags", FLAGS)
        .text("cc", &compiler_version()?);
    for source in [guest.compiled, guest.others, &[guest.script]].concat() {
        key = key.file(&folder.join(source))?;
    }
    let dir = cache.artefact(&format!("payload-{name}"), &key, |out| {
        let mut gcc = proc::command("gcc");
        gcc.current_dir(&folder)
            .args(FLAGS.split_whitespace())
            .args([&format!("-Wl,-T,{}", guest.script), "-o"])
            .arg(out.join(name))
            .args(guest.compiled);
        proc::output(gcc).map(drop)
    })?;
    Ok(dir.join(name))
}
