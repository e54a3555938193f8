//! What one look of `vmfirst stat --watch` costs: 1000 VMs of two vCPUs on a generated
//! tree in a tmpfs (no kernel behind the files), and 2000 threads of this process by the
//! kernel's own /proc. What is measured is CPU time of this thread, not time of the clock, so
//! that other work on the machine is not in it. At 1 Hz a look of 10 ms is 1 % of a CPU.

#![allow(missing_docs, reason = "of criterion's macro")]

#[path = "../tests/tree/mod.rs"]
mod tree;

use std::time::Duration;

use criterion::{Bencher, Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use vmfirst_host::cli::stat::Watch;
use vmfirst_host::model::{Finder, Sampler, find, rates};
use vmfirst_host::read::{self, Meter, Root};

const VMS: i32 = 1000;

/// CPU time of doing it.
fn measure<T>(bencher: &mut Bencher, mut work: impl FnMut() -> T) {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    bencher.iter_custom(|times| {
        let start = now();
        for _ in 0..times {
            std::hint::black_box(work());
        }
        now() - start
    });
}

fn generated(criterion: &mut Criterion) {
    let (folder, root) = tree::host();
    for vm in 0..VMS {
        tree::add_qemu(folder.path(), 1000 + 10 * vm, &vm.to_string());
    }
    read::allow_many_files();
    let vms = find(&root).vms;
    assert_eq!(vms.len(), VMS as usize);
    let mut sampler = Sampler::of_vcpus(root.clone());
    let before = sampler.look(&vms);
    criterion.bench_function("look at 1000 VMs of 2 vCPUs, generated tree", |b| {
        measure(b, || {
            let after = sampler.look(&vms);
            rates(&vms, &before, &after, 64)
        })
    });
    // Interval by interval as vmfirst stat --watch does it, all that it finds and prints included.
    let mut watch = Watch::new(root.clone(), Vec::new(), Duration::from_secs(1)).unwrap();
    criterion.bench_function("a minute of 1000 VMs at 1 Hz, generated tree", |b| {
        measure(b, || {
            for _ in 0..60 {
                let (host, rates) = watch.step();
                std::hint::black_box(watch.table(&host, &rates));
                watch.refresh();
            }
        })
    });
    // What is done every tenth second. One in six of these finds all anew.
    let (mut finder, _) = Finder::new(root.clone());
    criterion.bench_function("find what changed of 1000 VMs, generated tree", |b| {
        measure(b, || finder.again())
    });
    criterion.bench_function("find 1000 VMs, generated tree", |b| {
        measure(b, || find(&root))
    });
}

fn kernel(criterion: &mut Criterion) {
    let (end, ends) = std::sync::mpsc::channel::<()>();
    let ends = std::sync::Arc::new(std::sync::Mutex::new(ends));
    for _ in 0..2 * VMS {
        let ends = ends.clone();
        std::thread::Builder::new()
            .stack_size(16 << 10)
            .spawn(move || drop(ends.lock().map(|ends| ends.recv())))
            .unwrap();
    }
    let pid = std::process::id() as i32;
    let root = Root::default();
    let threads = root.threads(pid).unwrap();
    let meters: Vec<_> = threads
        .iter()
        .map(|&tid| Meter::new(&root, pid, tid).unwrap())
        .collect();
    criterion.bench_function("read times of 2000 threads, this kernel's /proc", |b| {
        measure(b, || {
            meters.iter().filter(|meter| meter.read().is_ok()).count()
        })
    });
    drop(end);
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = generated, kernel
}
criterion_main!(benches);
