//! The KVM selftest of the series, built from the kernel's own tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::kernel::{Variant, Workplace, compiler_version};
use crate::proc::{self, Cancel};
use crate::topics::Topics;
use crate::{Error, Result};

/// Its name, in tools/testing/selftests/kvm.
const NAME: &str = "x86_64/spin_yield_test";

/// Builds it as a static program, or takes it from the cache.
pub fn build(repo: &Path, cache: &Cache, cancel: &Cancel) -> Result<PathBuf> {
    let mut key = Key::new().text("cc", &compiler_version()?);
    for patch in Topics::read(repo)?.stack("directed-yield")? {
        key = key.file(&patch)?;
    }
    let dir = cache.artefact("selftest", &key, |out| compile(repo, cache, cancel, out))?;
    Ok(dir.join("spin_yield_test"))
}

fn compile(repo: &Path, cache: &Cache, cancel: &Cancel, out: &Path) -> Result<()> {
    let log = cache.log("selftest")?;
    let place = Workplace::open(Variant::Patched, repo, cache, cancel)?;
    let mut headers = place.make();
    headers.arg("headers");
    place.run(headers, &log, cancel, || {})?;

    // Beside the tree: nothing is left in it.
    let objects = tempfile::tempdir().map_err(Error::io("make a folder in", Path::new("/tmp")))?;
    let program = objects.path().join(NAME);
    let mut make = proc::command("make");
    make.arg("-C")
        .arg(place.source.tree.join("tools/testing/selftests/kvm"))
        .args(["ARCH=x86_64", "LDFLAGS=-static"])
        .arg(format!("OUTPUT={}", objects.path().display()))
        .arg(format!(
            "KHDR_INCLUDES=-isystem {}",
            place.headers().display()
        ))
        .arg(&program);
    proc::run_logged(make, &log, cancel, |_| {})?;
    let to = out.join("spin_yield_test");
    fs::copy(&program, &to).map_err(Error::io("copy to", &to))?;
    Ok(())
}
