//! VMs are found, named and taken apart, whoever launched them.

mod tree;

use tree::Process;
use vmfirst_host::model::{Found, Role, Vm, Vmm, find};
use vmfirst_host::read::Root;

fn roles(vm: &Vm) -> Vec<(Role, &str)> {
    vm.tasks
        .iter()
        .map(|task| (task.role, task.name.as_str()))
        .collect()
}

fn only(root: &Root) -> Vm {
    let Found { mut vms, .. } = find(root);
    assert_eq!(vms.len(), 1, "{vms:?}");
    vms.remove(0)
}

/// Recorded of QEMU 7.2 on KVM, on a host with cgroup v1 beside v2.
#[test]
fn a_recorded_qemu_whose_threads_have_names() {
    let (_folder, root) = tree::recorded("qemu");
    let vm = only(&root);
    assert_eq!((vm.name.as_str(), vm.vmm, vm.vcpus), ("web", Vmm::Qemu, 2));
    let vcpus: Vec<_> = vm.vcpu_tasks().map(|(n, t)| (n, t.name.as_str())).collect();
    assert_eq!(vcpus, [(0, "CPU 0/KVM"), (1, "CPU 1/KVM")]);
    let has = |role, name| roles(&vm).contains(&(role, name));
    assert!(has(Role::Io, "IO iothread1"));
    assert!(has(Role::Main, "qemu-system-x86"));
    // A task of the VMM's since 6.13, a thread of the kernel's before.
    assert!(has(Role::Kvm, "kvm-nx-lpage-re"));
    let pit = vm
        .tasks
        .iter()
        .find(|t| t.name.starts_with("kvm-pit/"))
        .unwrap();
    assert_eq!(pit.role, Role::Kvm);
    assert_ne!(pit.pid, vm.pid);
    assert!(vm.kvm.is_some());
}

/// Without debug-threads=on all threads have one name: KVM knows which run vCPUs.
#[test]
fn a_recorded_qemu_whose_threads_have_no_names() {
    let (folder, root) = tree::recorded("qemu-plain");
    let vm = only(&root);
    assert_eq!((vm.name.as_str(), vm.vcpus), ("db", 2));
    let told: Vec<_> = vm.vcpu_tasks().map(|(n, t)| (n, t.tid)).collect();
    assert_eq!(told.len(), 2);
    // Without debugfs the one that waits in KVM_RUN says so itself; the other ran in the
    // guest. KVM's own thread has the registers of the vCPU that it was cloned from.
    std::fs::remove_dir_all(folder.path().join("sys/kernel/debug")).unwrap();
    let Found { vms, notes } = find(&root);
    let waiting: Vec<_> = vms[0].vcpu_tasks().map(|(n, t)| (n, t.tid)).collect();
    assert_eq!(waiting, [told[1]]);
    assert_eq!(vms[0].vcpus, 2);
    assert!(
        notes.iter().any(|note| note.contains("debugfs")),
        "{notes:?}"
    );
}

/// Recorded of this project's vmm.
#[test]
fn a_recorded_vmm() {
    let (_folder, root) = tree::recorded("vmm");
    let vm = only(&root);
    assert_eq!((vm.name.as_str(), vm.vmm, vm.vcpus), ("web", Vmm::Vmm, 2));
    assert!(roles(&vm).contains(&(Role::Io, "vmm-io")));
    assert_eq!(vm.vcpu_tasks().count(), 2);
}

/// Recorded of libvirt on Debian 12: its vCPUs are in groups of their own below the scope, whose
/// name has no underscore.
#[test]
fn a_recorded_qemu_of_libvirt() {
    let (_folder, root) = tree::recorded("libvirt");
    let vm = only(&root);
    assert_eq!(
        (vm.name.as_str(), vm.vmm, vm.vcpus),
        ("web_1", Vmm::Libvirt, 2)
    );
    let group = vm.cgroup.as_deref().unwrap();
    let (slice, machine) = group.split_at("/machine.slice/".len());
    assert_eq!(slice, "/machine.slice/");
    assert!(machine.starts_with(r"machine-qemu\x2d"), "{group}");
    assert!(machine.ends_with(r"\x2dweb1.scope"), "{group}");
    let vcpus: Vec<_> = vm.vcpu_tasks().map(|(n, t)| (n, t.name.as_str())).collect();
    assert_eq!(vcpus, [(0, "CPU 0/KVM"), (1, "CPU 1/KVM")]);
    let of = |wanted| {
        let tasks = roles(&vm).into_iter();
        let names = tasks.filter_map(|(role, name)| (role == wanted).then_some(name));
        names.collect::<Vec<_>>()
    };
    assert_eq!(of(Role::Main), ["qemu-system-x86"]);
    assert_eq!(of(Role::Io), ["IO iothread1", "IO mon_iothread"]);
    assert_eq!(of(Role::Vhost), [format!("vhost-{}", vm.pid)]);
    let timer = format!("kvm-pit/{}", vm.pid);
    assert_eq!(of(Role::Kvm), ["kvm-nx-lpage-re", timer.as_str()]);
    assert!(of(Role::Other).contains(&"worker"));
}

