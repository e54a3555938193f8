//! `vmfirst agent` on Debian's own kernel of 6.12 as it comes: two groups at 0 and 7 want all of
//! the CPUs, without and with it; SIGKILL and a restart; a group of kubelet's; the CPU loop and
//! the records of breaches.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use testbed::initrd::Files;
use testbed::machine::{Machine, Start};
use testbed::proc::Cancel;
use testbed::workshop::Workshop;

/// What the host does. `hog GROUP TASKS` keeps as many CPUs busy; groups are frozen while
/// nothing is measured, for a busy CPU costs the emulator time. Times are in us, as cpu.stat
/// and cpu.pressure have them.
const SCRIPT: &str = r#"
/bin/busybox --install -s /bin
mkdir -p /proc /sys /run /tmp /etc/vmfirst /var/log
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 -o memory_recursiveprot none /sys/fs/cgroup
stty -F /dev/ttyS0 -opost
groups=/sys/fs/cgroup
echo "+cpu +memory +io" > $groups/cgroup.subtree_control
high=$groups/vmfirst-high.slice
low=$groups/off/vmfirst-low.slice
mkdir -p $high $low $groups/box $groups/kubepods.slice
echo "+cpu +memory +io" > $groups/off/cgroup.subtree_control
all="$high $groups/off $low $groups/box $groups/kubepods.slice"
freeze() { for group in $high $low $groups/box; do echo $1 > $group/cgroup.freeze; done; }
hog() { for n in $(seq $2); do sh -c "echo \$\$ > $1/cgroup.procs; while :; do :; done" & done; }
ran() { sed -n 's/^usage_usec //p' $1/cpu.stat; }
waited() { sed -n 's/^some .*total=//p' $1/cpu.pressure; }
look() { echo "$1 $(ran $high) $(ran $low) $(ran $groups/box) $(waited $high)"; }
measure() { freeze 0; look $1-before; sleep 0.5; look $1-after; freeze 1; }
values() {
    for group in $all; do
        for file in cpu.weight cpu.idle cpu.max memory.low memory.oom.group; do
            echo "$group $file $(cat $group/$file)"
        done
    done > /tmp/$1
}
differ() { values $1; diff /tmp/before /tmp/$1 > /tmp/diff; echo "$1 $?"; }
until_is() { for n in $(seq 100); do [ "$(cat $2)" = "$1" ] && return; sleep 0.1; done; }
until_told() { until [ -e /run/vmfirst/agent-status.json ]; do sleep 0.1; done; }
end() { kill $agent; wait $agent; echo "ended-$1 $?"; }

echo 300 > $groups/box/cpu.weight
freeze 1
hog $high 2; hog $low 2; hog $groups/box 1
vmfirst priority box 7
echo '[agent]
interval_ms = 200
[groups]
"kubepods.slice" = 7' > /etc/vmfirst/a.toml
sleep 0.5
values before
vmfirst agent --status; echo "status-without $?"
measure without
vmfirst agent --dry-run | sed 's/^/planned /'
differ dry
vmfirst agent &
agent=$!
until_told
measure with
printf "status %s\n" "$(vmfirst agent --status --json)"
vmfirst agent --status | sed 's/^/shown /'
values running
for file in before running; do grep kubepods /tmp/$file > /tmp/theirs-$file; done
diff /tmp/theirs-before /tmp/theirs-running; echo "theirs $?"
vmfirst agent; echo "second $?"
kill -9 $agent
wait $agent
differ left
vmfirst agent --status; echo "status-killed $?"
rm /run/vmfirst/agent-status.json
vmfirst agent &
agent=$!
until_told
end again
differ restored
vmfirst agent & agent=$!
until_told
kill -9 $agent
vmfirst agent --restore; echo "restore $?"
differ by-restore

echo '[cpu_loop]
floor_percent = 20
step_percent = 40
calm_looks = 2
patience_looks = 2
hook = ["/bin/sh", "-c", "echo $VMFIRST_GROUP > /run/vmfirst/hook"]
[monitor]
window_ms = 1000' > /etc/vmfirst/b.toml
hog $high 2
vmfirst agent & agent=$!
freeze 0
until [ -e /run/vmfirst/hook ]; do sleep 0.1; done
until [ -e /var/log/vmfirst/breaches.jsonl ]; do sleep 0.1; done
freeze 1
echo "hook $(cat /run/vmfirst/hook)"
sed 's/^/breach /' /var/log/vmfirst/breaches.jsonl
printf "scores %s\n" "$(vmfirst agent --status --json)"
until_is "max 100000" $low/cpu.max
echo "eased $(cat $low/cpu.max)"
echo 'x = 1' > /etc/vmfirst/c.toml
kill -HUP $agent
sleep 0.5
end last
differ last
sed 's/^/audit /' /var/log/vmfirst/audit.jsonl
echo DONE $(cut -d' ' -f1 /proc/uptime)
"#;

