//! What comes from Debian 12, and at which version it was tried.

use crate::cache::Cache;
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// Packages that the builds and the images need on top of Rust and git.
const NEEDED: &[&str] = &[
    "bc",
    "bison",
    "build-essential",
    // Compiles BPF.
    "clang",
    "cpio",
    "dbench",
    "dpkg-dev",
    "e2fsprogs",
    "flex",
    "libelf-dev",
    "libfdt-dev",
    "libglib2.0-dev",
    "libpixman-1-dev",
    "libmemcached-tools",
    "libvips-tools",
    "linux-source-6.12",
    "lz4",
    "memcached",
    "meson",
    "ninja-build",
    "pkg-config",
    "postgresql-15",
    "python3-distutils",
    "python3-venv",
    "qemu-system-data",
    "rt-tests",
    "seabios",
    "stress-ng",
    "tcc",
    "zlib1g-dev",
];

/// What only the tests need.
const FOR_TESTS: &[&str] = &[
    "busybox-static",
    "chromium",
    "chromium-driver",
    "iproute2",
    "lintian",
    "mmdebstrap",
    // promtool.
    "prometheus",
    "sparse",
    // systemd-analyze.
    "systemd",
];

/// What makes packages.
const FOR_PACKAGES: &[&str] = &["debhelper"];

/// What packages of a kernel with Debian's configuration are made of and by.
pub(crate) const FOR_KERNEL_PACKAGES: &[&str] = &[
    "debhelper",
    "kmod",
    "libdw-dev",
    "libssl-dev",
    "linux-config-6.12",
    "pahole",
    "rsync",
];

/// What our VMM is compared with.
pub const PEERS: &[&str] = &["qemu-system-x86"];

/// The versions that the published figures were made with.
const TRIED: &[(&str, &str)] = &[
    ("dbench", "4.0-2.1"),
    ("libmemcached-tools", "1.1.4-1"),
    ("libvips-tools", "8.14.1-3+deb12u3"),
    ("linux-source-6.12", "6.12.117-1~deb12u1"),
    ("memcached", "1.6.18-1+deb12u1"),
    ("postgresql-15", "15.18-0+deb12u1"),
    ("qemu-system-data", "1:7.2+dfsg-7+deb12u18"),
    ("rt-tests", "2.4-1"),
    ("seabios", "1.16.2-1"),
    ("stress-ng", "0.15.06-2"),
    ("tcc", "0.9.27+git20200814.62c30a4a-1"),
];

/// Installs what is missing; returns a warning for each version that is not the tried one.
pub fn install(cache: &Cache, cancel: &Cancel) -> Result<Vec<String>> {
    install_missing(NEEDED, cache, cancel)?;
    Ok(warnings())
}

/// Installs what is missing for the tests.
pub fn install_for_tests(cache: &Cache, cancel: &Cancel) -> Result<()> {
    install_missing(FOR_TESTS, cache, cancel)
}

/// Installs what is missing to make packages.
pub fn install_for_packages(cache: &Cache, cancel: &Cancel) -> Result<()> {
    install_missing(FOR_PACKAGES, cache, cancel)
}

/// Installs what is missing of the VMMs that ours is compared with.
pub fn install_peers(cache: &Cache, cancel: &Cancel) -> Result<()> {
    install_missing(PEERS, cache, cancel)
}

pub(crate) fn install_missing(packages: &[&str], cache: &Cache, cancel: &Cancel) -> Result<()> {
    let missing = packages.iter().copied().filter(|p| version(p).is_none());
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing, cache, cancel)
}

fn apt_install(missing: &[&str], cache: &Cache, cancel: &Cancel) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::MissingPackages(missing.join(" ")));
    }
    let log = cache.log("apt")?;
    let mut update = proc::command("apt-get");
    update.args(["-q", "update"]);
    proc::run_logged(update, &log, cancel, |_| {})?;
    let mut install = proc::command("apt-get");
    install
        .args(["-q", "-y", "--no-install-recommends", "install"])
        .args(missing)
        .env("DEBIAN_FRONTEND", "noninteractive");
    proc::run_logged(install, &log, cancel, |_| {})
}

fn warnings() -> Vec<String> {
    TRIED
        .iter()
        .filter_map(|(package, tried)| {
            let found = version(package).unwrap_or_default();
            (found != *tried).then(|| {
                format!("{package} is {found}, the published figures were made with {tried}")
            })
        })
        .collect()
}

/// The installed version of a Debian package.
pub fn version(package: &str) -> Option<String> {
    let mut query = proc::command("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status} ${Version}", package]);
    let out = proc::output(query).ok()?;
    out.strip_prefix("installed ").map(str::to_string)
}

/// The paths of what a Debian package has installed.
pub fn files(package: &str) -> Result<Vec<String>> {
    let mut list = proc::command("dpkg-query");
    list.args(["-L", package]);
    Ok(proc::output(list)?.lines().map(str::to_string).collect())
}

/// Name and version of everything that shapes a measurement, for the results: all packages
/// that builds and images need, and the C library in the images.
pub fn versions() -> Vec<(String, String)> {
    let names = NEEDED.iter().copied().chain(["libc6"]);
    names
        .filter_map(|package| Some((package.to_string(), version(package)?)))
        .collect()
}
