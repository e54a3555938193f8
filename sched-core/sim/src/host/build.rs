//! A host from a scenario.

use std::sync::Arc;

use sched_core::cascade::Vcpu;
use sched_core::debooster::{self, Mode as CoreMode, TaskState};
use sched_core::eevdf::Entity;
use sched_core::ipi::Record;
use sched_core::vmf::Account;
use sched_core::weight::LoadWeight;

use super::compare::{Compared, OnCpu};
use super::halt::Polling;
use super::rwsem::Sem;
use super::{Costs, Cpu, Host, Lock, NO_VM, Task, TaskId, Vm, Where};
use crate::cpuset::CpuSet;
use crate::guest::{Guest, State};
use crate::policy::{Mode, Policy};
use crate::queue::{Queue, Times};
use crate::scenario::{Action, Class, Layout, Scenario, Start, Step, VmSpec};
use crate::stats::Stats;
use crate::timers::Timers;

/// VMs start within this, ns.
const START_NS: u64 = 10_000_000;

impl Host {
    /// The host of `scenario` under `policy`. Equal seeds make equal hosts.
    pub fn new(scenario: &Scenario, policy: &Policy, seed: u64) -> Self {
        let spec = &scenario.host;
        let cpus = spec.cpus.get() as usize;
        let tick = 1_000_000_000 / spec.hz.get();
        let base_slice = spec
            .base_slice_ns
            .map_or_else(|| default_slice(cpus), |s| s.get());
        let hogs = scenario.hogs.as_ref().map_or(0, |h| h.count.get());
        let tasks = (scenario.vcpus() + hogs) as usize;
        let mut host = Self {
            now: 0,
            times: Times { tick, base_slice },
            core: debooster::Host { tick, base_slice },
            slice_end: spec.slice_end,
            layout: spec.layout,
            llc: spec.llc_cpus.get() as usize,
            costs: costs(scenario),
            halt_poll_ns: spec.halt_poll_ns.get(),
            policy: policy.clone(),
            tunables: debooster::Tunables {
                mode: match policy.mode {
                    Mode::Ours(mode) => mode,
                    Mode::Off | Mode::V2 | Mode::V3 | Mode::Hier => CoreMode::Lend,
                },
                ..policy.tunables
            },
            vmf: scenario.vm.iter().any(|vm| vm.class == Class::Vmf),
            cpus: (0..cpus).map(|_| cpu()).collect(),
            groups: Vec::new(),
            group_of: Vec::new(),
            tasks: Vec::with_capacity(tasks),
            vms: Vec::new(),
            timers: Timers::new(2 * cpus + tasks),
            to_resched: Vec::new(),
            to_rearm: Vec::new(),
            idle: CpuSet::new(cpus),
            overloaded: CpuSet::new(cpus),
            toggled: false,
            stats: Stats::default(),
        };
        let mut random = Guest::new(seed, 0);
        for vm in &scenario.vm {
            let steps: Arc<[Step]> = vm
                .steps
                .as_ref()
                .iter()
                .map(|s| s.as_ref().clone())
                .collect();
            for _ in 0..vm.count.as_ref().get() {
                host.add_vm(vm, &steps, scenario, &mut random);
            }
        }
        if host.layout != Layout::Flat {
            host.group_of = vec![u32::MAX; host.vms.len() * cpus];
        }
        host.start(scenario, &mut random);
        host
    }

    fn add_vm(
        &mut self,
        spec: &VmSpec,
        steps: &Arc<[Step]>,
        scenario: &Scenario,
        random: &mut Guest,
    ) {
        let shares = spec.weight.get() * 1024 / 100;
        let first = self.tasks.len() as u32;
        let weight = match self.layout {
            Layout::Flat => shares as u32,
            Layout::Vm | Layout::Vcpu => 1024,
        };
        let window = scenario.host.cost.spin_window_ns.get();
        for _ in 0..spec.vcpus.as_ref().get() {
            let guest = Guest::new(random.below(u64::MAX), window);
            self.add_task(self.vms.len() as u32, weight, spec.class, guest);
        }
        let most = |action| {
            let of = spec.steps.as_ref().iter().map(|s| s.as_ref());
            let locks = of.filter(|s| s.action == action).map(|s| s.locks.get());
            0..locks.max().unwrap_or(0)
        };
        for cpu in &mut self.cpus {
            cpu.vmf_accounts.push(Account::default());
        }
        self.vms.push(Vm {
            first,
            vcpus: spec.vcpus.as_ref().get() as u32,
            shares,
            weight: 0,
            steps: steps.clone(),
            spinlocks: most(Action::Spinlock).map(|_| Lock::default()).collect(),
            mutexes: most(Action::Mutex).map(|_| Lock::default()).collect(),
            sems: most(Action::Rwsem).map(|_| Sem::default()).collect(),
            arrived: 0,
            last_boosted: 0,
            seen: vec![
                Vcpu {
                    blocking: true,
                    wants_to_run: true,
                    scheduled_out: true,
                    ..Vcpu::default()
                };
                spec.vcpus.as_ref().get() as usize
            ],
            in_vain: Vec::new(),
            workload: Arc::from(spec.workload.as_ref().as_str()),
        });
    }

