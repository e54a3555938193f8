//! Pauses a machine: brings its vCPUs out of the guest and its devices to rest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::SIGRTMIN;

use crate::exit::Ender;
use crate::sched::Tid;
use crate::{Error, Result};

/// A kick can come just before a thread enters the guest, and is lost then: it is
/// repeated this often.
pub const KICK_INTERVAL: Duration = Duration::from_millis(1);
/// After which time a thread that doesn't come is given up: it waits for a disk, perhaps.
const LIMIT: Duration = Duration::from_secs(2);

/// One vCPU.
#[derive(Debug, Clone)]
struct Vcpu {
    tid: Tid,
    parked: bool,
}

#[derive(Debug, Default)]
struct State {
    vcpus: Vec<Vcpu>,
    /// Whether the devices are at rest.
    io_parked: bool,
    paused: bool,
    /// Until when all must stand still after a pause was asked for.
    limit: Option<Instant>,
}

impl State {
    fn at_rest(&self) -> bool {
        self.io_parked && self.vcpus.iter().all(|vcpu| vcpu.parked)
    }
}

/// All vCPUs and devices of a machine.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether a vCPU has to look at the state before it enters the guest.
    attention: AtomicBool,
    /// Written when the thread of the devices has to look.
    io_attention: EventFd,
    ender: Ender,
}

impl Control {
    /// For a machine that `ender` ends; it has no vCPUs yet.
    pub fn new(ender: Ender) -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK);
        Ok(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            attention: AtomicBool::new(false),
            io_attention: event.map_err(Error::system("create an event"))?,
            ender,
        })
    }

    /// Says which threads run the vCPUs.
    pub fn set_threads(&self, tids: &[Tid]) {
        let vcpu = |&tid| Vcpu { tid, parked: false };
        self.lock().vcpus = tids.iter().map(vcpu).collect();
    }

    /// What the thread of vCPU `id` calls before each entry into the guest: returns
    /// when it may enter, or the machine has ended.
    pub fn attend(&self, id: u8, fd: &VcpuFd) {
        if !self.attention.load(Ordering::Acquire) {
            return;
        }
        let park = |state: &mut State, parked| {
            if let Some(vcpu) = state.vcpus.get_mut(usize::from(id)) {
                vcpu.parked = parked;
            }
        };
        self.park(park, || {
            // So that the guest's watchdog doesn't take the pause for a lockup.
            // Fails where the guest doesn't use KVM's clock.
            let _ = fd.kvmclock_ctrl();
        });
    }

    /// What the thread of the devices calls when [`Control::io_attention`] was written:
    /// returns when they may go on, or the machine has ended.
    pub fn attend_io(&self) {
        let _ = self.io_attention.read();
        self.park(|state, parked| state.io_parked = parked, || {});
    }

    /// Readable when the thread of the devices has to look.
    pub fn io_attention(&self) -> &EventFd {
        &self.io_attention
    }

    /// Waits while the machine is paused; `begin` is called before that.
    fn park(&self, park: impl Fn(&mut State, bool), begin: impl FnOnce()) {
        let mut state = self.lock();
        let waits = |state: &State| state.paused && self.ender.ended().is_none();
        if !waits(&state) {
            return;
        }
        begin();
        park(&mut state, true);
        self.changed.notify_all();
        let waited = self.changed.wait_while(state, |state| waits(state));
        park(&mut waited.unwrap_or_else(PoisonError::into_inner), false);
    }

    /// Takes all vCPUs out of the guest and has devices begin nothing more. That takes a
    /// while: [`Control::look`] tells when all stand still.
    pub fn pause(&self) {
        let mut state = self.lock();
        if !state.paused {
            state.limit = Some(Instant::now() + LIMIT);
        }
        state.paused = true;
        self.ender.brake().pause(true);
        self.attention.store(true, Ordering::Release);
        // Fails only when 2^64 - 1 of them wait already.
        let _ = self.io_attention.write(1);
    }

    /// Whether all stand still after [`Control::pause`]. Who waits for that asks again after
    /// [`KICK_INTERVAL`]. A machine that does not come to rest in time goes on.
    pub fn look(&self) -> Poll<Result<()>> {
        let state = self.lock();
        let done = self.rest(&state);
        drop(state);
        if let Poll::Ready(Err(_)) = done {
            self.resume();
        }
        done
    }

    /// Lets them go on.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        state.limit = None;
        self.ender.brake().pause(false);
        self.attention.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether they are paused.
    pub fn paused(&self) -> bool {
        self.lock().paused
    }

    /// Wakes those that are paused: the machine has ended.
    pub fn wake(&self) {
        // Under the lock: whoever has just looked whether it has ended waits by now.
        let _state = self.lock();
        self.changed.notify_all();
    }

    fn rest(&self, state: &State) -> Poll<Result<()>> {
        if self.ender.ended().is_some() {
            return Poll::Ready(Err(Error::Gone("the machine has ended".into())));
        }
        if !state.paused {
            let error = "somebody let the machine go on before it stood still";
            return Poll::Ready(Err(Error::Busy(error.into())));
        }
        if state.at_rest() {
            return Poll::Ready(Ok(()));
        }
        if state.limit.is_some_and(|limit| Instant::now() > limit) {
            return Poll::Ready(Err(Error::Busy(format!(
                "the machine does not come to rest in {LIMIT:?}: does somebody read its \
                 console, and do its disks answer?"
            ))));
        }
        let inside = state.vcpus.iter().filter(|vcpu| !vcpu.parked);
        inside.for_each(|vcpu| kick(vcpu.tid));
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Interrupts a thread of this process in the guest or in a system call.
fn kick(tid: Tid) {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: tgkill has no memory of ours to do with; if the thread has ended it
    // reaches another of this process at most, where the signal's handler does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, SIGRTMIN()) };
}
