//! The counters of VMs for Prometheus. Names have one prefix and a base unit; what libvirt's
//! exporters call the same stands in HELP.

use std::collections::BTreeMap;

use crate::exposition::{Family, escaped, written};
use crate::model::{Sample, Vm};
use crate::read::Root;

/// All counters of these VMs.
pub fn text(root: &Root, vms: &[Vm], sample: &Sample) -> String {
    let mut info = Family::new(
        "vmfirst_vm_info",
        "gauge",
        "A VM that runs: its VMM, pod and control group.",
    );
    let mut vcpus = Family::new(
        "vmfirst_vm_vcpus",
        "gauge",
        "vCPUs of a VM (libvirt: libvirt_domain_info_virtual_cpus).",
    );
    let mut run = Family::new(
        "vmfirst_vcpu_run_seconds_total",
        "counter",
        "Time that a vCPU's thread ran (libvirt: libvirt_domain_vcpu_time_seconds_total).",
    );
    let mut delay = Family::new(
        "vmfirst_vcpu_run_delay_seconds_total",
        "counter",
        "Time that a vCPU could have run and had no CPU: CPU ready, steal time (libvirt: \
         libvirt_domain_vcpu_delay_seconds_total; KubeVirt: kubevirt_vmi_vcpu_delay_seconds_total).",
    );
    let mut turns = Family::new(
        "vmfirst_vcpu_turns_total",
        "counter",
        "How often a vCPU's thread got a CPU.",
    );
    let mut io_delay = Family::new(
        "vmfirst_io_run_delay_seconds_total",
        "counter",
        "Time that threads that serve a VM's devices could have run and had no CPU.",
    );
    let mut kvm = Family::new(
        "vmfirst_vm_kvm_total",
        "counter",
        "KVM's counters of a VM, its vCPUs together, by the kernel's name.",
    );
    let mut vcpu_kvm = Family::new(
        "vmfirst_vcpu_kvm_total",
        "counter",
        "KVM's counters of a vCPU, by the kernel's name, where its VMM has its statistics files open.",
    );
    let mut periods = Family::new(
        "vmfirst_vm_cpu_periods_total",
        "counter",
        "Periods of cpu.max: nr_periods of cpu.stat.",
    );
    let mut throttled = Family::new(
        "vmfirst_vm_cpu_throttled_periods_total",
        "counter",
        "Periods in which the VM ran out of quota: nr_throttled of cpu.stat.",
    );
    let mut held = Family::new(
        "vmfirst_vm_cpu_throttled_seconds_total",
        "counter",
        "Time that the VM was held off by its quota: throttled_usec of cpu.stat.",
    );
    for (id, vm) in ids(vms).iter().zip(vms) {
        let id = ("vm", id.as_str());
        let Some(look) = sample.vms.get(&(vm.pid, vm.start)) else {
            continue;
        };
        let pid = vm.pid.to_string();
        info.add(
            &[
                id,
                ("vmm", vm.vmm.name()),
                ("pid", &pid),
                ("pod", vm.pod.as_deref().unwrap_or_default()),
                ("cgroup", vm.cgroup.as_deref().unwrap_or_default()),
            ],
            1.0,
        );
        vcpus.add(&[id], vm.vcpus as f64);
        for (number, task) in vm.vcpu_tasks() {
            let Some(times) = look.tasks.get(&task.tid) else {
                continue;
            };
            let number = number.to_string();
            let labels = [id, ("vcpu", number.as_str())];
            run.add(&labels, times.run_ns as f64 / 1e9);
            delay.add(&labels, times.delay_ns as f64 / 1e9);
            turns.add(&labels, times.turns as f64);
        }
        let io = vm.io_tasks().filter_map(|task| look.tasks.get(&task.tid));
        io_delay.add(
            &[id],
            io.map(|times| times.delay_ns).sum::<u64>() as f64 / 1e9,
        );
        for (name, count) in look.kvm.iter() {
            kvm.add(&[id, ("counter", name)], count as f64);
        }
        for (number, counts) in &look.vcpus {
            let number = number.to_string();
            for (name, count) in counts.iter() {
                let labels = [id, ("vcpu", number.as_str()), ("counter", name)];
                vcpu_kvm.add(&labels, count as f64);
            }
        }
        if let Some(throttling) = look.throttling {
            periods.add(&[id], throttling.nr_periods as f64);
            throttled.add(&[id], throttling.nr_throttled as f64);
            held.add(&[id], throttling.throttled_usec as f64 / 1e6);
        }
    }
    let mut host_idle = Family::new(
        "vmfirst_host_idle_seconds_total",
        "counter",
        "Time without a task to run, all CPUs together.",
    );
    host_idle.add(&[], sample.cpus.idle as f64 / 100.0);
    let mut host_steal = Family::new(
        "vmfirst_host_steal_seconds_total",
        "counter",
        "Time that was taken from this host, where it is a VM itself, all CPUs together.",
    );
    host_steal.add(&[], sample.cpus.steal as f64 / 100.0);
    let mut cpus = Family::new("vmfirst_host_cpus", "gauge", "CPUs that are online.");
    cpus.add(&[], root.topology().unwrap_or_default().cpus as f64);
    let mut pressure = Family::new(
        "vmfirst_host_cpu_pressure_seconds_total",
        "counter",
        "Time that some task waited for a CPU: PSI.",
    );
    if let Some(found) = sample.pressure {
        pressure.add(&[], found.some_usec as f64 / 1e6);
    }
    let families = [
        info, vcpus, run, delay, turns, io_delay, kvm, vcpu_kvm, periods, throttled, held,
        host_idle, host_steal, cpus, pressure,
    ];
    written(&families)
}

/// A label for each VM: its name, and its process's id where several have that name.
fn ids(vms: &[Vm]) -> Vec<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    let names: Vec<String> = vms.iter().map(|vm| escaped(&vm.name)).collect();
    names
        .iter()
        .for_each(|name| *counts.entry(name.clone()).or_default() += 1);
    let ids = vms.iter().zip(&names).map(|(vm, name)| match counts[name] {
        1 => vm.name.clone(),
        _ => format!("{} ({})", vm.name, vm.pid),
    });
    ids.collect()
}