    fn add_task(&mut self, vm: u32, weight: u32, class: Class, guest: Guest) {
        let load = LoadWeight::from_load(u64::from(weight) << 10);
        self.tasks.push(Task {
            entity: Entity::new(load, self.times.base_slice),
            place: Where::Asleep,
            cpu: 0,
            pinned: vm == NO_VM,
            class,
            vtime: 0,
            vm,
            guest,
            in_spin: false,
            record: Record::default(),
            compare: Compared::default(),
            yields: TaskState::default(),
            yielded_to_at: None,
            polling: Polling::default(),
            waiting_since: 0,
            ran_until: 0,
            run_ns: 0,
            delay_ns: 0,
        });
    }

    /// Each vCPU begins a round at a time of its own. CPUs are dealt out at random, as many
    /// vCPUs to each; if they are spread, so that a VM's vCPUs begin on different ones.
    fn start(&mut self, scenario: &Scenario, random: &mut Guest) {
        let cpus = self.cpus.len();
        let vcpus = self.tasks.len();
        let mut place: Vec<usize> = (0..vcpus).map(|n| n % cpus).collect();
        if !scenario.host.pinned {
            let lap = match scenario.host.start {
                Start::Spread => cpus,
                Start::Random => vcpus,
            };
            for lap in place.chunks_mut(lap) {
                for n in (1..lap.len()).rev() {
                    lap.swap(n, random.below(n as u64 + 1) as usize);
                }
            }
        }
        for (task, &cpu) in place.iter().enumerate() {
            let steps = self.vms[self.tasks[task].vm as usize].steps.len();
            let state = &mut self.tasks[task];
            (state.cpu, state.pinned) = (cpu as u32, scenario.host.pinned);
            state.guest.step = steps as u32 - 1;
            let at = random.below(START_NS);
            match scenario.host.start {
                Start::Spread => {
                    state.guest.wait(State::Sleep);
                    self.timers.set((2 * cpus + task) as u32, at);
                }
                // Nobody is idle, so everybody stays where it is.
                Start::Random => {
                    state.guest.run(at, false);
                    self.enqueue(task as TaskId, cpu);
                }
            }
        }
        for cpu in 0..cpus {
            self.idle.set(cpu, true);
            self.cpus[cpu].phase = random.below(self.times.tick);
            let at = random.below(self.balance_interval(cpu));
            self.timers.set((cpus + cpu) as u32, at);
            self.schedule(cpu);
        }
        self.add_hogs(scenario);
    }

    fn add_hogs(&mut self, scenario: &Scenario) {
        let Some(hogs) = &scenario.hogs else { return };
        let weight = (hogs.weight.get() * 1024 / 100) as u32;
        for n in 0..hogs.count.get() as usize {
            let task = self.tasks.len() as u32;
            let mut guest = Guest::new(0, 0);
            guest.run(u64::MAX / 2, false);
            self.add_task(NO_VM, weight, Class::Fair, guest);
            self.enqueue(task, n % self.cpus.len());
            self.tasks[task as usize].cpu = (n % self.cpus.len()) as u32;
            self.schedule(n % self.cpus.len());
        }
    }
}

fn cpu() -> Cpu {
    Cpu {
        root: Queue::default(),
        vmf: Box::default(),
        vmf_accounts: Vec::new(),
        balance_failed: 0,
        picked_at: 0,
        vmf_give_way: false,
        fair_waits_since: None,
        fair_until: 0,
        curr: None,
        charged: 0,
        synced: 0,
        slice_end: u64::MAX,
        phase: 0,
        nr: 0,
        delayed: 0,
        resched: false,
        rearm: false,
        compare: OnCpu::default(),
    }
}

/// 0.7 ms * (1 + log2 of the CPUs, at most 8) (`update_sysctl`).
fn default_slice(cpus: usize) -> u64 {
    700_000 * u64::from(1 + cpus.min(8).ilog2())
}

fn costs(scenario: &Scenario) -> Costs {
    let cost = &scenario.host.cost;
    Costs {
        switch: cost.switch_ns.get(),
        spin_exit: cost.spin_exit_ns.get(),
        look: cost.look_ns.get(),
        yielding: cost.yield_ns.get(),
        send: cost.send_ns.get(),
        halt: cost.halt_ns.get(),
        wake: cost.wake_ns.get(),
    }
}
