//! The host: CPUs, their runqueues, the VMs' threads, and the loop of events.
//!
//! Time passes only from event to event, and an event touches the CPUs that it concerns:
//! nothing is done at ticks that change nothing. What a CPU has run is charged when
//! somebody looks.

mod balance;
mod build;
mod compare;
mod delay;
mod directed;
mod fair;
mod halt;
mod happen;
mod rwsem;
mod spin;
mod vmf;

use sched_core::cascade::Vcpu;
use sched_core::debooster::{self, TaskState, Tunables};
use sched_core::eevdf::Entity;
use sched_core::ipi::Record;
use sched_core::vmf as vmf_queue;
use smallvec::SmallVec;

use crate::cpuset::CpuSet;
use crate::guest::Guest;
use crate::policy::Policy;
use crate::queue::{Id, Queue, Times};
use crate::scenario::{Class, Layout, SliceEnd, Step};
use crate::stats::Stats;
use crate::timers::{NEVER, Timers};

/// A thread of the host, by number: vCPUs first.
pub type TaskId = u32;

/// The bit that tells a group's id from a task's on a CPU's top level.
const GROUP: Id = 1 << 31;
/// Words of a record's bitmap: for the most vCPUs of a VM.
const RECORD_WORDS: usize = crate::scenario::MOST_VM_VCPUS as usize / 64;
/// VMF tasks that one CPU can have.
const VMF_ROOM: usize = 128;
/// No VM: an ordinary thread.
const NO_VM: u32 = u32::MAX;

/// Where a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Asleep,
    /// Asleep, but still queued: it owes.
    Delayed,
    Waiting,
    Running,
}

impl Where {
    fn sleeps(self) -> bool {
        matches!(self, Self::Asleep | Self::Delayed)
    }
}

/// In the order of how often fields are looked at: an event costs the cache lines that it
/// touches.
#[derive(Debug)]
#[repr(C, align(64))]
struct Task {
    run_ns: u64,
    cpu: u32,
    vm: u32,
    place: Where,
    class: Class,
    pinned: bool,
    /// In `kvm_vcpu_on_spin()`.
    in_spin: bool,
    guest: Guest,
    waiting_since: u64,
    ran_until: u64,
    delay_ns: u64,
    yielded_to_at: Option<u64>,
    polling: halt::Polling,
    /// While asleep; else in its queue.
    entity: Entity,
    /// Its last IPI.
    record: Record<RECORD_WORDS>,
    yields: TaskState,
    /// In the class VMF.
    vtime: u64,
    /// Of the comparison variants: its last IPI.
    compare: compare::Compared,
}

/// In the order of how often fields are looked at.
#[derive(Debug)]
#[repr(C, align(64))]
struct Cpu {
    curr: Option<TaskId>,
    /// Until when what ran is charged, and until when its guest got on.
    charged: u64,
    synced: u64,
    /// When the current request is used up, as the kernel will notice.
    slice_end: u64,
    /// When its ticks come: CPUs tick at different times.
    phase: u64,
    /// Since when the running task runs.
    picked_at: u64,
    /// Queued threads, and how many of them sleep.
    nr: u32,
    delayed: u32,
    resched: bool,
    rearm: bool,
    /// The running VMF task is to make room.
    vmf_give_way: bool,
    root: Queue,
    /// Since when VMF keeps fair waiting, and until when fair has its floor.
    fair_waits_since: Option<u64>,
    fair_until: u64,
    /// How often in a row it balanced in vain.
    balance_failed: u32,
    vmf: Box<vmf_queue::Queue<VMF_ROOM>>,
    /// Of each VM.
    vmf_accounts: Vec<vmf_queue::Account>,
    /// Of the comparison variants.
    compare: compare::OnCpu,
}

/// A VM's cgroup on one CPU.
#[derive(Debug)]
struct Group {
    /// While nobody is in its queue.
    entity: Entity,
    queue: Queue,
    /// Nobody is in its queue, but it is still in its CPU's: it owes.
    delayed: bool,
}

#[derive(Debug, Default)]
struct Lock {
    owner: Option<TaskId>,
    /// In order of arrival.
    waiters: SmallVec<[TaskId; 4]>,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Vm {
    first: TaskId,
    vcpus: u32,
    /// Weight of its runnable threads.
    weight: u64,
    steps: std::sync::Arc<[Step]>,
    /// vCPUs whose spin exits find nobody for now.
    in_vain: Vec<TaskId>,
    last_boosted: u32,
    /// How many are at the barrier.
    arrived: u32,
    /// What KVM sees of each vCPU.
    seen: Vec<Vcpu>,
    spinlocks: Vec<Lock>,
    mutexes: Vec<Lock>,
    sems: Vec<rwsem::Sem>,
    /// cpu.weight as shares: 1024 for 100.
    shares: u64,
    workload: std::sync::Arc<str>,
}

impl Vm {
    fn tasks(&self) -> std::ops::Range<TaskId> {
        self.first..self.first + self.vcpus
    }
}

/// Costs in ns.
#[derive(Debug)]
struct Costs {
    switch: u64,
    spin_exit: u64,
    look: u64,
    yielding: u64,
    send: u64,
    halt: u64,
    wake: u64,
}

/// A simulated host.
#[derive(Debug)]
pub struct Host {
    now: u64,
    times: Times,
    core: debooster::Host,
    slice_end: SliceEnd,
    layout: Layout,
    llc: usize,
    costs: Costs,
    /// For how long a halted vCPU is polled at most.
    halt_poll_ns: u64,
    policy: Policy,
    tunables: Tunables,
    /// Somebody is of the class VMF.
    vmf: bool,
    cpus: Vec<Cpu>,
    groups: Vec<Group>,
    /// Of a VM on a CPU, once it was there.
    group_of: Vec<u32>,
    tasks: Vec<Task>,
    vms: Vec<Vm>,
    /// A CPU's next event, a CPU's next balancing, a thread's wake-up.
    timers: Timers,
    to_resched: Vec<u32>,
    to_rearm: Vec<u32>,
    idle: CpuSet,
    overloaded: CpuSet,
    /// The last scan changed whose turn it is to be yielded to.
    toggled: bool,
    stats: Stats,
}

impl Host {
    /// Lets `ns` of virtual time pass.
    pub fn run(&mut self, ns: u64) {
        let end = self.now + ns;
        self.follow_up();
        while let Some((at, id)) = self.timers.first().filter(|(at, _)| *at <= end) {
            self.now = at;
            self.stats.events += 1;
            self.event(id as usize);
            self.follow_up();
        }
        self.now = end;
        for cpu in 0..self.cpus.len() {
            self.sync(cpu);
            self.update_curr(cpu);
        }
    }

