//! On a host of many VMs KVM's counters in debugfs are read by turns.

mod tree;

use tempfile::TempDir;
use vmfirst_host::model::{FILES_A_LOOK, Sample, Sampler, Vm, find, rates};
use vmfirst_host::read::Root;

/// VMs that fit into one look: each has its counters' files, and its limit's.
const FIT: usize = FILES_A_LOOK / (tree::STOCK_COUNTERS.len() + 1);

/// A host of many VMs.
struct Host {
    folder: TempDir,
    vms: Vec<Vm>,
    sampler: Sampler,
}

impl Host {
    fn new(vms: usize) -> Self {
        let (folder, root) = tree::host();
        for vm in 0..vms {
            tree::add_qemu(folder.path(), pid(vm), &vm.to_string());
        }
        let vms = find(&root).vms;
        let sampler = Sampler::of_vcpus(root);
        Self {
            folder,
            vms,
            sampler,
        }
    }

    /// Has all VMs' counters say `value`, and looks.
    fn look(&mut self, value: u64) -> Sample {
        for vm in &self.vms {
            tree::count(self.folder.path(), vm.pid, value);
        }
        self.sampler.look(&self.vms)
    }
}

fn pid(vm: usize) -> i32 {
    1000 + 10 * i32::try_from(vm).unwrap()
}

/// How many VMs were seen to have counted so far.
fn seen(sample: &Sample, value: u64) -> usize {
    let counts = sample.vms.values().map(|vm| vm.kvm.get("exits"));
    counts.filter(|exits| *exits == Some(value)).count()
}

#[test]
fn each_vms_turn_comes_within_so_many_looks() {
    let vms = 3 * FIT + 1;
    let mut host = Host::new(vms);
    host.look(1);
    host.look(2);
    let looks: Vec<usize> = (0..4).map(|_| seen(&host.look(3), 3)).collect();
    assert_eq!(looks, [FIT, 2 * FIT, 3 * FIT, vms]);
    // And again, beginning with the one whose turn is longest ago.
    let sample = host.look(4);
    assert_eq!((seen(&sample, 4), seen(&sample, 3)), (FIT, vms - FIT));
}

#[test]
fn vms_that_fit_into_a_look_are_read_at_each() {
    let mut host = Host::new(FIT);
    for value in 1..6 {
        assert_eq!(seen(&host.look(value), value), FIT);
    }
}

/// `vmfirst stat` takes two looks; `--prometheus` takes one.
#[test]
fn the_first_two_looks_tell_of_all() {
    let mut host = Host::new(2 * FIT);
    let before = host.look(1);
    assert_eq!(seen(&before, 1), 2 * FIT);
    let after = host.look(1001);
    assert_eq!(seen(&after, 1001), 2 * FIT);
    let (_, rates) = rates(&host.vms, &before, &after, 2);
    for rates in rates {
        let exits = rates.counted.kvm.get("exits").unwrap();
        let counted = exits * rates.counted.seconds;
        assert!((counted - 1000.0).abs() < 1e-6, "{counted}");
    }
}

/// It does not wait for its turn, and the others lose none by it.
#[test]
fn a_vm_that_is_new_has_rates_at_its_second_look() {
    let mut host = Host::new(2 * FIT);
    host.look(1);
    host.look(2);
    let new = pid(2 * FIT);
    tree::add_qemu(host.folder.path(), new, "new");
    host.vms = find(&Root::at(host.folder.path())).vms;
    let before = host.look(3);
    let after = host.look(4);
    assert_eq!(seen(&after, 3) + seen(&after, 4), 2 * FIT + 1);
    let (_, rates) = rates(&host.vms, &before, &after, 2);
    let at = host.vms.iter().position(|vm| vm.pid == new).unwrap();
    assert!(rates[at].counted.kvm.get("exits").unwrap() > 0.0);
}

/// No VM is without rates while it waits for its turn, whichever was the last.
#[test]
fn what_was_told_holds_until_the_next_turn() {
    let mut host = Host::new(2 * FIT);
    let mut before = host.look(1);
    for value in 2..8 {
        let after = host.look(value);
        let (_, rates) = rates(&host.vms, &before, &after, 2);
        let told = rates.iter().filter(|rates| {
            let exits = rates.counted.kvm.get("exits").unwrap_or_default();
            exits > 0.0 && rates.counted.seconds > 0.0
        });
        assert_eq!(told.count(), 2 * FIT, "{value}");
        before = after;
    }
}
