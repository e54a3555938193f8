//! Runs one cell on this host.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use dense_record::measured::{CellOutput, Measured, Timeline};
use dense_record::spec::CellSpec;
use dense_record::{Error, Result};
use fastrand::Rng;
use rustix::fs::statvfs;
use rustix::time::{ClockId, clock_gettime};

use crate::changes::Changes;
use crate::counters::{Counters, difference, snapshot};
use crate::facts::facts;
pub use crate::guest::Console;
use crate::guest::{Event, Go, Guest, Listener, Outcome};
use crate::placement::{self, Held};
use crate::third::ThirdParty;
use crate::trace::Trace;
use crate::truth::{Wait, Watch};

/// Guests start up to this much apart, as the seed says.
const MAX_SKEW_US: u64 = 1000;
/// Where changes to a host are noted, so that a later start takes them back after a crash.
pub const STATE: &str = "/run/dense-bench";
/// Has a kernel with our statistics measure times, too.
const YIELD_TIMES: &str = "/sys/module/kvm/parameters/yield_times";
/// Between two looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(200);

/// What running a cell needs of the host.
#[derive(Clone, Copy)]
pub struct Host<'a> {
    /// Holds the guests' disks while the cell runs; should be a tmpfs.
    pub scratch: &'a Path,
    /// Holds the journal of changes to the host; one a host.
    pub state: &'a Path,
    /// Takes the guests' consoles, each line after `guest<number>| `.
    pub console: &'a Console,
    /// Ends the cell soon after it is set.
    pub stop: &'a AtomicBool,
    /// Called when all guests have booted; gives the cell to go on with, which may be
    /// another one of the same guests.
    pub booted: fn(&CellSpec) -> Result<CellSpec>,
}

/// For [`Host::booted`]: goes on with the cell that the guests were booted for.
pub fn same_cell(spec: &CellSpec) -> Result<CellSpec> {
    Ok(spec.clone())
}

/// Runs the cell. Whatever happens, no VM, no group, no file and no changed knob is left.
pub fn run(spec: &CellSpec, host: Host) -> CellOutput {
    match measure(spec, host) {
        Ok(measured) => CellOutput::Ok(measured),
        Err(error) => CellOutput::Failed {
            error: error.to_string().replace('\n', " "),
        },
    }
}

fn measure(spec: &CellSpec, host: Host) -> Result<Measured> {
    // First what a crashed run left. Dropped, and so taken back and removed, after
    // the VMs that use it.
    let mut changes = Changes::begin(host.state)?;
    spec.check()?;
    check_room(spec, host.scratch)?;
    let folder = tempfile::tempdir_in(host.scratch).map_err(Error::io("write to", host.scratch))?;
    let started = Instant::now();
    let mut vms = Vms::start(spec, folder.path(), host)?;
    let ready_by = started + Duration::from_millis(spec.ready_timeout_ms);
    vms.wait_for_all(Guest::is_ready, ready_by, "did not say READY in time")?;
    let ready_ns = nanos(started.elapsed());
    let vms_pids = vms.pids();

    let spec = &(host.booted)(spec)?;
    spec.check()?;
    let times = Path::new(YIELD_TIMES);
    if times.exists() {
        changes.set(times, "Y")?;
    }
    for (path, value) in &spec.chosen.sysfs {
        changes.set(path, value)?;
    }

    let mut instruments = Instruments::prepare(spec, &vms_pids, &mut changes)?;
    let held = Held::hold(spec, &vms_pids)?;
    vms.go(spec)?;
    let go = Instant::now();
    vms.watch_until(go + Duration::from_millis(spec.chosen.warmup_ms / 2))?;
    held.release()?;
    vms.watch_until(go + Duration::from_millis(spec.chosen.warmup_ms))?;
    let mut seen = instruments.see_window(spec, &mut vms, &vms_pids)?;

    let done_by = go + Duration::from_millis(spec.finish_timeout_ms);
    vms.wait_for_all(Guest::is_done, done_by, "did not end in time")?;
    if let Some(truth) = &instruments.truth {
        seen.counters.extend(truth.judge(&vms.waits())?);
    }
    Ok(sum(vms.outcomes(), seen, ready_ns))
}

/// What looks at the VMs from outside, and who competes with them.
struct Instruments {
    third: Option<ThirdParty>,
    truth: Option<Watch>,
    trace: Option<Trace>,
}

impl Instruments {
    fn prepare(spec: &CellSpec, pids: &[u32], changes: &mut Changes) -> Result<Self> {
        Ok(Self {
            third: placement::place(spec, pids, changes)?,
            truth: Watch::prepare(&spec.chosen.workload, pids, changes)?,
            trace: Trace::prepare(spec.chosen.timeline_ms, changes)?,
        })
    }

