//! `vmm` boots a 4-vCPU Linux guest in the emulated host, from both kinds of
//! kernel image, and its exit status tells how the guest ended.

use dense_record::chosen::HostKernel;
use dense_record::job::{Done, Job, Launch, Launched};
use e2e::{parts, run};

/// A launch of the guest with the given kernel, extra words and last order.
fn launch(kernel: &str, cmdline: &str, order: &str) -> Launch {
    let cmdline = format!("console=ttyS0 nopv tsc=reliable panic=-1 {cmdline}");
    let command = [
        "/vmfirst/vmm",
        "run",
        "--kernel",
        kernel,
        "--initrd",
        "/vmfirst/guest/compute.cpio",
        "--cpus",
        "4",
        "--mem",
        "128M",
        "--cmdline",
        &cmdline,
    ];
    Launch {
        command: command.map(String::from).into(),
        input: format!("VMFIRST END {order}\n"),
    }
}

fn says(launched: &Launched, words: &str) -> bool {
    launched.console.iter().any(|line| line.contains(words))
}

#[test]
fn guests_boot_and_their_ends_are_told_apart() {
    const BZIMAGE: &str = "/vmfirst/guest/bzImage";
    const VMLINUX: &str = "/vmfirst/guest/vmlinux";
    let job = Job::Launches(vec![
        launch(BZIMAGE, "", "poweroff"),
        launch(VMLINUX, "", "poweroff"),
        launch(BZIMAGE, "", "reboot"),
        launch(BZIMAGE, "reboot=t", "reboot"),
        launch(BZIMAGE, "", "panic"),
        launch("/vmfirst/guest/nowhere", "", "poweroff"),
    ]);
    let parts = parts();
    let (_, done) = run(&parts, &parts.kernels[&HostKernel::Patched], &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}");
    };
    let codes: Vec<_> = launched.iter().map(|l| l.code).collect();
    let expected = [0, 0, 3, 4, 5, 1].map(Some);
    assert_eq!(codes, expected);
    for guest in &launched[..5] {
        assert!(says(guest, "smp: Brought up 1 node, 4 CPUs"), "{guest:?}");
        assert!(says(guest, "VMFIRST READY"), "{guest:?}");
    }
}
