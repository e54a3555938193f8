//! How much of the host's memory idle guests keep that touched and freed 256 MiB: `vmm` beside
//! QEMU microvm with the same devices.

use std::fmt::Write;
use std::fs;

use dense_report::md::Table;
use testbed::workshop::{commit, repo};

use crate::run;

/// What is compared: its name, the VMM, its options, whether the host's ksmd runs.
const ROWS: [(&str, &str, &str, bool); 8] = [
    ("QEMU microvm", "qemu", "", false),
    (
        "QEMU microvm, reporting",
        "qemu",
        ",free-page-reporting=on",
        false,
    ),
    ("QEMU microvm, ksmd runs", "qemu", "", true),
    ("vmm", "vmm", "", false),
    ("vmm, reporting", "vmm", ",reporting=on", false),
    ("vmm, thp=off", "vmm", ",thp=off", false),
    (
        "vmm, thp=off, reporting",
        "vmm",
        ",thp=off,reporting=on",
        false,
    ),
    ("vmm, ksm, ksmd runs", "vmm", ",ksm=on", true),
];
const GUESTS: u32 = 20;
/// Of the host: all guests' memory and its own.
const MEM_MIB: u32 = 10240;
/// Virtual time.
const LIMIT_S: u64 = 7200;

/// `row NAME VMM OPTIONS KSM` starts GUESTS guests one after the other, waits until they have
/// given back what they give back, and tells what the host has less than before.
const SCRIPT: &str = r#"
available() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
    sleep 1
    awk '/^MemAvailable/ { print $2 }' /proc/meminfo
}
guest() {
    ip tuntap add dev tap$1 mode tap
    ip link set tap$1 up
    truncate -s 16M /tmp/$1.img
    touch /tmp/$1.out
    cmdline="console=ttyS0 quiet panic=-1 touch_mib=256"
    case $2 in
    vmm)
        vmm run --name g$1 --kernel /mnt/vmlinuz --initrd /mnt/initrd --memory 384M$3 \
            --disk path=/tmp/$1.img --net tap=tap$1 --cmdline "$cmdline" \
            < /dev/null > /tmp/$1.out 2>&1 &
        ;;
    qemu)
        qemu-system-x86_64 -bios bios-microvm.bin \
            -M microvm,x-option-roms=off,isa-serial=on,rtc=on -accel kvm -cpu host -smp 1 \
            -m 384 -nodefaults -no-user-config -display none -no-reboot \
            -serial file:/tmp/$1.out -kernel /mnt/vmlinuz -initrd /mnt/initrd \
            -append "$cmdline" -global virtio-mmio.force-legacy=false \
            -drive id=disk,file=/tmp/$1.img,format=raw,if=none \
            -device virtio-blk-device,drive=disk \
            -netdev tap,id=net,ifname=tap$1,script=no,downscript=no \
            -device virtio-net-device,netdev=net \
            -device virtio-balloon-device$3 < /dev/null > /tmp/$1.err 2>&1 &
        ;;
    esac
    pids="$pids $!"
    for n in $(seq 300); do
        grep -q 'VMFIRST TOUCHED' /tmp/$1.out && return
        sleep 0.2
    done
    echo "no guest $1 of $2$3:"; cat /tmp/$1.out /tmp/$1.err
}
merge() {
    ksm=/sys/kernel/mm/ksm
    echo 20000 > $ksm/pages_to_scan
    echo 1 > $ksm/run
    until=$(($(cat $ksm/full_scans) + 3))
    for n in $(seq 600); do
        [ $(cat $ksm/full_scans) -ge $until ] && break
        sleep 0.5
    done
    echo 0 > $ksm/run
}
row() {
    before=$(available)
    pids=
    for n in $(seq $GUESTS); do
        guest $n $2 "$3"
    done
    sleep 10
    [ $4 = true ] && merge
    echo "row $1: $((before - $(available)))"
    kill -9 $pids
    wait
    [ $4 = true ] && echo 2 > /sys/kernel/mm/ksm/run
    for n in $(seq $GUESTS); do
        ip link del tap$n
    done
}
"#;

/// MiB that the host has less with so many guests, for each row.
fn measure(rows: &[(&str, &str, &str, bool)], guests: u32) -> Vec<f64> {
    let mut script = format!("GUESTS={guests}\n{SCRIPT}");
    for (name, vmm, options, ksm) in rows {
        // Writing to a string can't fail.
        let _ = writeln!(script, "row '{name}' {vmm} '{options}' {ksm}");
    }
    let said = run(&[("density", script)], &[], |host| {
        host.with(MEM_MIB, LIMIT_S)
    });
    assert!(!said.contains("no guest"), "{said}");
    let kib = |name: &str| -> f64 {
        let row = said
            .lines()
            .find_map(|line| line.strip_prefix(&format!("row {name}: ")));
        row.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
    };
    rows.iter().map(|(name, ..)| kib(name) / 1024.0).collect()
}

/// Not a test: it makes the table of docs/vmm-density.md anew.
#[test]
#[ignore = "writes docs/vmm-density.md; hours"]
fn write_the_table() {
    let path = repo().join("docs/vmm-density.md");
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = (
        "<!-- table: made by libvirt_host's write_the_table -->\n",
        "<!-- end -->",
    );
    let (head, rest) = page.split_once(begin).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    let commit = commit().unwrap_or_default();
    let all = measure(&ROWS, GUESTS);
    let guests = format!("{GUESTS} guests");
    let mut table = Table::new([guests.as_str(), "MiB of the host", "a guest"]);
    for ((name, ..), mib) in ROWS.iter().zip(all) {
        let each = mib / f64::from(GUESTS);
        table.row([name.to_string(), format!("{mib:.0}"), format!("{each:.1}")]);
    }
    let text = format!("{table}\nCommit {commit}.\n");
    fs::write(&path, format!("{head}{begin}{text}{end}{tail}")).unwrap();
}
