//! What programs make of it: each in a plain group, with lxcfs's files and with ours, all with one
//! CPU's time of two, 400 MiB, and a task that computes. docs/view.md has the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// Three groups one after the other, with the same programs.
const SCRIPT: &str = r#"
set -u
rm /etc/fstab
export PATH=$PATH:/mnt/root/usr/bin LD_LIBRARY_PATH=/mnt/root/usr/lib/x86_64-linux-gnu
ln -s /mnt/root/etc/java-17-openjdk /etc/java-17-openjdk
ln -s /mnt/root/usr/share/nodejs /usr/share/nodejs
mkdir -p /usr/lib/x86_64-linux-gnu/lxcfs /run/lxcfs /run/view
cp /mnt/root/usr/lib/x86_64-linux-gnu/lxcfs/* /usr/lib/x86_64-linux-gnu/lxcfs/
modprobe fuse
lxcfs -l /run/lxcfs > /tmp/lxcfs.log 2>&1 &
/mnt/vmfirst view /run/view &
top=/sys/fs/cgroup
echo "+cpu +cpuset +memory +io +pids" > $top/cgroup.subtree_control

cat > /tmp/programs <<'END'
kind=$1 dir=$2
for file in $dir/proc/*; do [ -f $file ] && mount --bind $file /proc/${file##*/}; done
[ -d $dir/sys ] && mount --bind $dir/sys/devices/system/cpu /sys/devices/system/cpu
say() { echo "cell $kind | $1 | $2"; }
first() { grep -oE "$1" | grep -oE '[0-9]+[.0-9]*[MGK]?' | head -n1; }
say 'nproc' "$(nproc)"
say 'free -m: total' "$(free -m | first 'Mem: +[0-9]+')"
say 'uptime: load' "$(uptime | sed 's/.*average: //; s/,.*//')"
top -b -1 -n2 -d1 > /tmp/top
say 'top: MiB' "$(first 'MiB Mem : +[0-9.]+' < /tmp/top)"
say 'top: idle of the first CPU' "$(grep '^%Cpu0' /tmp/top | tail -n1 | first '[0-9.]+ id')"
vmstat 1 2 > /tmp/vmstat
say 'vmstat: idle, stolen' "$(tail -n1 /tmp/vmstat | while read r b s f u c si so bi bo in cs us sy id wa st rest; do echo $id $st; done)"
iostat > /tmp/iostat
say 'iostat: CPUs' "$(first '\([0-9]+ CPU' < /tmp/iostat)"
say 'stress-ng --cpu 0: workers' "$(stress-ng --cpu 0 -t 1 2>&1 | first 'hogs: [0-9]+')"
say 'node: CPUs' "$(node -p 'os.cpus().length')"
say 'node: MiB' "$(node -p 'os.totalmem() >> 20')"
say 'Go: GOMAXPROCS' "$(/mnt/maxprocs 2>&1)"
java() { /mnt/root/usr/lib/jvm/java-17-openjdk-amd64/bin/java -Xlog:gc+init $1 -version > /tmp/java 2>&1; }
java -XX:+UseContainerSupport
say 'Java: processors' "$(first '[0-9]+ available' < /tmp/java)"
say 'Java: heap' "$(first 'Max Capacity: [0-9]+[MGK]' < /tmp/java)"
java -XX:-UseContainerSupport
say 'Java without container support: processors' "$(first '[0-9]+ available' < /tmp/java)"
say 'Java without container support: heap' "$(first 'Max Capacity: [0-9]+[MGK]' < /tmp/java)"
END
for kind in plain lxcfs view; do
    group=$top/$kind
    mkdir $group
    echo 400M > $group/memory.max
    echo "100000 100000" > $group/cpu.max
    sh -c 'echo $$ > $0/cgroup.procs; while :; do :; done' $group &
    sh -c 'echo $$ > $0/cgroup.procs; exec unshare -m sh /tmp/programs $1 /run/$1' $group $kind
    echo "made $kind $(( $(date +%s) - $(stat -c %Y $group/cgroup.procs) ))"
    for task in $(cat $group/cgroup.procs); do kill -9 $task; done
done
"#;

