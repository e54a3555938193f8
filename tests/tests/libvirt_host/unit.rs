//! A machine of ours as a service of systemd, as docs/operators.md has it.

use std::fs;

use serde_json::Value;
use testbed::workshop::repo;

use crate::{after, said};

/// Where the page's commands find what they install, what the machine's file names, and what a
/// machine must leave as it was.
const BEFORE: &str = r#"
mkdir -p /tmp/repo/target/release /tmp/repo/vmm/systemd /etc/vmfirst/machines /var/lib/vmfirst
cd /tmp/repo
cp /mnt/vmm target/release/
cp /mnt/vmm@.service vmm/systemd/
cp /mnt/web.toml /etc/vmfirst/machines/
cp /mnt/vmlinuz /var/lib/vmfirst/bzImage
cp /mnt/initrd /var/lib/vmfirst/
truncate -s 16M /var/lib/vmfirst/web.img
look() {
    ls /sys/class/net
    ip -o link show vmweb
    find /sys/fs/cgroup -type d -name 'vmm@*'
    find /run -path '*vmfirst/*'
    find /tmp /var/tmp -name '*vmm@*'
    pgrep -l vmm
    findmnt -n -o TARGET | grep vmm
}
"#;

/// The machine runs, is confined, is steered, is started again after a reboot, and ends.
const AFTER: &str = r#"
unit=vmm@web.service
group=/sys/fs/cgroup/vmm.slice/$unit
show() {
    systemctl show --value -p $1 $unit
}
ready() {
    until [ -S /run/vmfirst/web.console ]; do sleep 0.1; done
    vmm console web < /dev/null > /tmp/console 2>&1 &
    for n in $(seq 100); do
        grep -q 'VMFIRST READY' /tmp/console && break
        sleep 0.2
    done
    kill $! 2> /dev/null
    echo "$1 $(grep -c 'VMFIRST READY' /tmp/console)"
}
ready booted
echo "active $(show ActiveState)"
pid=$(show MainPID)
helper=$(grep -vx $pid $group/cgroup.procs | head -n1)
echo "processes $(wc -l < $group/cgroup.procs)"
for task in /proc/$pid/task/*; do
    echo "thread $(cat $task/comm):" $(grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|CapBnd|NoNewPrivs|Seccomp):' $task/status)
done
echo "helper" $(grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$helper/status)
echo "root $(readlink /proc/$pid/root)"
for space in mnt ipc uts pid; do
    [ $(readlink /proc/$pid/ns/$space) = $(readlink /proc/1/ns/$space) ] && echo "shared $space" || echo "own $space"
done
nsenter -t $pid -m touch /etc/written 2>&1 | sed 's/^/write /'
# Inside the unit's group its rules for devices hold for root, too.
sh -c "echo \$\$ > $group/cgroup.procs && exec head -c 1 /dev/pmem0" 2>&1 | sed 's/^/device /'
systemd-analyze security --no-pager --threshold=40 $unit > /tmp/security
echo "security $? $(tail -n 1 /tmp/security)"

printf "list %s\n" "$(vmm list --json)"
printf "found %s\n" "$(vmfirst list --json web)"
vmfirst set web --vcpu-class rr:2 --cpu-weight 50 2>&1
vmfirst list --json web | sed "s/^/steered /"
echo "weight $(cat $group/cpu.weight)"
systemctl set-property $unit CPUWeight=70
echo "property $(cat $group/cpu.weight)"

printf 'reboot -f\n' | timeout 1 vmm console web > /dev/null 2>&1
for n in $(seq 100); do [ $(show NRestarts) = 1 ] && break; sleep 0.1; done
until [ $(show ActiveState) != activating ]; do sleep 0.1; done
ready again
echo "restarts $(show NRestarts)"

# Its own helper is not needed for a clean end.
kill -KILL $(grep -vx $(show MainPID) $group/cgroup.procs)
systemctl stop $unit
echo "stop $? $(show ActiveState) $(show Result) $(show ExecMainStatus)"
journalctl -b -u $unit -o cat | sed 's/^/journal /'
look > /tmp/after
diff /tmp/before /tmp/after && echo "nothing is left"
"#;

fn page() -> String {
    fs::read_to_string(repo().join("docs/operators.md")).unwrap()
}

/// The text of the first block with this mark.
fn block<'a>(page: &'a str, mark: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("```{mark}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// The page's machine, with the initial ram disk that Debian's kernel needs.
pub fn machine() -> String {
    let page = page();
    let text = block(&page, "toml");
    let (first, rest) = text.split_once("cmdline = ").unwrap();
    format!("{first}initrd = \"/var/lib/vmfirst/initrd\"\ncmdline = {rest}")
}

pub fn script() -> String {
    let page = page();
    let commands = block(&page, "sh").lines();
    let run = |command| format!("{command}; echo \"status $?\"\n");
    let commands: Vec<String> = commands.map(run).collect();
    let (last, first) = commands.split_last().unwrap();
    format!(
        "{BEFORE}{}look > /tmp/before\n{last}{AFTER}",
        first.concat()
    )
}

/// The machine's threads, as the kernel has them in /proc/PID/task/TID/status.
#[test]
fn a_machine_of_the_unit_runs_without_anything_of_roots() {
    let said = said("unit");
    let statuses = said.lines().filter(|line| *line == "status 0").count();
    let page = page();
    assert_eq!(statuses, block(&page, "sh").lines().count(), "{said}");
    assert_eq!(after(said, "booted "), "1");
    assert_eq!(after(said, "active "), "active");
    let threads: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("thread "))
        .collect();
    for name in ["vmm:", "vmm-io:", "vcpu0:", "vcpu1:", "vmm-api:"] {
        let status = threads.iter().find(|thread| thread.starts_with(name));
        let status = status.unwrap_or_else(|| panic!("{name}: {said}"));
        for fact in [
            "Uid: 61001 61001 61001 61001",
            "Gid: 61001 61001 61001 61001",
            "Groups: CapPrm: 0000000000000000 CapEff: 0000000000000000",
            "NoNewPrivs: 1",
            "Seccomp: 2",
        ] {
            assert!(status.contains(fact), "{fact}: {status}");
        }
    }
    assert_eq!(after(said, "root "), "/var/lib/vmfirst/empty");
}

/// What the unit forbids holds for what root still has there: the helper that tidies up.
#[test]
fn the_units_hardening_is_in_force() {
    let said = said("unit");
    // The seven capabilities of the unit's CapabilityBoundingSet=.
    let helper = after(said, "helper ");
    assert!(helper.contains("CapBnd: 00000000008c10c2"), "{helper}");
    assert!(helper.ends_with("NoNewPrivs: 1 Seccomp: 2"), "{helper}");
    for space in ["mnt", "ipc", "uts"] {
        assert!(said.contains(&format!("own {space}\n")), "{space}: {said}");
    }
    let write = after(said, "write ");
    assert!(write.ends_with("Read-only file system"), "{write}");
    let device = after(said, "device ");
    assert!(device.ends_with("Operation not permitted"), "{device}");
    assert!(after(said, "security ").starts_with("0 "), "{said}");
}

#[test]
fn a_machine_of_the_unit_is_found_and_steered_from_outside() {
    let said = said("unit");
    assert!(
        after(said, "list ").contains(r#""state":"running""#),
        "{said}"
    );
    let found: Value = serde_json::from_str(after(said, "found ")).unwrap();
    assert_eq!(found[0]["vmm"], "vmm");
    assert_eq!(found[0]["cgroup"], "/vmm.slice/vmm@web.service");
    let steered = after(said, "steered ");
    assert_eq!(steered.matches(r#""class":"rr:2""#).count(), 2, "{steered}");
    assert_eq!(after(said, "weight "), "50");
    assert_eq!(after(said, "property "), "70");
}

#[test]
fn a_guests_reboot_starts_it_again_and_a_stop_leaves_nothing() {
    let said = said("unit");
    assert_eq!(after(said, "restarts "), "1");
    assert_eq!(after(said, "again "), "1");
    assert_eq!(after(said, "stop "), "0 inactive success 0");
    assert!(!said.contains("journal vmm:"), "{said}");
    assert!(said.contains("\nnothing is left\n"), "{said}");
}
