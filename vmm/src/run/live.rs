//! A machine that runs, for whoever steers it: signals, and the API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::Control;
use crate::config::SchedConfig;
use crate::devices::power::PowerButton;
use crate::exit::{End, Ender};
use crate::sched::{Placement, Threads};
use crate::{Error, Result};

/// A stop under way.
#[derive(Debug, Clone, Copy)]
struct Stop {
    /// When the machine is ended in any case.
    at: Instant,
    /// Why it has ended then.
    end: End,
}

/// The machine.
pub struct Live {
    /// Its vCPUs and devices, to pause them.
    pub control: Control,
    /// How the guest is asked to power off.
    pub power_button: PowerButton,
    /// How the machine ends at once.
    pub ender: Ender,
    /// How long the guest may take to power off.
    pub stop_timeout: Duration,
    /// Written when [`Live::next`] is another moment.
    pub changed: EventFd,
    placement: Mutex<Placement>,
    stop: Mutex<Option<Stop>>,
    /// When the launch class ends in any case.
    launch_end: Mutex<Option<Instant>>,
}

impl Live {
    /// A machine whose threads don't run yet.
    pub fn new(
        ender: Ender,
        power_button: PowerButton,
        placement: Placement,
        stop_timeout: Duration,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            control: Control::new(ender.clone())?,
            power_button,
            ender,
            stop_timeout,
            changed: EventFd::new(EFD_NONBLOCK).map_err(Error::system("create an event"))?,
            placement: Mutex::new(placement),
            stop: Mutex::default(),
            launch_end: Mutex::default(),
        }))
    }

    /// Puts the threads where they are to run.
    pub fn place(&self, threads: Threads, sched: &SchedConfig) -> Result<()> {
        self.control.set_threads(&threads.vcpus);
        let launch = sched.launch.as_ref();
        *lock(&self.launch_end) = launch.map(|launch| Instant::now() + launch.limit);
        self.placement()
            .begin(threads, &sched.first, launch, sched.core_sched)
    }

    /// Has vCPUs and devices stand still, as [`Live::look`] tells. A machine that is about to
    /// end can't wait so.
    pub fn pause(&self) -> Result<()> {
        self.not_stopping()?;
        self.control.pause();
        Ok(())
    }

    /// Whether they stand still.
    pub fn look(&self) -> Poll<Result<()>> {
        match self.not_stopping() {
            Ok(()) => self.control.look(),
            gone => Poll::Ready(gone),
        }
    }

    fn not_stopping(&self) -> Result<()> {
        match self.stopping() {
            true => Err(Error::Gone("the machine is being stopped".into())),
            false => Ok(()),
        }
    }

    /// The guest has started: the launch class ends. What fails then is told; the
    /// machine runs on.
    pub fn started(&self) {
        lock(&self.launch_end).take();
        let mut placement = self.placement();
        if !placement.launching() {
            return;
        }
        match placement.started() {
            Ok(()) => log::info!("the guest has started: the launch class ends"),
            Err(error) => log::error!("the launch class stays: {error}"),
        }
    }

    /// Presses the power button; when `timeout` is over, the machine ends with `end`.
    /// A machine that is paused goes on, or it could not power off.
    pub fn stop(&self, timeout: Duration, end: End) {
        let at = Instant::now() + timeout;
        {
            let mut stop = lock(&self.stop);
            // A second one may shorten the time, not lengthen it.
            if stop.is_none_or(|stop| at < stop.at) {
                *stop = Some(Stop { at, end });
            }
        }
        log::info!("the guest's power button is pressed");
        self.power_button.press();
        self.control.resume();
        // Fails only when 2^64 - 1 of them wait already.
        let _ = self.changed.write(1);
    }

    /// Whether the guest has been asked to power off.
    pub fn stopping(&self) -> bool {
        lock(&self.stop).is_some()
    }

    /// How long until [`Live::due`] has something to do; none: not until `changed`.
    pub fn next(&self) -> Option<Duration> {
        let stop = lock(&self.stop).map(|stop| stop.at);
        let next = [stop, *lock(&self.launch_end)].into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Does what has become due.
    pub fn due(&self) {
        let _ = self.changed.read();
        let now = Instant::now();
        if lock(&self.launch_end).is_some_and(|at| at <= now) {
            log::warn!(
                "the guest did not say that it has started (--launch-until): \
                 the launch class ends by --launch-limit"
            );
            self.started();
        }
        let stop = *lock(&self.stop);
        if let Some(stop) = stop.filter(|stop| stop.at <= now) {
            self.ender.end(stop.end);
        }
    }

    /// How its threads run.
    pub fn placement(&self) -> MutexGuard<'_, Placement> {
        lock(&self.placement)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
