//! `vmfirst view` on the host that operators have, emulated: what programs in a control group
//! are told of their machine, with the kernel's own figures beside it. The files are mounted by
//! the hook of Debian's lxcfs as it comes.

mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use testbed::proc::Cancel;
use testbed::workshop::{Workshop, repo};

/// Three groups, one in a tight place, and programs in them.
const SCRIPT: &str = r#"
set -u
# /mnt isn't in fstab, which systemd has mount(8) say at each mount.
rm /etc/fstab
top=/sys/fs/cgroup
all="+cpu +cpuset +memory +io +pids"
modprobe fuse
cp /mnt/vmfirst /usr/bin/vmfirst
cp /mnt/vmfirst-view.service /etc/systemd/system/
mkdir -p /opt/lx
for package in /mnt/*.deb; do dpkg-deb -x $package /opt/lx; done
hook=/opt/lx/usr/share/lxcfs/lxc.mount.hook
systemctl daemon-reload
systemctl start vmfirst-view
echo "started $?"
echo "$all" > $top/cgroup.subtree_control
one=$top/lxc.payload.one
two=$top/lxc.payload.two
three=$top/lxc.payload.three
for group in $one $two $three; do
    mkdir -p $group/init
    echo "$all" > $group/cgroup.subtree_control
done
echo 300M > $one/memory.max
echo "50000 100000" > $one/cpu.max
echo 400M > $two/memory.max
echo 1 > $two/cpuset.cpus

# inside GROUP SCRIPT: as in a container whose files lxcfs's hook mounted.
inside() {
    sh -c 'echo $$ > $0/init/cgroup.procs
        exec unshare -m sh -c "LXC_CGNS_AWARE=1 LXC_ROOTFS_MOUNT=/ sh $1; $2"' $1 $hook "$2"
}
# show NAME FILE: a file with its name before each line.
show() { sed "s|^|$1 |" $2; }

echo "==== files"
inside $one 'for file in cpuinfo diskstats loadavg meminfo stat swaps uptime vmstat pressure/cpu pressure/io pressure/memory; do
    sed "s|^|$file |" /proc/$file; done
    echo "online $(cat /sys/devices/system/cpu/online)"
    echo "present $(cat /sys/devices/system/cpu/present)"
    echo "possible $(cat /sys/devices/system/cpu/possible)"
    echo "cpus" $(cd /sys/devices/system/cpu; echo cpu*)
    echo "core $(cat /sys/devices/system/cpu/cpu0/topology/core_id)"
    cat /sys/devices/system/cpu/cpu1/topology/core_id; echo "hidden $?"
    echo x > /proc/meminfo; echo "write $?"'
show current $one/memory.current
show pressure $one/cpu.pressure
inside $two 'echo "two $(cat /sys/devices/system/cpu/online) $(grep -c ^processor /proc/cpuinfo) $(grep ^cpu[0-9] /proc/stat)"
    grep MemTotal /proc/meminfo | sed "s/^/two /"'

echo "==== programs"
inside $one 'echo "nproc $(nproc)"
    echo "onln $(getconf _NPROCESSORS_ONLN)"
    free -b | sed "s/^/free /"
    uptime | sed "s/^/uptime /"
    top -bn1 | head -n5 | sed "s/^/top /"
    vmstat -s | sed "s/^/vmstat /"'

echo "==== times"
# Spins in user mode and in the kernel, while the limits change.
inside $one 'while :; do :; done' &
inside $one 'dd if=/dev/zero of=/dev/null bs=1 2> /dev/null' &
step() {
    sleep 1
    echo "step $1"
    show before $one/cpu.stat
    inside $one 'sed "s/^/now /" /proc/stat'
    show after $one/cpu.stat
}
step first
step tight
echo "150000 100000" > $one/cpu.max; step wider
echo max > $one/cpu.max; step free
echo 1 > $one/cpuset.cpus; step moved
echo 0-1 > $one/cpuset.cpus; step back
echo "20000 100000" > $one/cpu.max; step tighter
step last
for task in $(cat $one/init/cgroup.procs); do kill -9 $task; done
wait
echo "==== load"
echo max > $one/cpu.max
for n in 1 2 3; do inside $three 'while :; do :; done' & done
sleep 2
inside $three 'echo "loadavg $(cat /proc/loadavg)"'
inside $one 'echo "other $(cat /proc/loadavg)"'
for task in $(cat $three/init/cgroup.procs); do kill -9 $task; done
wait
sleep 60
inside $three 'echo "later $(cat /proc/loadavg)"
    echo "uptime $(cat /proc/uptime)"'
echo "host $(cat /proc/uptime)"

echo "==== memory"
fill() { inside $one 'available=$(sed -n "s/^MemAvailable: *\([0-9]*\) kB/\1/p" /proc/meminfo)
    dd if=/dev/zero of=/dev/null count=1 bs=$((available * '$1' / 100))K 2> /dev/null; echo "filled '$1' $?"'; }
# Pages of files in the group, which it can give back.
inside $one 'dd if=/dev/pmem0 of=/dev/null bs=1M count=200 2> /dev/null; grep -E "^(MemFree|MemAvailable|Cached)" /proc/meminfo'
show events $one/memory.events
fill 95
show events95 $one/memory.events
fill 120
show events120 $one/memory.events

echo "==== disks"
inside $one 'dd if=/dev/pmem0 of=/dev/null bs=64k count=32 iflag=direct 2> /dev/null'
io() { grep "^$(cat /sys/block/pmem0/dev) " $one/io.stat | sed "s/^/$1 /"; }
io before
inside $one 'grep pmem0 /proc/diskstats'
io after

echo "==== mark"
mkdir $one/init/deep
setmark() { perl -e '$p = $ARGV[0]; $n = "user.vmfirst.view"; $v = "1"; exit(syscall(188, $p, $n, $v, 1, 0) == 0 ? 0 : 1)' $1; }
mkdir -p $top/marked/box
echo "$all" > $top/marked/cgroup.subtree_control
echo 200M > $top/marked/memory.max
marked() { sh -c "echo \$\$ > $top/marked/box/cgroup.procs; sed -n 's/^MemTotal: *//p; s/^nr_anon_pages/anon/p' /var/lib/lxcfs/proc/meminfo; cat /var/lib/lxcfs/proc/pressure/memory"; }
echo 100M > $top/marked/box/memory.max
echo "own $(marked | head -n1)"
setmark $top/marked; echo "set $?"
echo "marked $(marked | head -n1)"
echo "root $(sh -c 'echo $$ > /sys/fs/cgroup/cgroup.procs; diff /var/lib/lxcfs/proc/swaps /proc/swaps && echo same')"