/// Recorded of two QEMUs started by hand on the same host.
#[test]
fn recorded_qemus_beside_each_other_have_what_is_theirs() {
    let (_folder, root) = tree::recorded("qemu-debian");
    let Found { vms, .. } = find(&root);
    let [named, nameless] = &vms[..] else {
        panic!("{vms:?}");
    };
    assert_eq!((named.name.as_str(), named.vmm), ("db", Vmm::Qemu));
    assert_eq!(nameless.name, format!("qemu-{}", nameless.pid));
    for vm in [named, nameless] {
        assert_eq!((vm.vcpus, vm.vcpu_tasks().count()), (2, 2));
        let timer = format!("kvm-pit/{}", vm.pid);
        assert!(roles(vm).contains(&(Role::Kvm, timer.as_str())), "{vm:?}");
        assert!(roles(vm).contains(&(Role::Kvm, "kvm-nx-lpage-re")));
    }
    assert!(roles(named).contains(&(Role::Io, "IO disks")));
    let vhost = format!("vhost-{}", named.pid);
    assert!(roles(named).contains(&(Role::Vhost, vhost.as_str())));
}

/// A process can write what it likes into its arguments; the scope is the host's word.
#[test]
fn a_forged_name_is_not_believed_where_the_host_gave_one() {
    let (folder, root) = tree::host();
    Process {
        pid: 100,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &["qemu-system-x86_64", "-name", "guest=somebody-else"],
        group: r"/machine.slice/machine-qemu\x2d3\x2dweb.scope/libvirt/emulator",
        vcpus: Some(1),
        threads: &["qemu-system-x86", "CPU 0/KVM"],
    }
    .write(folder.path());
    assert_eq!(only(&root).name, "web");
}

#[test]
fn systemds_machines_name_their_scopes() {
    let (folder, root) = tree::host();
    let machines = folder.path().join("run/systemd/machines");
    std::fs::create_dir_all(&machines).unwrap();
    std::fs::write(
        machines.join("qemu-9-a-very-long-name"),
        "SCOPE=machine-9.scope\nLEADER=100\n",
    )
    .unwrap();
    Process {
        pid: 100,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &["qemu-system-x86_64"],
        group: "/machine.slice/machine-9.scope",
        vcpus: Some(1),
        threads: &["qemu-system-x86", "CPU 0/KVM"],
    }
    .write(folder.path());
    assert_eq!(only(&root).name, "a-very-long-name");
}

/// Program, arguments, threads; VMM, name, the first thread that serves a device.
type Case<'a> = (
    &'a str,
    &'a [&'a str],
    &'a [&'a str],
    Vmm,
    &'a str,
    Option<&'a str>,
);

