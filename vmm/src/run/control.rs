//! Brings vCPUs out of the guest: to pause them, and to have them look up what only
//! their own threads can without a wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::SIGRTMIN;

use crate::exit::Ender;
use crate::sched::Tid;
use crate::{Error, Result};

/// A kick can come just before a thread enters the guest, and is lost then: it is
/// repeated this often.
const KICK_INTERVAL: Duration = Duration::from_millis(1);
/// After which time a vCPU that doesn't come is given up: its thread waits for
/// somebody to read the console, perhaps.
const LIMIT: Duration = Duration::from_secs(5);
/// The same for a question: the answer isn't worth a longer wait.
const QUESTION_LIMIT: Duration = Duration::from_millis(200);
/// Linux's asm/kvm_para.h: where the guest wants its steal time; bit 0 is "enabled".
const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const STEAL_ADDRESS: u64 = !0x3f;

/// One vCPU.
#[derive(Debug, Clone, Default)]
struct Vcpu {
    tid: Tid,
    parked: bool,
    /// The last question that it answered.
    answered: u64,
    steal: Option<u64>,
}

#[derive(Debug)]
struct State {
    vcpus: Vec<Vcpu>,
    paused: bool,
    /// The number of the last question.
    question: u64,
}

/// All vCPUs of a machine.
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether a vCPU has to look at the state before it enters the guest.
    attention: AtomicBool,
    ender: Ender,
}

impl Control {
    /// For a machine that `ender` ends; it has no vCPUs yet.
    pub fn new(ender: Ender) -> Self {
        Self {
            state: Mutex::new(State {
                vcpus: Vec::new(),
                paused: false,
                question: 0,
            }),
            changed: Condvar::new(),
            attention: AtomicBool::new(false),
            ender,
        }
    }

    /// Says which threads run the vCPUs.
    pub fn set_threads(&self, tids: &[Tid]) {
        self.lock().vcpus = tids
            .iter()
            .map(|&tid| Vcpu {
                tid,
                ..Vcpu::default()
            })
            .collect();
    }

    /// What the thread of vCPU `id` calls before each entry into the guest: returns
    /// when it may enter, or the machine has ended.
    pub fn attend(&self, id: u8, fd: &VcpuFd) {
        if !self.attention.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.lock();
        let mut clock_told = false;
        loop {
            let question = state.question;
            let paused = state.paused;
            let Some(vcpu) = state.vcpus.get_mut(usize::from(id)) else {
                return;
            };
            let news = vcpu.parked != paused || vcpu.answered != question;
            vcpu.parked = paused;
            if vcpu.answered != question {
                vcpu.answered = question;
                vcpu.steal = steal_address(fd);
            }
            if news {
                // Only then: other vCPUs that are parked wait for the same.
                self.changed.notify_all();
            }
            if !paused || self.ender.ended().is_some() {
                return;
            }
            if !std::mem::replace(&mut clock_told, true) {
                // So that the guest's watchdog doesn't take the pause for a lockup.
                // Fails where the guest doesn't use KVM's clock.
                let _ = fd.kvmclock_ctrl();
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes all vCPUs out of the guest; returns when the last one is.
    pub fn pause(&self) -> Result<()> {
        let mut state = self.lock();
        state.paused = true;
        self.attention.store(true, Ordering::Release);
        let parked = |state: &State| !state.paused || state.vcpus.iter().all(|v| v.parked);
        match self.wait_for(state, LIMIT, parked) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.resume();
                Err(error)
            }
        }
    }

    /// Lets them enter the guest again.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        self.settle(&state);
        self.changed.notify_all();
    }

    /// Whether they are paused.
    pub fn paused(&self) -> bool {
        self.lock().paused
    }

    /// Wakes the vCPUs that are paused: the machine has ended.
    pub fn wake(&self) {
        // Under the lock: who has just looked whether it has ended waits by now.
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// Where the guest wants each vCPU's steal time in its memory; none where it has
    /// not enabled that. It takes every vCPU out of the guest for a moment.
    pub fn steal_addresses(&self) -> Result<Vec<Option<u64>>> {
        let mut state = self.lock();
        state.question += 1;
        self.attention.store(true, Ordering::Release);
        self.changed.notify_all();
        let question = state.question;
        let answered = move |state: &State| state.vcpus.iter().all(|v| v.answered >= question);
        let state = self.wait_for(state, QUESTION_LIMIT, answered)?;
        self.settle(&state);
        Ok(state.vcpus.iter().map(|v| v.steal).collect())
    }

    /// Ends the attention that nobody needs any more.
    fn settle(&self, state: &State) {
        let answered = state.vcpus.iter().all(|v| v.answered == state.question);
        self.attention
            .store(state.paused || !answered, Ordering::Release);
    }

    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        time: Duration,
        done: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        let limit = Instant::now() + time;
        while !done(&state) {
            if self.ender.ended().is_some() {
                return Err(Error::Gone("the machine has ended".into()));
            }
            if Instant::now() > limit {
                return Err(Error::Busy(format!(
                    "a vCPU did not leave the guest in {time:?}: does anybody read the console?"
                )));
            }
            let inside = state.vcpus.iter().filter(|v| !v.parked);
            inside.for_each(|v| kick(v.tid));
            (state, _) = self
                .changed
                .wait_timeout(state, KICK_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
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

fn steal_address(fd: &VcpuFd) -> Option<u64> {
    let entry = kvm_msr_entry {
        index: MSR_KVM_STEAL_TIME,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    // A KVM without the feature, or one that the guest doesn't see, gives none.
    fd.get_msrs(&mut msrs).ok().filter(|&n| n == 1)?;
    let value = msrs.as_slice().first()?.data;
    (value & 1 == 1).then_some(value & STEAL_ADDRESS)
}
