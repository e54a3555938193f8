//! 16 vCPUs with Debian's own kernel, on a host of 4 CPUs, with load on three disks and
//! two networks: no interrupt is lost, and no byte.
//!
//! guests/load/ is the load. Each of its requests, packets and sleeps has a deadline
//! before the timers of Linux that would cover up for a lost interrupt (200 ms and more
//! for TCP, which also counts what it sends again; 5 s for a network's queue; 30 s for a
//! disk). Two disks and a network have one request or packet under way at a time, so that
//! no later interrupt helps an earlier one, and all interrupts move from vCPU to vCPU.

use dense_record::job::{Done, Job, Launch};
use e2e::{host_of_debian, kernel, launch, run_host, tap};
use serde_json::Value;
use testbed::kernel::Variant;
use testbed::workshop::Host;

const VCPUS: u64 = 16;
const DISKS: [&str; 3] = ["/run/disk0", "/run/disk1", "/run/disk2"];
/// The longest that an operation may take.
const DEADLINE_MS: u64 = 100;

/// What Linux prints of interrupts and tasks that it misses.
const REPORTS: &[&str] = &[
    "WARNING:",
    "BUG:",
    "Oops",
    "hung",
    "blocked for more than",
    "soft lockup",
    "rcu: INFO",
    "timeout",
    "timed out",
    "NETDEV WATCHDOG",
    "nobody cared",
    "I/O error",
    "LOAD FAILED",
];

#[test]
fn a_second_of_load_loses_nothing() {
    survive(Variant::Stock, 1000);
}

#[test]
#[ignore = "20 virtual seconds, 5 minutes: `cargo test -p e2e --features emulator --test load -- --ignored`"]
fn twenty_seconds_of_load_lose_nothing() {
    survive(Variant::Patched, 20_000);
}

/// The load's half on the host, with the VMM; the guest's shell starts the other half.
fn load(ms: u64) -> Launch {
    let disks = DISKS.map(|disk| format!(" --disk {disk}")).concat();
    let load = format!("--ms {ms} --deadline-ms {DEADLINE_MS}");
    let host = format!("/vmfirst/guest-load host {load}{disks} --");
    let vmm = format!(
        "/vmfirst/vmm run --kernel /vmfirst/debian/vmlinuz --initrd /vmfirst/debian/initrd \
         --cpus {VCPUS} --mem 512M{disks} --net tap=vmtap1 --net tap=vmtap2 --cmdline"
    );
    let mut command = launch(&format!("{host} {vmm}")).command;
    // Whoever is stuck is told of soon; warnings are shown.
    command.push(
        "console=ttyS0 loglevel=5 panic=-1 rcupdate.rcu_cpu_stall_timeout=3 \
         sysctl.kernel.watchdog_thresh=1 sysctl.kernel.hung_task_timeout_secs=2"
            .into(),
    );
    let address = |n: u32| {
        let eth = n - 1;
        format!("ip addr add 10.0.{n}.2/24 dev eth{eth}; ip link set eth{eth} up\n")
    };
    let [one, two] = [1, 2].map(address);
    Launch {
        command,
        input: format!("{one}{two}guest-load guest {load}\npoweroff -f\n"),
    }
}

/// What one half said.
fn verdict(console: &[String], who: &str) -> Value {
    let mark = format!("LOAD {who} ");
    let line = console.iter().find_map(|line| line.strip_prefix(&mark));
    let line = line.unwrap_or_else(|| panic!("no {mark}: {console:#?}"));
    serde_json::from_str(line).unwrap()
}

fn survive(variant: Variant, ms: u64) {
    let host = Host {
        kernel: kernel(variant),
        ..host_of_debian()
    };
    let mut launches: Vec<_> = (1..=2).flat_map(tap).collect();
    launches.push(load(ms));
    let (output, done) = run_host(&host, &Job::Launches(launches), 1);
    let Done::Launches(mut launched) = done else {
        panic!("{done:?}");
    };
    let load = launched.pop().unwrap();
    assert!(launched.iter().all(|l| l.code == Some(0)), "{launched:?}");
    assert_eq!(load.code, Some(0), "{load:#?}");
    // The host's console has the guest's in it. At its boot Debian's kernel warns of the
    // emulated CPU.
    let console = String::from_utf8_lossy(&output.console);
    let (_, console) = console.split_once("VMFIRST READY").unwrap();
    for report in REPORTS {
        assert!(!console.contains(report), "{report}: {console}");
    }
    let [guest, host] = ["GUEST", "HOST"].map(|who| verdict(&load.console, who));
    println!("{guest:#}\n{host:#}");
    agree(&guest, &host);
    worked(&guest, ms);
}

/// Both halves saw the same data, none of it twice.
fn agree(guest: &Value, host: &Value) {
    assert_eq!(host["code"], 0);
    for what in ["disks", "up", "down", "pings"] {
        assert_eq!(guest[what], host[what], "{what}: {guest} {host}");
    }
    for half in [guest, host] {
        assert_eq!(half["tcp"]["RetransSegs"], 0, "{half}");
    }
}

/// The load was one: on all vCPUs, by every device, up to the end.
fn worked(guest: &Value, ms: u64) {
    assert_eq!(guest["cpus"], VCPUS);
    assert!(guest["seconds"].as_f64().unwrap() * 1000.0 >= ms as f64);
    let of = |value: &Value| value.as_u64().unwrap();
    assert!(
        of(&guest["disk_bytes"]) > 0 && of(&guest["pings"]) > 0,
        "{guest}"
    );
    for stream in ["up", "down"] {
        assert!(of(&guest[stream]["bytes"]) > 0, "{guest}");
    }
    let interrupts = guest["interrupts"].as_object().unwrap();
    assert_eq!(interrupts.len(), DISKS.len() + 2, "{guest}");
    for line in interrupts.values() {
        assert!(of(&line["cpus"]) > VCPUS / 2, "{guest}");
    }
}
