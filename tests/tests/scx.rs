//! `scx_vmfirst` on Debian's packaged kernel, not a byte changed: it loads, a guest boots under
//! it, spinning vCPUs lend one another their turns, ordinary and offline tasks keep their
//! floors beside them, VMs of different sizes have equal shares, control groups their weights,
//! and when its program is killed the VMs go on under fair.

use dense_bench::plan::cells;
use dense_record::job::{Done, Job};
use dense_record::measured::CellOutput;
use e2e::{host_with_scheduler, parts_with_scheduler, run_cell, run_host, script};
use serde_json::Value;
use testbed::machine::complaint;

/// All that is asked of it, a line each. `$probe` runs two bare vCPUs on the first CPU, which
/// spin until KVM yields for them; with `--rival` its process has two more.
const SCRIPT: &str = r#"
scx=/vmfirst/scx_vmfirst
probe="/vmfirst/ipi-probe yields --what spin"
/bin/busybox --install -s /bin
state() { cat /sys/kernel/sched_ext/state; }
until_state() { while [ "$(state)" != "$1" ]; do sleep 0.02; done; }
ran() { cut -d' ' -f1 /proc/$1/schedstat; }
look() { echo $1 $(cat /proc/$hog/schedstat /proc/$idler/schedstat /proc/uptime); }

$scx stat; echo "stat-without $?"
$scx run &
loader=$!
until_state enabled
echo "ops $(cat /sys/kernel/sched_ext/root/ops)"
echo "status $($scx status --json)"
$scx run; echo "second $?"

mkfifo /run/input
/vmfirst/vmm run --kernel /vmfirst/guest/bzImage --cpus 4 --mem 128M \
    --initrd /vmfirst/guest/compute.cpio --cmdline "console=ttyS0 nopv quiet panic=-1" \
    <> /run/input > /run/console &
guest=$!
until grep -q READY /run/console; do sleep 0.1; done
echo "VMFIRST END poweroff" > /run/input
wait $guest; echo "guest $?"
echo "booted $($scx stat --json)"

taskset 1 sh -c 'while :; do :; done' & hog=$!
taskset 1 /usr/bin/chrt -i 0 sh -c 'while :; do :; done' & idler=$!
$probe --ms 4600 > /run/small &
small=$!
sleep 0.4
look before
sleep 4
look after
wait $small; echo "small $?"
kill $hog $idler

$probe --ms 2000 > /run/small &
small=$!
$probe --rival --ms 2000 > /run/large &
large=$!
sleep 0.4
echo "shares-before $($scx stat --json)"
sleep 1.4
echo "shares-after $($scx stat --json)"
echo "pids $small $large"
kill -9 $loader
until_state disabled
wait $loader
echo "killed $($scx status --json)"
wait $small; echo "small $?"
wait $large; echo "large $?"
echo "ended $(cat /run/large)"

groups=/sys/fs/cgroup
echo +cpu > $groups/cgroup.subtree_control
mkdir $groups/a $groups/b $groups/off
echo +cpu > $groups/b/cgroup.subtree_control
mkdir $groups/b/c $groups/b/d
echo 300 > $groups/b/cpu.weight
echo 200 > $groups/b/d/cpu.weight
echo 1 > $groups/off/cpu.idle
$scx run --mode fair &
loader=$!
until_state enabled
in_group() { taskset 1 sh -c "echo \$\$ > $groups/$1/cgroup.procs; while :; do :; done" & }
in_group a; a=$!
in_group b/c; c=$!
in_group b/d; d=$!
in_group off; off=$!
sleep 0.3
weigh() { echo "$1 $(ran $a) $(ran $c) $(ran $d) $(ran $off)"; }
weigh light
sleep 2
weigh heavy
kill $a $c $d $off
kill $loader
wait $loader; echo "stopped $?"
echo "last $($scx status --json)"
"#;

/// Of a CPU's time: what fair and offline tasks have as their floors by default.
const FAIR_FLOOR: f64 = 0.05;
const OFFLINE_FLOOR: f64 = 0.01;

/// Debian's kernel has 250 of them a second.
const TICK_NS: f64 = 4e6;

/// Two digits of a second stand in /proc/uptime.
const UPTIME_STEP_S: f64 = 0.01;

/// What stands behind each line that begins so.
fn after<'a>(console: &'a [String], mark: &str) -> Vec<&'a str> {
    let lines = console.iter();
    let rest = lines.filter_map(|line| line.strip_prefix(mark)?.strip_prefix(' '));
    rest.collect()
}

fn json(console: &[String], mark: &str) -> Value {
    let lines = after(console, mark);
    let line = lines
        .first()
        .unwrap_or_else(|| panic!("{mark}: {console:?}"));
    serde_json::from_str(line).unwrap()
}

fn counter(counts: &Value, name: &str) -> u64 {
    let count = &counts["counters"][name];
    count.as_u64().unwrap_or_else(|| panic!("{name}: {counts}"))
}

