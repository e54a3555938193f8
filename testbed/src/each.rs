//! `cargo xtask kernel --each`: every patch of every topic builds, boots and passes its
//! KUnit tests on top of those before it and of the topics below.

use std::path::{Path, PathBuf};

use dense_record::job::{Done, Job};

use crate::cells::run_job;
use crate::kernel::{Kernel, Variant};
use crate::machine::{Machine, complaint};
use crate::topics::Topics;
use crate::workshop::{Parts, Workshop};
use crate::{Error, Result};

/// Any image will do.
const IMAGE: &str = "compute";
/// A boot without VMs takes a few seconds of virtual time.
const LIMIT_S: u64 = 60;

/// Goes through the topics; then builds the series' scheduler for 32 bits.
pub fn run(workshop: &Workshop) -> Result<()> {
    let parts = workshop.all_parts([IMAGE], [])?;
    for (index, patches) in Topics::read(&workshop.repo)?.steps()?.iter().enumerate() {
        let name = patches.last().map(|patch| name(patch)).unwrap_or_default();
        let kernel = workshop.kernel(Variant::Step(index))?;
        let passed = boot(workshop, &parts, &kernel, &name)?;
        println!("{name}: builds, boots, {passed} KUnit tests pass");
    }
    let kernel = workshop.kernel(Variant::Sched32)?;
    println!("32 bits: links, {}", kernel.dir.display());
    Ok(())
}

/// A patch's topic and name.
fn name(patch: &Path) -> String {
    let from_topics = patch
        .components()
        .skip_while(|part| part.as_os_str() != "linux-6.12");
    let from_topic: PathBuf = from_topics.skip(1).collect();
    from_topic.with_extension("").display().to_string()
}

/// Boots the emulated host; how many KUnit tests passed.
fn boot(workshop: &Workshop, parts: &Parts, kernel: &Kernel, name: &str) -> Result<usize> {
    let machine = Machine {
        emulator: parts.emulator.clone(),
        kernel: kernel.bzimage(),
        initrd: parts.host_images[IMAGE].clone(),
        pcpus: 2,
        mem_mib: 1024,
        round_ns: 3000,
        seed: 1,
        limit_s: LIMIT_S,
    };
    let work = tempfile::tempdir().map_err(Error::io("make", "a folder"))?;
    let job = Job::Launches(Vec::new());
    let (output, done) = run_job(&machine, &job, work.path(), &workshop.cancel)?;
    let console = String::from_utf8_lossy(&output.console);
    let report = complaint(&console).map(str::to_string);
    let report = match (report, done) {
        (None, Done::Launches(_)) => return Ok(kunit_passes(&console)),
        (Some(report), _) => report,
        (None, done) => format!("{done:?}"),
    };
    Err(Error::Kernel {
        kernel: name.to_string(),
        report,
    })
}

/// The sum of what KUnit says at the end of each suite.
fn kunit_passes(console: &str) -> usize {
    console
        .lines()
        .filter(|line| line.contains("# Totals: pass:"))
        .filter_map(|line| {
            line.split("pass:")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn totals_are_summed() {
        let console = "[1.0] # a: pass:3 fail:0 skip:0 total:3\n\
                       [1.0] # Totals: pass:3 fail:0 skip:0 total:3\n\
                       [1.1] # Totals: pass:9 fail:0 skip:0 total:9\n";
        assert_eq!(super::kunit_passes(console), 12);
    }
}
