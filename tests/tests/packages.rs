//! The packages of `cargo xtask deb` are clean for lintian, and each of the two releases of
//! Debian that they are for installs them, runs what is in them and has nothing of them left
//! when they are purged.

use std::path::Path;

use e2e::workshop;
use testbed::proc::{self, Cancel};
use testbed::{deb, packages};

const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// In the new system, with the packages in its /packages. What an installation leaves that is
/// the system's own is its list of packages, logs and caches.
const USE: &str = r#"
set -eu
kept() { find /etc /lib /usr /var /opt /srv /boot -xdev \
    -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' -not -path '/var/cache/*' | sort; }
kept > /before
dpkg --install /packages/*.deb
vmm --version
vmfirst --version
dense-bench --version
test "$(dense-bench run quick 2>&1 >/dev/null | wc -l)" = 1
for page in vmm vmm-run vmfirst vmfirst-set dense-bench-run; do
    zcat /usr/share/man/man8/$page.8.gz | grep -q '^\.TH'
done
for program in vmm vmfirst dense-bench; do
    bash -n /usr/share/bash-completion/completions/$program
    test -s /usr/share/zsh/vendor-completions/_$program
done
printf 'kernel = "/usr/lib/vmfirst-bench/guest/bzImage"\ninitrd = "/usr/lib/vmfirst-bench/guest/compute.cpio"\n' \
    > /etc/vmfirst/machines/web.toml
vmm run --config /etc/vmfirst/machines/web.toml --name web --dry-run
rm /etc/vmfirst/machines/web.toml
grep -q '^ExecStart=/usr/bin/vmm ' /lib/systemd/system/vmm@.service
dpkg --purge vmfirst vmfirst-bench
kept > /after
diff /before /after
"#;

#[test]
fn packages_are_installed_used_and_purged() {
    let cancel = Cancel::default();
    let workshop = workshop();
    packages::install_for_tests(&workshop.cache, &cancel).unwrap();
    let out = tempfile::tempdir().unwrap();
    let built = deb::build(&workshop, out.path(), &cancel).unwrap();
    let mut lintian = proc::command("lintian");
    lintian
        .args(["--fail-on", "error,warning", "--allow-root"])
        .args(&built);
    proc::run_logged(lintian, &out.path().join("lintian.log"), &cancel, |_| {}).unwrap();
    for release in RELEASES {
        install_use_purge(release, out.path(), &cancel);
    }
}

fn install_use_purge(release: &str, packages: &Path, cancel: &Cancel) {
    let log = packages.join(format!("{release}.log"));
    let script = packages.join("use");
    std::fs::write(&script, USE).unwrap();
    let mut make = proc::command("mmdebstrap");
    make.args(["--variant=minbase", "--mode=root", "--format=null"])
        .arg("--include=e2fsprogs")
        .arg("--customize-hook=mkdir \"$1/packages\"")
        .arg(format!(
            "--customize-hook=cp {}/*.deb \"$1/packages\"",
            packages.display()
        ))
        .arg(format!(
            "--customize-hook=cp {} \"$1/use\"",
            script.display()
        ))
        .arg("--customize-hook=chroot \"$1\" sh /use")
        .arg(release);
    proc::run_logged(make, &log, cancel, |_| {})
        .unwrap_or_else(|error| panic!("{release}: {error}"));
}