echo "==== end"
"#;

/// What each part of the script printed.
static SAID: LazyLock<String> = LazyLock::new(|| run(SCRIPT, 1800, |_| {}));

/// What a script printed on the host, with the program and lxcfs's packages in /mnt, and what
/// `more` puts there, within so many virtual seconds.
fn run(script: &str, limit_s: u64, more: impl FnOnce(&Path)) -> String {
    let files = tempfile::tempdir().unwrap();
    let put = |from: &Path, name: &str| {
        fs::copy(from, files.path().join(name)).unwrap();
    };
    put(&e2e::build_operators(&[]).join("vmfirst"), "vmfirst");
    let unit = "vmfirst-view.service";
    put(&repo().join("host/systemd").join(unit), unit);
    download(files.path(), &["lxcfs", "libfuse3-3"]);
    fs::write(files.path().join("script"), script).unwrap();
    more(files.path());

    let host = Workshop::open(Cancel::default())
        .unwrap()
        .host_with_libvirt();
    let host = host.unwrap().with(2048, limit_s);
    let work = tempfile::tempdir().unwrap();
    let said = host.run(files.path(), 1, work.path(), &Cancel::default());
    let said = said.unwrap_or_else(|error| {
        let read = |name| fs::read_to_string(work.path().join(name)).unwrap_or_default();
        panic!("{error}\n{}\n{}", read("console"), read("result"))
    });
    println!("{said}");
    said
}

/// Downloads Debian's packages into a folder.
fn download(folder: &Path, packages: &[&str]) {
    let mut download = Command::new("apt-get");
    download.current_dir(folder).args(["-q", "download"]);
    assert!(download.args(packages).status().unwrap().success());
}

/// What a part of the script printed.
fn said(part: &str) -> &'static str {
    let said: &str = &SAID;
    let (_, said) = said
        .split_once(&format!("==== {part}\n"))
        .unwrap_or_else(|| panic!("{said}"));
    said.split("==== ").next().unwrap()
}

