//! Time: `cargo bench -p sched-core --bench hot`.

use std::hint::black_box;

use criterion::Criterion;

mod work;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for work in work::ALL {
        let mut call = (work.set_up)(1);
        criterion.bench_function(work.name, |b| b.iter(|| black_box(call())));
    }
    criterion.final_summary();
}