#[test]
fn other_vmms_by_their_threads_and_arguments() {
    let cases: [Case; 6] = [
        (
            "/srv/firecracker",
            &["/firecracker", "--id", "vm-7", "--start-time-us", "1"],
            &["firecracker", "fc_api", "fc_vcpu 0", "fc_vcpu 1"],
            Vmm::Firecracker,
            "vm-7",
            None,
        ),
        (
            "/usr/bin/cloud-hypervisor",
            &[
                "cloud-hypervisor",
                "--api-socket=/run/ch/box.sock",
                "--cpus",
                "boot=2",
            ],
            &[
                "cloud-hyperviso",
                "vmm",
                "http-server",
                "vcpu0",
                "vcpu1",
                "_disk0_q0",
                "_net1_qp0",
            ],
            Vmm::CloudHypervisor,
            "box",
            Some("_disk0_q0"),
        ),
        (
            "/usr/bin/crosvm",
            &["crosvm", "run", "--name", "arc", "--cpus", "2"],
            &["crosvm", "crosvm_vcpu0", "crosvm_vcpu1", "v_blk"],
            Vmm::Crosvm,
            "arc",
            Some("v_blk"),
        ),
        (
            "/usr/bin/lkvm",
            &["lkvm", "run", "--name", "guest-5", "-c", "2"],
            &["lkvm", "kvm-vcpu-0", "kvm-vcpu-1", "virtio-blk-io"],
            Vmm::Kvmtool,
            "guest-5",
            Some("virtio-blk-io"),
        ),
        (
            "/opt/kata/bin/containerd-shim-kata-v2",
            &[
                "containerd-shim-kata-v2",
                "-namespace",
                "k8s.io",
                "-id",
                "sandbox9",
            ],
            &["containerd-shim", "db_vcpu0", "db_vcpu1"],
            Vmm::Dragonball,
            "sandbox9",
            None,
        ),
        (
            "/usr/bin/strange",
            &["strange"],
            &["strange", "vcpu0", "vcpu1"],
            Vmm::Other,
            "other-500",
            None,
        ),
    ];
    for (exe, arguments, threads, vmm, name, io) in cases {
        let (folder, root) = tree::host();
        let process = Process {
            pid: 500,
            exe: Some(exe),
            arguments,
            group: "/system.slice/vm.service",
            vcpus: Some(2),
            threads,
        };
        process.write(folder.path());
        let vm = only(&root);
        assert_eq!(
            (vm.vmm, vm.name.as_str(), vm.vcpus),
            (vmm, name, 2),
            "{exe}"
        );
        assert_eq!(vm.vcpu_tasks().count(), 2, "{exe}");
        assert_eq!(
            vm.io_tasks().next().map(|task| task.name.as_str()),
            io,
            "{exe}"
        );
        assert_eq!(vm.cgroup.as_deref(), Some("/system.slice/vm.service"));
    }
}

#[test]
fn a_pods_vm_has_the_pods_id() {
    let (folder, root) = tree::host();
    Process {
        pid: 100,
        exe: Some("/usr/libexec/qemu-kvm"),
        arguments: &["/usr/libexec/qemu-kvm", "-name", "guest=default_web,debug-threads=on"],
        group: "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b1c_2d.slice/cri-containerd-77.scope",
        vcpus: Some(1),
        threads: &["qemu-kvm", "CPU 0/KVM"],
    }
    .write(folder.path());
    let vm = only(&root);
    assert_eq!(
        (vm.name.as_str(), vm.pod.as_deref()),
        ("default_web", Some("0b1c-2d"))
    );
}

/// Before vhost tasks were threads of the VMM, and still for the interval timer.
#[test]
fn threads_of_the_kernel_belong_to_the_vm_in_their_name() {
    let (folder, root) = tree::host();
    let qemu = Process {
        pid: 100,
        exe: Some("/usr/bin/qemu-system-x86_64"),
        arguments: &["qemu-system-x86_64", "-name", "web"],
        group: "/a",
        vcpus: Some(1),
        threads: &["qemu-system-x86", "CPU 0/KVM"],
    };
    qemu.write(folder.path());
    for (pid, name) in [
        (200, "vhost-100"),
        (201, "kvm-pit/100"),
        (202, "kvm-nx-lpage-recovery-100"),
        (203, "vhost-999"),
        (204, "kworker/0:100"),
    ] {
        let kernel = Process {
            pid,
            exe: None,
            arguments: &[],
            group: "/",
            vcpus: None,
            threads: &[name],
        };
        kernel.write(folder.path());
    }
    let vm = only(&root);
    let kernel: Vec<_> = vm
        .tasks
        .iter()
        .filter(|t| t.pid != 100)
        .map(|t| (t.tid, t.role))
        .collect();
    assert_eq!(
        kernel,
        [(200, Role::Vhost), (201, Role::Kvm), (202, Role::Kvm)]
    );
}

/// libvirt starts QEMU to ask what it can: that has KVM open, and no vCPU.
#[test]
fn what_has_no_vcpu_is_no_vm() {
    let (folder, root) = tree::host();
    for (pid, vcpus) in [(100, None), (110, Some(0))] {
        let process = Process {
            pid,
            exe: Some("/usr/bin/qemu-system-x86_64"),
            arguments: &["qemu-system-x86_64", "-machine", "none"],
            group: "/a",
            vcpus,
            threads: &["qemu-system-x86", "worker"],
        };
        process.write(folder.path());
    }
    assert!(find(&root).vms.is_empty());
}