/// What stands behind a mark that begins a line; it is there once.
fn after<'a>(said: &'a str, mark: &str) -> &'a str {
    let mut found = said.lines().filter_map(|line| line.strip_prefix(mark));
    match (found.next(), found.next()) {
        (Some(rest), None) => rest,
        _ => panic!("not once: {mark}: {said}"),
    }
}

/// The first number of a text.
fn number(text: &str) -> f64 {
    let word = text.split_whitespace().next().unwrap_or_default();
    word.trim_end_matches(',')
        .parse()
        .unwrap_or_else(|_| panic!("{text}"))
}

#[test]
fn a_group_has_the_cpus_and_the_memory_that_its_limits_leave() {
    let said = said("files");
    assert_eq!(after(said, "online "), "0");
    assert_eq!(after(said, "present "), "0");
    assert_eq!(after(said, "cpus "), "cpu0");
    assert_eq!(after(said, "possible "), "0-1");
    assert_eq!(after(said, "core "), "0");
    assert_eq!(after(said, "hidden "), "1");
    assert_eq!(after(said, "write "), "2");
    assert_eq!(said.matches("cpuinfo processor").count(), 1, "{said}");
    assert_eq!(number(after(said, "meminfo MemTotal:")), 300.0 * 1024.0);
    // The kernel's own figure of a little later.
    let (current, free) = (
        number(after(said, "current ")),
        number(after(said, "meminfo MemFree:")),
    );
    assert!(
        (300.0 * 1024.0 - free - current / 1024.0).abs() < 4096.0,
        "{said}"
    );
    let pressure = said.matches("pressure/cpu some avg10=").count();
    assert_eq!(pressure, 1, "{said}");
    let two = after(said, "two 1 ");
    assert!(two.starts_with("1 cpu1 "), "{two}");
    assert_eq!(number(after(said, "two MemTotal:")), 400.0 * 1024.0);
}

#[test]
fn programs_show_the_groups_machine() {
    let said = said("programs");
    assert_eq!(after(said, "onln "), "1");
    assert_eq!(number(after(said, "free Mem:")), 300.0 * 1048576.0);
    assert!(after(said, "uptime ").contains("load average: "), "{said}");
    assert!(
        after(said, "top MiB Mem :")
            .trim()
            .starts_with("300.0 total"),
        "{said}"
    );
    let total = said
        .lines()
        .find(|line| line.ends_with(" K total memory"))
        .unwrap();
    assert_eq!(number(total.trim_start_matches("vmstat")), 300.0 * 1024.0);
}

/// The words of a line of /proc/stat.
type Times = BTreeMap<String, Vec<u64>>;

/// One step of the times: cpu.stat before and after, in us, and /proc/stat between them.
fn steps() -> Vec<([u64; 2], Times, [u64; 2])> {
    let parts = said("times").split("step ").skip(1);
    let steps = parts.map(|part| {
        let of = |when: &str| {
            ["user_usec", "system_usec"]
                .map(|key| number(after(part, &format!("{when} {key} "))) as u64)
        };
        let lines = part.lines().filter_map(|line| line.strip_prefix("now cpu"));
        let times = lines.map(|line| {
            let (name, rest) = line.split_once(' ').unwrap();
            let words = rest.split_whitespace().map(|word| word.parse().unwrap());
            (name.to_string(), words.collect())
        });
        (of("before"), times.collect(), of("after"))
    });
    steps.collect()
}

#[test]
fn sums_are_cpu_stats_within_a_tick() {
    let steps = steps();
    assert_eq!(steps.len(), 8);
    for (before, times, after) in steps {
        let all = &times[""];
        for (at, shown) in [(0, all[0] + all[1]), (1, all[2])] {
            let (least, most) = (before[at] / 10_000, after[at] / 10_000);
            assert!(
                shown + 1 >= least && shown <= most + 1,
                "{least} {shown} {most}: {times:?}"
            );
        }
        assert!(all[0] > 0 && all[2] > 0, "{times:?}");
    }
}

