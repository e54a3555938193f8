//! The series' test among the kernel's own, in tools/testing/selftests/kvm, passes.

use dense_record::job::{Done, Job};
use e2e::{host_of_selftest, launch, run_host};

#[test]
fn the_kernels_own_test_of_yields_passes() {
    let job = Job::Launches(vec![launch("/vmfirst/spin_yield_test")]);
    let (output, done) = run_host(&host_of_selftest(), &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}: {}", String::from_utf8_lossy(&output.console));
    };
    // 4 would be a skip.
    assert_eq!(launched[0].code, Some(0), "{:?}", launched[0]);
    let told = launched[0].console.join("\n");
    assert!(told.contains("2 receivers, tracking on"), "{told}");
}
