//! VMs of Debian's QEMU, libvirt's and two that are started by hand: who does what in them is
//! told as QEMU and the kernel know it.

use std::fs;

use e2e::build_operators;
use serde_json::Value;
use testbed::workshop::repo;

use crate::{after, run, said};

/// A VM of libvirt whose name isn't its scope's, one with names for its threads and vhost's
/// vsock, and one without any name.
pub const SCRIPT: &str = r#"
start web_1 2
common="-accel kvm -m 64 -nodefaults -display none -daemonize"
qemu-system-x86_64 $common -name guest=db,debug-threads=on -smp 2 -pidfile /run/db.pid \
    -object iothread,id=disks -device vhost-vsock-pci,guest-cid=7
qemu-system-x86_64 $common -smp 2 -pidfile /run/plain.pid
sleep 2
web=$(cat /run/libvirt/qemu/web_1.pid)
db=$(cat /run/db.pid)
plain=$(cat /run/plain.pid)
for vm in web_1 db $plain; do
    printf "json $vm %s\n" "$(vmfirst list --json $vm)"
done
vmfirst list --threads | sed 's/^/threads /'
# QEMU's own word.
virsh qemu-monitor-command web_1 --hmp 'info cpus' | sed 's/^/qemu /'
echo "plain $plain"
echo "kernel $(uname -r)"
if [ -x /mnt/record ]; then
    echo "==== tree libvirt"; record $web
    echo "==== tree qemu-debian"; record $db $plain
    echo "==== trees"
fi
virsh destroy web_1
kill $db $plain
"#;

/// The VM that a line of the script has.
fn vm(name: &str) -> Value {
    let json = after(said("discovery"), &format!("json {name} "));
    let mut vms: Vec<Value> = serde_json::from_str(json).unwrap();
    assert_eq!(vms.len(), 1, "{json}");
    vms.remove(0)
}

/// Names and ids of the threads with a role, as the role is in JSON.
fn threads<'a>(vm: &'a Value, role: &Value) -> Vec<(&'a str, u64)> {
    let tasks = vm["tasks"].as_array().unwrap().iter();
    tasks
        .filter(|task| task["role"] == *role)
        .map(|task| {
            (
                task["name"].as_str().unwrap(),
                task["tid"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn vcpu(vm: &Value, number: u32) -> (&str, u64) {
    let found = threads(vm, &serde_json::json!({ "vcpu": number }));
    assert_eq!(found.len(), 1, "{vm}");
    found[0]
}

/// The only thread with a role has a name that begins so.
fn expect(vm: &Value, role: &str, name: &str) {
    let found = threads(vm, &role.into());
    assert!(
        matches!(found[..], [(found, _)] if found.starts_with(name)),
        "{role}: {vm}"
    );
}

/// KVM's own threads are the VM's: its timer's, and the one that takes huge pages apart.
fn expect_kvms(vm: &Value) {
    let mut names: Vec<_> = threads(vm, &"kvm".into()).iter().map(|t| t.0).collect();
    names.sort_unstable();
    let pid = vm["pid"].to_string();
    assert_eq!(names.len(), 2, "{vm}");
    assert!(names[0].starts_with("kvm-nx-lpage-re"), "{vm}");
    assert_eq!(names[1], format!("kvm-pit/{pid}"), "{vm}");
}

#[test]
fn a_vm_of_libvirt_has_its_name_and_every_thread_its_role() {
    let vm = vm("web_1");
    assert_eq!((&vm["vmm"], &vm["vcpus"]), (&"libvirt".into(), &2.into()));
    let group = vm["cgroup"].as_str().unwrap();
    assert!(group.ends_with("web1.scope"), "{vm}");
    let said = said("discovery");
    for number in [0, 1] {
        let (name, tid) = vcpu(&vm, number);
        assert_eq!(name, format!("CPU {number}/KVM"));
        // "* CPU #0: thread_id=435".
        let line = said
            .lines()
            .find(|line| line.starts_with("qemu ") && line.contains(&format!("CPU #{number}:")));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(line.ends_with(&format!("thread_id={tid}")), "{line}: {vm}");
    }
    let io: Vec<_> = threads(&vm, &"io".into()).iter().map(|t| t.0).collect();
    assert!(io.contains(&"IO iothread1"), "{vm}");
    expect(&vm, "vhost", "vhost-");
    expect(&vm, "main", "qemu-system-x86");
    expect_kvms(&vm);
}

#[test]
fn a_qemu_started_by_hand_has_its_name_and_every_thread_its_role() {
    let vm = vm("db");
    assert_eq!((&vm["vmm"], &vm["vcpus"]), (&"qemu".into(), &2.into()));
    for number in [0, 1] {
        assert_eq!(vcpu(&vm, number).0, format!("CPU {number}/KVM"));
    }
    expect(&vm, "io", "IO disks");
    expect(&vm, "vhost", "vhost-");
    expect_kvms(&vm);
}

/// All threads are called after the program: KVM knows who runs which vCPU.
#[test]
fn a_qemu_without_names_has_its_vcpus() {
    let pid = after(said("discovery"), "plain ");
    let vm = vm(pid);
    assert_eq!(vm["name"], format!("qemu-{pid}"));
    let (first, second) = (vcpu(&vm, 0), vcpu(&vm, 1));
    assert_eq!((first.0, second.0), ("qemu-system-x86", "qemu-system-x86"));
    assert_ne!(first.1, second.1);
    expect_kvms(&vm);
}

#[test]
fn a_terminal_shows_the_roles_too() {
    let said = said("discovery");
    for role in ["vcpu 1 ", "io ", "vhost ", "kvm ", "main "] {
        let shown = said.lines().filter(|line| {
            line.starts_with("threads web_1 ") && line.contains(&format!(" {role}"))
        });
        assert!(shown.count() >= 1, "{role}: {said}");
    }
}

/// Not a test: it makes those trees of host/tests/trees anew that are of this host.
#[test]
#[ignore = "writes host/tests/trees"]
fn record_trees() {
    let record = build_operators(&["--example", "record"]).join("examples/record");
    let said = run(
        &[("discovery", SCRIPT.into())],
        &[(&record, "record")],
        |host| host,
    );
    for name in ["libvirt", "qemu-debian"] {
        let (_, tree) = said.split_once(&format!("==== tree {name}\n")).unwrap();
        let (tree, _) = tree.split_once("==== tree").unwrap();
        let path = repo().join(format!("host/tests/trees/{name}.tree"));
        let kernel = after(&said, "kernel ");
        let head = format!("# Recorded of QEMU on Linux {kernel} by tests/tests/libvirt_host.\n");
        fs::write(path, head + tree).unwrap();
    }
}