    /// What an event has asked for, before time goes on.
    fn follow_up(&mut self) {
        while let Some(cpu) = self.to_resched.pop() {
            self.schedule(cpu as usize);
        }
        while let Some(cpu) = self.to_rearm.pop() {
            self.set_timer(cpu as usize);
        }
    }

    fn event(&mut self, id: usize) {
        let cpus = self.cpus.len();
        match id {
            id if id < cpus => self.cpu_event(id),
            id if id < 2 * cpus => self.periodic_balance(id - cpus),
            id => self.timer_fires((id - 2 * cpus) as TaskId),
        }
    }

    /// Something is due on a CPU: its guest does something, or its slice ends.
    fn cpu_event(&mut self, cpu: usize) {
        self.sync(cpu);
        if self.now >= self.cpus[cpu].slice_end {
            self.update_curr(cpu);
            self.kick_idle_balance(cpu);
        }
        self.happenings(cpu);
        self.rearm(cpu);
    }

    /// Has a CPU's guest get on to now.
    fn sync(&mut self, cpu: usize) {
        let cpu = &mut self.cpus[cpu];
        let ns = self.now - cpu.synced;
        cpu.synced = self.now;
        if let Some(task) = cpu.curr {
            self.tasks[task as usize].guest.progress(ns);
        }
    }

    /// A CPU's next event may be another one: looked up when this event is over.
    fn rearm(&mut self, cpu: usize) {
        if !self.cpus[cpu].rearm {
            self.cpus[cpu].rearm = true;
            self.to_rearm.push(cpu as u32);
        }
    }

    /// Sets the time of a CPU's next event.
    fn set_timer(&mut self, cpu: usize) {
        let state = &mut self.cpus[cpu];
        state.rearm = false;
        let at = match state.curr {
            None => NEVER,
            Some(task) => {
                let due = self.tasks[task as usize].guest.due();
                let due = due.map_or(NEVER, |due| state.synced + due);
                due.min(state.slice_end)
            }
        };
        self.timers.set(cpu as u32, at);
    }

    /// Has a CPU pick anew before time goes on.
    fn resched(&mut self, cpu: usize) {
        if !self.cpus[cpu].resched {
            self.cpus[cpu].resched = true;
            self.to_resched.push(cpu as u32);
        }
    }

    /// What it has counted since [`Host::begin_window`].
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Rounds of each VM since [`Host::begin_window`], and its workload.
    pub fn work(&self) -> Vec<(&str, u64)> {
        let rounds = |t: TaskId| self.tasks[t as usize].guest.rounds;
        let each = |vm: &Vm| vm.tasks().map(rounds).sum();
        self.vms
            .iter()
            .map(|vm| (&*vm.workload, each(vm)))
            .collect()
    }

    /// CPU time of each VM since [`Host::begin_window`], then of each ordinary thread, ns.
    pub fn cpu_time(&self) -> (Vec<u64>, Vec<u64>) {
        let run = |t: TaskId| self.tasks[t as usize].run_ns;
        let vms = self.vms.iter().map(|vm| vm.tasks().map(run).sum());
        let others = self.tasks.iter().filter(|t| t.vm == NO_VM);
        (vms.collect(), others.map(|t| t.run_ns).collect())
    }

    /// Time vCPUs had a CPU, waited for one, and spun, ns.
    pub fn vcpu_time(&self) -> [u64; 3] {
        let vcpus = self.tasks.iter().filter(|t| t.vm != NO_VM);
        vcpus.fold([0; 3], |[run, delay, spin], t| {
            [run + t.run_ns, delay + t.delay_ns, spin + t.guest.spin_ns]
        })
    }

    /// Spin exits of all vCPUs.
    pub fn spin_exits(&self) -> u64 {
        self.tasks.iter().map(|t| t.guest.exits).sum()
    }

    /// Forgets what was counted so far.
    pub fn begin_window(&mut self) {
        self.stats = Stats::default();
        for task in &mut self.tasks {
            (task.run_ns, task.delay_ns) = (0, 0);
            (task.guest.rounds, task.guest.spin_ns) = (0, 0);
            task.guest.exits = 0;
            task.waiting_since = self.now;
        }
    }
}
