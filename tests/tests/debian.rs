//! Debian's own cloud kernel, as it comes, boots to a shell and keeps what it
//! writes to its disk.

use dense_bench::host_init::{Done, Job};
use dense_bench::launch::{Launch, Launched};
use e2e::{host_of_debian, run_host};

const DISK: &str = "/run/disk.img";

/// A command on the host; what it reads comes when a guest says READY.
fn launch(command: &[&str], input: &str) -> Launch {
    Launch {
        command: command.iter().map(|word| word.to_string()).collect(),
        input: input.into(),
    }
}

/// A boot of Debian's kernel with a disk; its shell gets `input`.
fn boot(input: &str) -> Launch {
    let command = [
        "/vmfirst/vmm",
        "run",
        "--kernel",
        "/vmfirst/debian/vmlinuz",
        "--initrd",
        "/vmfirst/debian/initrd",
        "--disk",
        DISK,
        "--cpus",
        "2",
        "--mem",
        "256M",
        "--cmdline",
        "console=ttyS0 quiet panic=-1",
    ];
    launch(&command, input)
}

fn says(launched: &Launched, words: &str) -> bool {
    launched.console.iter().any(|line| line.contains(words))
}

#[test]
fn debians_kernel_boots_to_a_shell_with_a_disk() {
    // The words that are looked for come out of the shell only: the terminal
    // echoes its input, where they are in pieces.
    let write = "echo cpus-$(nproc) kernel-$(uname -r)\n\
        mount /dev/vda /mnt && dd if=/dev/urandom of=/mnt/data bs=64k count=64\n\
        cd /mnt && sha256sum data > sum && cd / && umount /mnt; echo written-$?\n\
        poweroff -f\n";
    let check = "mount -o ro /dev/vda /mnt && cd /mnt && sha256sum -c sum; echo checked-$?\n\
        poweroff -f\n";
    let job = Job::Launches(vec![
        launch(&["/sbin/mke2fs", "-q", "-F", "-t", "ext4", DISK, "16M"], ""),
        boot(write),
        boot(check),
    ]);
    let (_, done) = run_host(&host_of_debian(), &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}");
    };
    let codes: Vec<_> = launched.iter().map(|l| l.code).collect();
    assert_eq!(codes, [Some(0); 3], "{launched:?}");
    let [_, write, check] = &launched[..] else {
        panic!("{launched:?}");
    };
    assert!(says(write, "cpus-2 kernel-6.12"), "{write:?}");
    assert!(says(write, "-cloud-amd64"), "{write:?}");
    assert!(says(write, "written-0"), "{write:?}");
    assert!(says(check, "data: OK"), "{check:?}");
    assert!(says(check, "checked-0"), "{check:?}");
}
