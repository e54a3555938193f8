//! A host that is not a lab: Debian's own kernel of 6.12 with KVM as a module, as it comes and
//! with the series. The packages take an hour to build, so what needs them is asked for:
//! `cargo test -p e2e --features emulator --test debian_kernel -- --ignored`.

use dense_bench::plan::cells;
use dense_record::chosen::HostKernel;
use dense_record::job::Done;
use dense_record::measured::{CellOutput, Measured};
use e2e::{kernel_packages, parts_of, run_cell, workshop};
use testbed::packages::install_for_tests;
use testbed::proc::{self, Cancel};

/// One short cell of a plan, run on another kernel and preemption model.
fn measured(plan: &str, kernel: HostKernel, preempt: &str) -> Measured {
    let mut cell = cells(plan, None, None).unwrap().remove(0);
    cell.host_kernel = kernel;
    let knob = "/sys/kernel/debug/sched/preempt";
    cell.sysfs = [(knob.into(), preempt.into())].into();
    let parts = parts_of([cell.workload.as_str()], [kernel]);
    let (output, done) = run_cell(&parts, &cell);
    match done {
        Done::Cell(CellOutput::Ok(measured)) => measured,
        _ => panic!("{done:?}: {}", String::from_utf8_lossy(&output.console)),
    }
}

#[test]
fn debians_own_kernel_runs_a_cell() {
    let measured = measured("smoke", HostKernel::Debian, "voluntary");
    assert!(measured.value > 0.0, "{measured:?}");
    assert!(
        !measured.counters.contains_key("spin_exits"),
        "{measured:?}"
    );
}

#[test]
#[ignore = "builds Debian's kernel: an hour"]
fn the_series_on_debians_configuration_counts_its_yields() {
    for preempt in ["voluntary", "full"] {
        let counters = measured("truth", HostKernel::DebianPatched, preempt).counters;
        assert!(counters["spin_exits"] > 0, "{preempt}: {counters:?}");
    }
}

/// In a minimal system with Debian's own kernel.
const INSTALL_AND_PURGE: &str = r#"set -e
before=$(ls /boot /lib/modules)
apt-get install -y --no-install-recommends /packages/linux-image-*.deb
ours=$(ls /lib/modules | grep vmfirst)
for file in vmlinuz initrd.img config System.map; do test -s "/boot/$file-$ours"; done
test -e "/lib/modules/$ours/kernel/arch/x86/kvm/kvm.ko.xz"
test "$(ls /lib/modules | wc -l)" = 2
apt-get purge -y "linux-image-$ours"
test "$(ls /boot /lib/modules)" = "$before"
"#;

#[test]
#[ignore = "builds Debian's kernel: an hour; needs root"]
fn the_package_installs_beside_the_stock_kernel_and_goes() {
    let packages = kernel_packages();
    install_for_tests(&workshop().cache, &Cancel::default()).unwrap();
    let work = tempfile::tempdir().unwrap();
    let script = work.path().join("script");
    std::fs::write(&script, INSTALL_AND_PURGE).unwrap();
    let mut make = proc::command("mmdebstrap");
    make.args(["--variant=minbase", "--mode=root", "--format=null"])
        .arg("--include=initramfs-tools,linux-image-6.12-cloud-amd64,zstd")
        .arg("--customize-hook=mkdir \"$1/packages\"");
    for file in packages {
        make.arg(format!(
            "--customize-hook=cp {} \"$1/packages\"",
            file.display()
        ));
    }
    make.arg(format!(
        "--customize-hook=cp {} \"$1/script\"",
        script.display()
    ))
    .arg("--customize-hook=chroot \"$1\" sh /script")
    .args(["bookworm", "/dev/null"])
    .arg("deb http://deb.debian.org/debian bookworm main")
    .arg("deb http://deb.debian.org/debian-security bookworm-security main");
    let log = work.path().join("log");
    proc::run_logged(make, &log, &Cancel::default(), |_| {}).unwrap_or_else(|error| {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        panic!("{error}: {log}");
    });
}
