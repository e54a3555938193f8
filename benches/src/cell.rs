//! Runs one cell on this host.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::counters::{difference, snapshot};
use crate::guest::{Go, Guest};
use crate::spec::{CellOutput, CellSpec, Measured};
use crate::{Error, Result};

/// Guests start up to this much apart, as the seed says.
const MAX_SKEW_US: u64 = 1000;

/// Runs the cell in a folder of its own below `scratch`, which should be a tmpfs:
/// the disks are there. Whatever happens, no VM, no file and no changed knob is left.
pub fn run(spec: &CellSpec, scratch: &Path) -> CellOutput {
    match measure(spec, scratch) {
        Ok(measured) => CellOutput::Ok(measured),
        Err(error) => CellOutput::Failed {
            error: error.to_string().replace('\n', " "),
        },
    }
}

fn measure(spec: &CellSpec, scratch: &Path) -> Result<Measured> {
    spec.check()?;
    let folder = tempfile::tempdir_in(scratch).map_err(Error::io("write to", scratch))?;
    let _knobs = Knobs::set(&spec.sysfs)?;
    let started = Instant::now();
    let mut guests = start_all(spec, folder.path())?;
    let ready_by = started + Duration::from_millis(spec.ready_timeout_ms);
    for guest in &mut guests {
        guest.wait_ready(ready_by)?;
    }
    let ready_ns = nanos(started.elapsed());

    let go = Go {
        workload: &spec.workload,
        clients: spec.vcpus,
        warmup_ms: spec.warmup_ms,
        window_ms: spec.window_ms,
        seed: spec.seed,
    };
    for guest in &mut guests {
        guest.go(&go)?;
    }
    let pids: Vec<u32> = guests.iter().map(Guest::pid).collect();
    let finish_by = Instant::now() + Duration::from_millis(spec.finish_timeout_ms);
    thread::sleep(Duration::from_millis(spec.warmup_ms));
    let (begin, before) = (Instant::now(), snapshot(&pids));
    thread::sleep(Duration::from_millis(spec.window_ms));
    let (window, after) = (begin.elapsed(), snapshot(&pids));

    let mut outcomes = Vec::new();
    for guest in &mut guests {
        outcomes.push(guest.finish(finish_by)?);
    }
    let per_guest: Vec<f64> = outcomes.iter().map(|o| o.value).collect();
    Ok(Measured {
        value: per_guest.iter().sum(),
        unit: outcomes.first().map(|o| o.unit.clone()).unwrap_or_default(),
        per_guest,
        guest_extras: outcomes.into_iter().map(|o| o.extras).collect(),
        counters: difference(&before, &after),
        window_ns: nanos(window),
        ready_ns,
        host_ns: boot_clock_ns(),
        kernel: kernel(),
    })
}

fn start_all(spec: &CellSpec, folder: &Path) -> Result<Vec<Guest>> {
    (0..spec.guests as usize)
        .map(|number| {
            thread::sleep(Duration::from_micros(skew_us(spec.seed, number as u64)));
            Guest::start(spec, number, folder)
        })
        .collect()
}

/// A guest's delay: the splitmix64 finalizer over seed and number.
fn skew_us(seed: u64, number: u64) -> u64 {
    let mut x = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(number);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % MAX_SKEW_US
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn boot_clock_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn kernel() -> String {
    let name = rustix::system::uname();
    format!(
        "{} {}",
        name.release().to_string_lossy(),
        name.version().to_string_lossy()
    )
}

/// Knobs of the kernel, put back when this is dropped.
struct Knobs(Vec<(PathBuf, String)>);

impl Knobs {
    fn set(wanted: &[(PathBuf, String)]) -> Result<Self> {
        let mut knobs = Self(Vec::new());
        for (path, value) in wanted {
            let before = fs::read_to_string(path).map_err(Error::io("read", path))?;
            knobs.0.push((path.clone(), before));
            fs::write(path, value).map_err(Error::io("set", path))?;
        }
        Ok(knobs)
    }
}

impl Drop for Knobs {
    fn drop(&mut self) {
        for (path, value) in self.0.drain(..).rev() {
            if let Err(error) = fs::write(&path, value.trim_end()) {
                eprintln!("dense-bench: cannot restore {}: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests;
