//! Debian's own cloud kernel, as it comes, boots to a shell, keeps what it writes to its
//! disk and reaches its host by network.

use dense_record::job::{Done, Job, Launch, Launched};
use e2e::{host_of_debian, launch, run_host, tap};

const DISK: &str = "/run/disk.img";

/// A boot of Debian's kernel with a disk and a network; its shell gets `input`.
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
        "--net",
        "tap=vmtap1",
        "--cpus",
        "2",
        "--mem",
        "256M",
        "--cmdline",
        "console=ttyS0 quiet panic=-1",
    ];
    Launch {
        command: command.map(String::from).into(),
        input: input.into(),
    }
}

fn says(launched: &Launched, words: &str) -> bool {
    launched.console.iter().any(|line| line.contains(words))
}

#[test]
fn debians_kernel_boots_to_a_shell_with_disk_and_network() {
    // The words that are looked for come out of the shell only: the terminal
    // echoes its input, where they are in pieces.
    let write = "echo cpus-$(nproc) kernel-$(uname -r)\n\
        mount /dev/vda /mnt && dd if=/dev/urandom of=/mnt/data bs=64k count=64\n\
        cd /mnt && sha256sum data > sum && cd / && umount /mnt; echo written-$?\n\
        ip addr add 10.0.1.2/24 dev eth0; ip link set eth0 up\n\
        ping -c 3 -s 1400 10.0.1.1; echo pinged-$?\n\
        poweroff -f\n";
    let check = "mount -o ro /dev/vda /mnt && cd /mnt && sha256sum -c sum; echo checked-$?\n\
        poweroff -f\n";
    let disk = launch(&format!("/sbin/mke2fs -q -F -t ext4 {DISK} 16M"));
    let launches = tap(1).chain([disk, boot(write), boot(check)]);
    let job = Job::Launches(launches.collect());
    let (_, done) = run_host(&host_of_debian(), &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}");
    };
    let codes: Vec<_> = launched.iter().map(|l| l.code).collect();
    assert!(codes.iter().all(|code| *code == Some(0)), "{launched:?}");
    let [.., write, check] = &launched[..] else {
        panic!("{launched:?}");
    };
    assert!(says(write, "cpus-2 kernel-6.12"), "{write:?}");
    assert!(says(write, "-cloud-amd64"), "{write:?}");
    assert!(says(write, "written-0"), "{write:?}");
    assert!(says(write, "3 packets received"), "{write:?}");
    assert!(says(write, "pinged-0"), "{write:?}");
    assert!(says(check, "data: OK"), "{check:?}");
    assert!(says(check, "checked-0"), "{check:?}");
}
