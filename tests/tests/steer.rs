//! A machine on a host with all that `vmm` steers by, which the machines that run the
//! other tests may lack: the CPU controller of cgroup v2, and KVM's counters of spinning
//! and yields. The machine keeps nothing of root: who steers it has the rights.

use dense_record::job::{Done, Job};
use e2e::{host_of_debian, kernel, run_host, script};
use serde_json::Value;
use testbed::kernel::Variant;
use testbed::workshop::Host;

/// Starts a machine, steers it from beside and shows what came of it, a line each.
const SCRIPT: &str = r#"
vmm=/vmfirst/vmm
group=/sys/fs/cgroup/machines/web
show() {
    for file in cpu.weight cpu.max vcpu0/cgroup.threads helpers/cgroup.threads; do
        echo "$1 $file" $(cat $group/$file)
    done
    echo "$1 list $($vmm list --json)"
}
/bin/busybox --install -s /bin
echo +cpu > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/machines
mkdir /run/empty
mkfifo /run/input
$vmm run --name web --kernel /vmfirst/guest/bzImage --cpus 2 --mem 128M \
    --initrd /vmfirst/guest/compute.cpio --cmdline "console=ttyS0 quiet panic=-1" \
    --cgroup machines/web --cgroup-layout vcpu --cpu-weight 250 --cpu-max 150% \
    --vcpu-class rr:3 --helper-class rr:4 --vcpu-affinity 0=1,1=2-3 \
    --launch-class rr:9 --launch-until "VMFIRST READY" \
    --uid 65534 --gid 65533 --chroot /run/empty <> /run/input > /run/console &
until grep -q READY /run/console; do sleep 0.1; done
sleep 0.1
show before
$vmm set web --cpu-weight 50 --cpu-max 20% --vcpu-class fair --helper-class fair --vcpu-affinity 0=0
echo "set $?"
show after
$vmm set web --vcpu-class vmf
echo "lacking $?"
$vmm set web --vcpu-class bt --vcpu-class-strict
echo "strict $?"
echo "stat $($vmm stat --json)"
$vmm stat --prometheus | sed 's/^/prometheus /'
echo "stop $($vmm stop web --timeout 0)"
wait
there() { [ -e /run/vmfirst/web.lock ] || [ -e /sys/fs/cgroup/machines/web ]; }
for look in $(seq 100); do there && sleep 0.1; done
echo "left" /sys/fs/cgroup/machines/*/ /run/vmfirst/*
"#;

/// The values of lines that begin so, in order.
fn after<'a>(console: &'a [String], mark: &str) -> Vec<&'a str> {
    let lines = console.iter();
    lines.filter_map(|line| line.strip_prefix(mark)).collect()
}

fn json(console: &[String], mark: &str) -> Value {
    serde_json::from_str(after(console, mark)[0]).unwrap()
}

/// What every vCPU's thread has, and what serves the devices.
fn threads<'a>(list: &'a Value, what: &str) -> (Vec<&'a str>, &'a str) {
    let text = |thread: &'a Value| thread[what].as_str().unwrap();
    let vcpus = list[0]["vcpus"].as_array().unwrap();
    (
        vcpus.iter().map(text).collect(),
        text(&list[0]["helpers"][0]),
    )
}

#[test]
fn shares_classes_and_cpus_are_what_was_asked_for_and_counters_are_told() {
    let host = Host {
        kernel: kernel(Variant::Patched),
        ..host_of_debian()
    };
    let job = Job::Launches(vec![script(SCRIPT)]);
    let (output, done) = run_host(&host, &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}");
    };
    let console = &launched[0].console;
    let host = String::from_utf8_lossy(&output.console);
    let expect = |mark: &str, value: &str| assert_eq!(after(console, mark), [value], "{host}");

    expect("before cpu.weight ", "250");
    expect("before cpu.max ", "150000 100000");
    let before = json(console, "before list ");
    assert_eq!(threads(&before, "class"), (vec!["rr:3", "rr:3"], "rr:4"));
    assert_eq!(threads(&before, "cpus").0, ["1", "2-3"]);
    expect("set ", "0");
    expect("after cpu.weight ", "50");
    expect("after cpu.max ", "20000 100000");
    let list = json(console, "after list ");
    assert_eq!(threads(&list, "class"), (vec!["fair", "fair"], "fair"));
    assert_eq!(threads(&list, "cpus").0, ["0", "2-3"]);
    let vcpu0 = list[0]["vcpus"][0]["tid"].to_string();
    assert!(
        after(console, "after vcpu0/cgroup.threads ")[0].contains(&vcpu0),
        "{host}"
    );

    expect("lacking ", "0");
    expect("strict ", "1");
    assert!(
        host.contains("the kernel has no scheduling class vmf: threads of web run as fair"),
        "{host}"
    );
    assert!(
        host.contains("this kernel has no scheduling class bt;"),
        "{host}"
    );

    counted(&json(console, "stat ")[0]["vcpus"][0]);
    let prometheus = after(console, "prometheus ");
    for name in ["vmm_vcpu_spin_exits_total{", "vmm_vcpu_yield_hits_total{"] {
        assert!(
            prometheus.iter().any(|line| line.starts_with(name)),
            "{prometheus:?}"
        );
    }
    // This kernel does not tell strangers how a process ended: the machine said so.
    assert_eq!(after(console, "stop ").len(), 1);
    assert!(
        after(console, "stop ")[0].contains("did not power off in time"),
        "{console:?}"
    );
    // No group and no file is left: the patterns stay what they are.
    expect("left ", "/sys/fs/cgroup/machines/*/ /run/vmfirst/*");
}

/// All counters of a vCPU are there, and those that a boot must move have moved.
fn counted(vcpu: &Value) {
    for name in ["run_ns", "exits", "halts"] {
        assert!(vcpu[name].as_u64().unwrap() > 0, "{name}: {vcpu}");
    }
    for name in ["delay_ns", "steal_ns", "spin_exits"] {
        assert!(vcpu[name].is_u64(), "{name}: {vcpu}");
    }
    assert!(vcpu["yields"]["attempts"].is_u64(), "{vcpu}");
    for reason in ["ipi", "irq", "kernel", "relaxed"] {
        assert!(vcpu["yields"]["hits"][reason].is_u64(), "{reason}: {vcpu}");
    }
}