/// The numbers of a line.
fn times<const N: usize>(console: &[String], mark: &str) -> [f64; N] {
    let words = after(console, mark)[0].split(' ');
    let numbers: Vec<f64> = words.map(|word| word.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn vms_run_under_it_on_debians_kernel_and_outlive_it() {
    let job = Job::Launches(vec![script(SCRIPT)]);
    let (output, done) = run_host(&host_with_scheduler(), &job, 1);
    let host = String::from_utf8_lossy(&output.console);
    let Done::Launches(launched) = done else {
        panic!("{done:?}: {host}");
    };
    let console = &launched[0].console;
    assert_eq!(complaint(&host), None, "{host}");
    let expect = |mark: &str, value: &str| assert_eq!(after(console, mark), [value], "{host}");

    expect("stat-without", "1");
    assert!(host.contains("nothing is counted"), "{host}");
    expect("ops", "vmfirst");
    let status = json(console, "status");
    assert_eq!(status["running"]["mode"], "vm-first", "{status}");
    assert_eq!(status["running"]["lost"], serde_json::json!([]), "{status}");
    expect("second", "1");
    assert!(
        host.contains("vmfirst runs already: stop it first"),
        "{host}"
    );
    assert!(host.contains("not enforced: cpu.max"), "{host}");

    expect("guest", "0");
    let booted = json(console, "booted");
    assert!(counter(&booted, "vcpus") >= 4, "{booted}");
    assert!(counter(&booted, "vm_ns") > 0, "{booted}");
    assert_eq!(booted["vms"], serde_json::json!({}), "it has ended");

    floors(console);
    shares(console);
    weights(console);
    expect("stopped", "0");
    let last = json(console, "last");
    assert_eq!(last["ended"]["why"], "it was stopped", "{last}");

    let killed = json(console, "killed");
    assert!(killed["running"].is_null(), "{killed}");
    let why = killed["ended"]["why"].as_str().unwrap();
    assert!(why.contains("killed"), "{killed}");
    assert_eq!(after(console, "small"), ["0", "0"], "{host}");
    expect("large", "0");
    let ended = json(console, "ended");
    assert!(ended["rival_ns"][0].as_u64() > Some(0), "{ended}");
}

/// Two vCPUs never sleep on the CPU of an ordinary and of an offline task.
fn floors(console: &[String]) {
    // Of each task its time on a CPU and its run delay in ns and its turns; of the machine its
    // time up and its CPUs' time idle, in s.
    let (before, after): ([f64; 8], [f64; 8]) = (times(console, "before"), times(console, "after"));
    let [hog, idler, seconds] = [0, 3, 6].map(|i| after[i] - before[i]);
    // A turn, which a tick ends, may be cut by a look, and is counted when it ends.
    let missed = 2.0 * TICK_NS;
    for (ns, floor) in [(hog, FAIR_FLOOR), (idler, OFFLINE_FLOOR)] {
        let least = (ns + missed) / ((seconds - UPTIME_STEP_S) * 1e9);
        assert!(least >= floor, "{least} of {floor}: {console:?}");
        let most = (ns - missed) / ((seconds + UPTIME_STEP_S) * 1e9);
        assert!(most <= 1.25 * floor, "{most} of {floor}: {console:?}");
    }
}

/// A VM of two and one of four vCPUs, all on one CPU.
fn shares(console: &[String]) {
    let (before, now) = (
        json(console, "shares-before"),
        json(console, "shares-after"),
    );
    let pids: Vec<&str> = after(console, "pids")[0].split(' ').collect();
    let ran = |counts: &Value, pid: &str| {
        let ran = &counts["vms"][pid]["ran_ns"];
        ran.as_u64().unwrap_or_else(|| panic!("{pid}: {counts}")) as f64
    };
    let [small, large] = [0, 1].map(|i| ran(&now, pids[i]) - ran(&before, pids[i]));
    assert!((small / large - 1.0).abs() < 0.05, "{small} {large}");
    let moved = |name| counter(&now, name) - counter(&before, name);
    assert!(moved("spin") > 1000, "{now}");
    assert!(moved("lent") > 100, "{now}");
    for name in ["fair_floor", "offline_floor"] {
        assert!(counter(&now, name) > 0, "{name}: {now}");
    }
}

/// On one CPU a group of weight 100, two of 100 and 200 in one of 300, and one with cpu.idle.
fn weights(console: &[String]) {
    let (light, heavy): ([f64; 4], [f64; 4]) = (times(console, "light"), times(console, "heavy"));
    let ran = [0, 1, 2, 3].map(|i| heavy[i] - light[i]);
    let all: f64 = ran.iter().sum();
    for (ran, share) in ran.iter().zip([0.25, 0.25, 0.5]) {
        let of_the_rest = ran / (all - heavy[3] + light[3]);
        assert!((of_the_rest / share - 1.0).abs() < 0.05, "{console:?}");
    }
    let idle = ran[3] / all;
    assert!(
        idle > 0.8 * OFFLINE_FLOOR && idle < 2.0 * OFFLINE_FLOOR,
        "{idle}"
    );
}

/// The figures of docs/scx.md: each workload of the quick plan with and without the scheduler,
/// on the same packaged kernel, a JSON line a cell.
#[test]
#[ignore = "an hour: `cargo test -p e2e --features emulator --test scx -- --ignored --nocapture`"]
fn figures() {
    for workload in ["dedup", "dbench"] {
        for seed in 1..=2 {
            for options in FIGURES {
                let pattern = format!("{workload}/*/stock/s{seed}");
                let cell = cells("quick", None, Some(&pattern)).unwrap().remove(0);
                let (output, done) = run_cell(&parts_with_scheduler(workload, options), &cell);
                let console = String::from_utf8_lossy(&output.console);
                assert_eq!(complaint(&console), None, "{console}");
                let Done::Cell(CellOutput::Ok(measured)) = done else {
                    panic!("{done:?}: {console}");
                };
                let measured = serde_json::to_string(&measured).unwrap();
                println!("{workload} s{seed} {options:?} {measured}");
            }
        }
    }
}

/// Under fair, and under the scheduler.
const FIGURES: [Option<&str>; 2] = [None, Some("--mode vm-first")];
