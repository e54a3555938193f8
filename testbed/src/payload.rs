//! The guest without an operating system: `guests/truth`.

use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::kernel::compiler_version;
use crate::{Result, proc};

const SOURCES: &[&str] = &["start.S", "truth.c", "truth.h", "truth.lds"];
/// What tells the compiler that there is nothing beneath the code, and keeps it from
/// registers that interrupts would have to save.
const FLAGS: &str = "-O2 -Wall -Wextra -Werror -ffreestanding -fno-pic -no-pie -mno-red-zone \
    -mgeneral-regs-only -fno-stack-protector -fno-asynchronous-unwind-tables -nostdlib -static \
    -Wl,--build-id=none,--no-warn-rwx-segments";

/// Compiles it, or takes it from the cache; returns an ELF file that a VMM boots.
pub fn build(repo: &Path, cache: &Cache) -> Result<PathBuf> {
    let folder = repo.join("guests/truth");
    let mut key = Key::new()
        .text("flags", FLAGS)
        .text("cc", &compiler_version()?);
    for source in SOURCES {
        key = key.file(&folder.join(source))?;
    }
    let dir = cache.artefact("payload-truth", &key, |out| {
        let mut gcc = proc::command("gcc");
        gcc.current_dir(&folder)
            .args(FLAGS.split_whitespace())
            .args(["-Wl,-T,truth.lds", "-o"])
            .arg(out.join("truth"))
            .args(["start.S", "truth.c"]);
        proc::output(gcc).map(drop)
    })?;
    Ok(dir.join("truth"))
}