/// Packages whose programs are run, and of their libraries those that the host lacks.
const PACKAGES: [&str; 30] = [
    "libapparmor1",
    "libbrotli1",
    "libbsd0",
    "libc-ares2",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libicu72",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "libmd0",
    "libnghttp2-14",
    "libnode108/bookworm",
    "libsctp1",
    "libuv1",
    "libwayland-server0",
    "libxxhash0",
    "node-acorn",
    "node-cjs-module-lexer",
    "node-undici",
    "nodejs/bookworm",
    "openjdk-17-jre-headless",
    "stress-ng",
    "sysstat",
];
const GO: [&str; 2] = ["golang-1.19-go", "golang-1.19-src"];
const GO_PROGRAM: &str = "package main
import \"runtime\"
func main() { print(runtime.GOMAXPROCS(0)) }
";

/// What each program showed: plain, with lxcfs, with ours.
static TABLE: LazyLock<BTreeMap<String, [String; 3]>> = LazyLock::new(|| {
    let said = super::run(SCRIPT, 1800, put_programs);
    let mut table = BTreeMap::<String, [String; 3]>::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("cell ")) {
        let [kind, what, shown] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let at = ["plain", "lxcfs", "view"].iter().position(|of| *of == kind);
        table.entry(what.into()).or_default()[at.unwrap()] = shown.to_string();
    }
    for (what, [plain, lxcfs, view]) in &table {
        println!("| {what} | {plain} | {lxcfs} | {view} |");
    }
    table
});

/// Puts the programs below `root` in a folder, unpacked.
fn put_programs(files: &Path) {
    let root = files.join("root");
    let packages = tempfile::tempdir().unwrap();
    super::download(packages.path(), &PACKAGES);
    unpack(packages.path(), &root);
    unpack(files, &root);
    let go = tempfile::tempdir().unwrap();
    super::download(go.path(), &GO);
    unpack(go.path(), &go.path().join("root"));
    let program = go.path().join("maxprocs.go");
    fs::write(&program, GO_PROGRAM).unwrap();
    let goroot = go.path().join("root/usr/lib/go-1.19");
    // Its links are to places below /.
    for name in ["src", "test", "misc", "api"] {
        let _ = fs::remove_file(goroot.join(name));
    }
    let source = go.path().join("root/usr/share/go-1.19/src");
    std::os::unix::fs::symlink(source, goroot.join("src")).unwrap();
    let mut build = Command::new(goroot.join("bin/go"));
    build
        .args(["build", "-o"])
        .arg(files.join("maxprocs"))
        .arg(&program);
    build
        .env("GOROOT", &goroot)
        .env("GOCACHE", go.path())
        .env("CGO_ENABLED", "0");
    build.env("GO111MODULE", "off").env("GOFLAGS", "-p=2");
    assert!(build.status().unwrap().success());
}

/// Unpacks all packages in a folder.
fn unpack(packages: &Path, root: &Path) {
    for entry in fs::read_dir(packages).unwrap() {
        let package = entry.unwrap().path();
        if package.extension().is_some_and(|name| name == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").args([&package, root]);
            assert!(unpack.status().unwrap().success());
        }
    }
}

#[test]
#[ignore = "gets Java, Go and Node: `cargo test -p e2e --features emulator --test view -- --ignored`"]
fn programs_have_one_cpu_and_the_groups_memory() {
    let view = |what: &str| TABLE[what][2].as_str();
    for cpus in ["iostat: CPUs", "node: CPUs", "Java: processors"] {
        assert_eq!(view(cpus), "1", "{cpus}");
    }
    assert_eq!(view("free -m: total"), "400");
    assert_eq!(view("top: MiB"), "400.0");
    assert_eq!(view("node: MiB"), "400");
    // A quarter of the memory, but no less than 126 MiB; of the host's it would be 478.
    assert_eq!(view("Java: heap"), "126M");
    // They ask the scheduler, or how many CPUs are possible.
    for asks in [
        "nproc",
        "Go: GOMAXPROCS",
        "Java without container support: processors",
        "stress-ng --cpu 0: workers",
    ] {
        assert_eq!(view(asks), "2", "{asks}");
    }
    // sysinfo(2) is the host's.
    assert_eq!(view("Java without container support: heap"), "478M");
    assert_eq!(view("top: idle of the first CPU"), "0.0");
}
