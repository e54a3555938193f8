//! What of a vCPU's placement is neither class nor CPUs nor group, read back from outside.

use std::fs;
use std::time::Duration;

use vmfirst_host::act::cookie;
use vmm::sched::{Slice, Tid, Uclamp};

use crate::guests::{Running, start};
use crate::payload::Payload;
use crate::{no_kvm, skip};

fn machine(options: &[&str]) -> Running {
    start(Payload::default().print("x").halt(), options)
}

fn of_vcpu(machine: &Running) -> Tid {
    let tasks = fs::read_dir(format!("/proc/{}/task", machine.vmm.id())).unwrap();
    let named = |entry: fs::DirEntry| {
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim() == "vcpu0").then(|| entry.file_name().to_str()?.parse().ok())?
    };
    tasks.flatten().find_map(named).unwrap()
}

#[test]
fn a_vcpu_has_the_slice_that_was_asked_for() {
    if no_kvm() {
        return;
    }
    if Slice::of(0).unwrap().is_none() {
        return skip("this kernel has no slice for each thread");
    }
    let host = Slice::of(of_vcpu(&machine(&[]))).unwrap();
    let asked = Some(Duration::from_micros(700));
    assert_ne!(host, asked);
    let slice = ["--vcpu-slice", "0.7ms"];
    assert_eq!(Slice::of(of_vcpu(&machine(&slice))).unwrap(), asked);
    // With a class of slices after a launch class without.
    let launch = ["--launch-class", "rr:5", "--launch-until", "x"];
    let launched = machine(&[&slice[..], &launch].concat());
    crate::wait_until("the slice", || {
        Slice::of(of_vcpu(&launched)).unwrap() == asked
    });
}

#[test]
fn a_vcpu_has_the_clamps_that_were_asked_for_or_there_is_no_machine() {
    if no_kvm() {
        return;
    }
    let kernel = Payload::default().print("x").power_off().elf();
    let output = crate::vmm(kernel.path())
        .args(["--vcpu-uclamp", "100:900"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() != Some(0) {
        assert_eq!(
            (output.status.code(), errors.lines().count()),
            (Some(1), 1),
            "{errors}"
        );
        assert!(errors.contains("utilisation clamps"), "{errors}");
        return skip("this kernel has no utilisation clamps");
    }
    let machine = machine(&["--vcpu-uclamp", "100:900"]);
    assert_eq!(
        Uclamp::of(of_vcpu(&machine)).unwrap().to_string(),
        "100:900"
    );
}

/// Where cores have one thread a cookie can't be had: asked for, that is an error, and no
/// guest has run.
#[test]
fn a_cookie_that_was_asked_for_is_there_or_there_is_no_machine() {
    if no_kvm() {
        return;
    }
    let has_cookies = cookie::of(0).is_ok();
    for (scope, [main, vcpu]) in [("off", [0, 0]), ("vm", [1, 1]), ("vcpu", [1, 2])] {
        let asked = ["--core-sched", scope];
        if main == 0 || has_cookies {
            let machine = machine(&asked);
            let found = [machine.vmm.id() as Tid, of_vcpu(&machine)];
            let found = found.map(|tid| cookie::of(tid).unwrap_or_default());
            assert_eq!(found[0] != 0, main != 0, "{scope}: {found:x?}");
            assert_eq!(found[0] == found[1], main == vcpu, "{scope}: {found:x?}");
            continue;
        }
        let kernel = Payload::default().print("x").power_off().elf();
        let output = crate::vmm(kernel.path()).args(asked).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{scope}: {errors}");
        assert!(errors.contains("core scheduling"), "{scope}: {errors}");
        assert!(output.stdout.is_empty());
    }
}