#[test]
fn no_time_shrinks_when_quota_and_cpuset_change() {
    let mut last = Times::new();
    let mut seen = Vec::new();
    for (_, times, _) in steps() {
        seen.push(
            times
                .keys()
                .filter(|name| !name.is_empty())
                .cloned()
                .collect::<Vec<_>>()
                .join(","),
        );
        for (name, now) in times {
            let before = last
                .entry(name.clone())
                .or_insert_with(|| vec![0; now.len()]);
            assert!(
                now.iter()
                    .zip(before.iter())
                    .all(|(now, before)| now >= before),
                "cpu{name}: {before:?} {now:?}"
            );
            *before = now;
        }
        // The first line is the sum of all CPUs, those that are hidden now, too.
        let sum = |at: usize| -> u64 {
            last.iter()
                .filter(|(name, _)| !name.is_empty())
                .map(|(_, words)| words[at])
                .sum()
        };
        for at in [0, 2, 3, 7] {
            assert_eq!(sum(at), last[""][at], "{last:?}");
        }
    }
    assert_eq!(seen, ["0", "0", "0,1", "0,1", "1", "0,1", "0", "0"]);
}

#[test]
fn time_without_quota_is_stolen_and_the_rest_idle() {
    let steps = steps();
    let during = |from: usize, at: usize| steps[from + 1].1[""][at] - steps[from].1[""][at];
    // Two spinners, of a quota of a fifth of a CPU.
    let (busy, idle, stolen) = (during(6, 0) + during(6, 2), during(6, 3), during(6, 7));
    assert!(
        stolen > 2 * busy && idle < stolen / 4,
        "{busy} {idle} {stolen}"
    );
    // Without a limit nothing is stolen.
    assert_eq!(during(3, 7), 0);
}

#[test]
fn the_load_is_that_of_the_groups_own_tasks() {
    let said = said("load");
    let load = after(said, "loadavg ");
    // Three spin; who asks may not be asleep yet.
    let first = number(load);
    assert!([3.0, 4.0].contains(&first), "{load}");
    let three = format!("{first:.2} {first:.2} {first:.2} {first}/");
    assert!(load.starts_with(&three), "{load}");
    assert!(number(after(said, "other ")) < 2.5, "{said}");
    // By the kernel's formula after a minute of nothing.
    let later = number(after(said, "later ")) / first * std::f64::consts::E;
    assert!((0.85..1.15).contains(&later), "{later}");
    let (age, host) = (number(after(said, "uptime ")), number(after(said, "host ")));
    assert!(age > 62.0 && age + 3.0 < host, "{age} {host}");
}

#[test]
fn what_is_available_can_be_taken() {
    let said = said("memory");
    let kib = |key: &str| number(after(said, key));
    // Pages of files are available, and not free.
    assert!(
        kib("MemAvailable:") > kib("MemFree:") + 50.0 * 1024.0,
        "{said}"
    );
    let kills = |mark: &str| number(after(said, &format!("{mark} oom_kill ")));
    assert_eq!(after(said, "filled 95 "), "0");
    assert_eq!(kills("events95"), kills("events"), "{said}");
    assert_ne!(after(said, "filled 120 "), "0");
    assert!(kills("events120") > kills("events95"), "{said}");
}

#[test]
fn disks_are_told_as_io_stat_has_them() {
    let said = said("disks");
    let value = |when: &str, key: &str| -> u64 {
        let mut words = after(said, when).split(' ');
        let word = words.find_map(|word| word.strip_prefix(key));
        word.unwrap().parse().unwrap()
    };
    let line = said.lines().find(|line| line.contains(" pmem0 ")).unwrap();
    let words = line.split_whitespace();
    let words: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    // Behind the two numbers of the disk, whose name is no number.
    for (shown, key, unit) in [(words[2], "rios=", 1), (words[4], "rbytes=", 512)] {
        let range = value("before ", key) / unit..=value("after ", key) / unit;
        assert!(range.contains(&shown), "{key} {said}");
    }
    assert!(words[2] >= 32, "{said}");
}

#[test]
fn a_mark_widens_the_machine_and_the_root_group_has_the_hosts() {
    let said = said("mark");
    assert_eq!(after(said, "own "), format!("{} kB", 100 * 1024));
    assert_eq!(after(said, "set "), "0");
    assert_eq!(after(said, "marked "), format!("{} kB", 200 * 1024));
    assert_eq!(after(said, "root "), "same");
}