/// What the script printed.
fn run() -> String {
    let workshop = Workshop::open(Cancel::default()).unwrap();
    let program = e2e::build_operators(&[]).join("vmfirst");
    let work = tempfile::tempdir().unwrap();
    let folder = program.parent().unwrap().display();
    let script = work.path().join("script");
    // The emulator's other serial line wants an object at the end.
    let text = format!(
        "#!/bin/busybox sh\nexport PATH=/bin:{folder}\nexec > /dev/console 2>&1\n\
         (\n{SCRIPT}\n)\necho '{{}}' > /dev/ttyS1\npoweroff -f\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut files = Files::default();
    files.add("/init", &script).unwrap();
    files
        .add("/bin/busybox", Path::new("/bin/busybox"))
        .unwrap();
    files.add_program(program.to_str().unwrap()).unwrap();
    let host = workshop.host_of_files("agent", &files).unwrap();
    let machine = Machine {
        emulator: host.emulator.clone(),
        kernel: host.kernel.bzimage(),
        initrd: host.initrd.clone(),
        pcpus: 2,
        mem_mib: 1024,
        round_ns: 3000,
        seed: 1,
        limit_s: 60,
    };
    let boot = tempfile::tempdir().unwrap();
    let output = machine.run("{}", Start::Boot, boot.path(), &Cancel::default());
    let output = output.unwrap_or_else(|error| {
        let console = fs::read(boot.path().join("console")).unwrap_or_default();
        panic!("{error}\n{}", String::from_utf8_lossy(&console))
    });
    String::from_utf8_lossy(&output.console).replace('\r', "")
}

/// What stands behind a mark that begins a line; it is there once.
fn after<'a>(said: &'a str, mark: &str) -> &'a str {
    let mut found = said
        .lines()
        .filter_map(|line| line.strip_prefix(mark)?.strip_prefix(' '));
    match (found.next(), found.next()) {
        (Some(rest), None) => rest,
        _ => panic!("not once: {mark}: {said}"),
    }
}

fn json(said: &str, mark: &str) -> Value {
    serde_json::from_str(after(said, mark)).unwrap()
}

/// What the groups of priority 0, 7 and 7 ran and the first one waited in a measure, in us.
fn measured(said: &str, mark: &str) -> [u64; 4] {
    let numbers = |end: &str| -> Vec<u64> {
        let words = after(said, &format!("{mark}-{end}")).split(' ');
        words.map(|word| word.parse().unwrap()).collect()
    };
    let (before, now) = (numbers("before"), numbers("after"));
    [0, 1, 2, 3].map(|i| now[i] - before[i])
}

/// One boot for all that is checked.
#[test]
fn groups_are_kept_to_their_priorities_on_debians_kernel() {
    let said = run();
    for line in [
        "status-without 1",
        "dry 0",
        "theirs 0",
        "second 1",
        "left 1",
        "status-killed 1",
        "ended-again 0",
        "restored 0",
        "restore 0",
        "by-restore 0",
        "ended-last 0",
        "last 0",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}: {said}");
    }
    let (without, with) = (measured(&said, "without"), measured(&said, "with"));
    println!("us run by 0, 7, 7 and waited by 0: without {without:?}, with {with:?}");
    let share = |ran: [u64; 4]| ran[0] as f64 / (ran[0] + ran[1] + ran[2]) as f64;
    assert!(share(without) < 0.5, "{without:?}: {said}");
    assert!(share(with) > 0.95, "{with:?}: {said}");
    assert!(with[3] * 4 < without[3], "{with:?} {without:?}");
    states(&json(&said, "status"), &said);

    // Of two CPUs a fifth, for two groups.
    let floor = |line: &str| line.starts_with("audit ") && line.contains("\"20000 100000\"");
    assert!(said.lines().any(floor), "{said}");
    assert_eq!(after(&said, "eased"), "max 100000");
    assert_eq!(after(&said, "hook"), "/vmfirst-high.slice");
    let breaches = said.lines().filter_map(|line| line.strip_prefix("breach "));
    let breaches: Vec<Value> = breaches.map(|b| serde_json::from_str(b).unwrap()).collect();
    let is_cpus = |b: &&Value| b["group"] == "/vmfirst-high.slice" && b["resource"] == "cpu";
    assert!(breaches.iter().any(|b| is_cpus(&b)), "{breaches:?}");

    // A mistake leaves what held before, and every write has its reason.
    assert!(said.contains("c.toml:1:1: unknown field"), "{said}");
    for line in said.lines().filter_map(|line| line.strip_prefix("audit ")) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_ne!(line["group"], "/kubepods.slice", "{line}");
        assert!(!line["why"].as_str().unwrap().is_empty(), "{line}");
    }
}

fn states(status: &Value, said: &str) {
    let groups = status["groups"].as_array().unwrap();
    let of = |name: &str, resource: &str| {
        let group = groups.iter().find(|group| group["group"] == name);
        group.unwrap_or_else(|| panic!("{name}: {said}"))[resource].clone()
    };
    for group in ["/box", "/vmfirst-high.slice", "/off/vmfirst-low.slice"] {
        assert_eq!(of(group, "cpu")["state"], "enforced", "{group}: {said}");
        assert_eq!(of(group, "net")["state"], "unavailable");
    }
    let theirs = of("/kubepods.slice", "cpu");
    let reason = theirs["reason"].as_str().unwrap();
    assert!(reason.contains("managed by kubelet"), "{theirs}");
}