    /// Lets the window pass, and the timeline at its begin.
    fn see_window(&mut self, spec: &CellSpec, vms: &mut Vms, pids: &[u32]) -> Result<Outside> {
        let switch = |on| self.truth.as_ref().map_or(Ok(()), |truth| truth.switch(on));
        let look = || snapshot(pids, self.third.as_ref());
        switch(true)?;
        let (begin, before) = (Instant::now(), look());
        let timeline = match self.trace.take() {
            None => None,
            Some(trace) => {
                trace.begin()?;
                vms.watch_until(Instant::now() + Duration::from_millis(spec.chosen.timeline_ms))?;
                Some(trace.end(pids)?)
            }
        };
        vms.watch_until(begin + Duration::from_millis(spec.chosen.window_ms))?;
        let (window, after) = (begin.elapsed(), look());
        switch(false)?;
        Ok(Outside {
            counters: difference(&before, &after),
            window_ns: nanos(window),
            timeline,
        })
    }
}

/// What was measured outside of the guests.
struct Outside {
    counters: Counters,
    window_ns: u64,
    timeline: Option<Timeline>,
}

fn sum(outcomes: Vec<Outcome>, host: Outside, ready_ns: u64) -> Measured {
    let per_guest: Vec<f64> = outcomes.iter().map(|o| o.value).collect();
    Measured {
        value: per_guest.iter().sum(),
        unit: outcomes.first().map(|o| o.unit.clone()).unwrap_or_default(),
        per_guest,
        guest_extras: outcomes
            .into_iter()
            .map(|mut outcome| {
                outcome.extras.insert("window_s".into(), outcome.window_s);
                outcome.extras
            })
            .collect(),
        counters: host.counters,
        window_ns: host.window_ns,
        ready_ns,
        host_ns: boot_clock_ns(),
        kernel: kernel(),
        machine: facts(),
        timeline: host.timeline,
    }
}

/// Sees that the disks fit, even when guests fill them.
fn check_room(spec: &CellSpec, scratch: &Path) -> Result<()> {
    let room = statvfs(scratch).map_err(Error::io("look at", scratch))?;
    let free_mib = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
    let needed_mib = u64::from(spec.chosen.guests) * u64::from(spec.chosen.disk_mib);
    // A tmpfs without a limit says that it has no blocks at all.
    if room.f_blocks == 0 || free_mib >= needed_mib {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{} has {free_mib} MiB free and the guests' disks need {needed_mib}: \
         choose another folder, fewer guests or smaller disks",
        scratch.display()
    )))
}

/// All VMs of the cell. Whichever fails is noticed at once, whatever is waited for.
struct Vms<'a> {
    guests: Vec<Guest>,
    events: Receiver<Event>,
    /// Kept, so that the channel never closes.
    _sender: Sender<Event>,
    stop: &'a AtomicBool,
}

impl<'a> Vms<'a> {
    fn start(spec: &CellSpec, folder: &Path, host: Host<'a>) -> Result<Self> {
        let (sender, events) = channel();
        let mut rng = Rng::with_seed(spec.chosen.seed);
        let guests = (0..spec.chosen.guests as usize)
            .map(|number| {
                thread::sleep(Duration::from_micros(rng.u64(..MAX_SKEW_US)));
                let listener = Listener {
                    events: sender.clone(),
                    console: host.console.clone(),
                };
                Guest::start(spec, number, folder, listener)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            guests,
            events,
            _sender: sender,
            stop: host.stop,
        })
    }

    fn pids(&self) -> Vec<u32> {
        self.guests.iter().map(Guest::pid).collect()
    }

    fn waits(&mut self) -> Vec<Vec<Wait>> {
        self.guests.iter_mut().map(Guest::take_waits).collect()
    }

    fn outcomes(&mut self) -> Vec<Outcome> {
        let guests = self.guests.iter_mut();
        guests.filter_map(Guest::take_outcome).collect()
    }

    /// Tells all guests to run, back to back.
    fn go(&mut self, spec: &CellSpec) -> Result<()> {
        let go = Go {
            workload: &spec.chosen.workload,
            clients: spec.chosen.vcpus,
            warmup_ms: spec.chosen.warmup_ms,
            window_ms: spec.chosen.window_ms,
            seed: spec.chosen.seed,
        };
        self.guests.iter_mut().try_for_each(|guest| guest.go(&go))
    }

    /// Waits until all guests are as they should be, or for the first that fails.
    fn wait_for_all(
        &mut self,
        is_so: impl Fn(&Guest) -> bool,
        deadline: Instant,
        failure: &str,
    ) -> Result<()> {
        while let Some(late) = self.guests.iter().position(|guest| !is_so(guest)) {
            if Instant::now() >= deadline {
                return Err(self.guests[late].error_with_tail(failure));
            }
            self.take_event(deadline)?;
        }
        Ok(())
    }

    /// Lets time pass.
    fn watch_until(&mut self, time: Instant) -> Result<()> {
        while Instant::now() < time {
            self.take_event(time)?;
        }
        Ok(())
    }

    /// Takes the next event, if one comes before the deadline.
    fn take_event(&mut self, deadline: Instant) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Invalid("stopped by the user".into()));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left.min(LOOK)) {
            Ok(Event::Line(guest, line)) => self.guests[guest].hear(line),
            Ok(Event::Closed(guest)) => self.guests[guest].closed(),
            // Nothing yet: the channel never closes.
            Err(_) => Ok(()),
        }
    }
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

#[cfg(test)]
mod tests;
