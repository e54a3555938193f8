//! The host that operators have, emulated: Debian 12 with systemd, libvirt, QEMU and
//! Debian's own kernel. It is booted once, and each module has a part of its script.

mod density;
mod discovery;
mod ten_minutes;
mod unit;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use testbed::libvirt_host::LibvirtHost;
use testbed::proc::Cancel;
use testbed::workshop::{Workshop, repo};

/// Starts a VM of libvirt whose vCPUs spin: `start NAME VCPUS`. It has a thread for its
/// disk, and its network is vhost's.
const START: &str = r#"
start() {
    cp /mnt/spin /var/lib/libvirt/images/$1.img
    # Firmware starts from no disk of a single sector.
    truncate -s 1M /var/lib/libvirt/images/$1.img
    cat > /tmp/$1.xml <<END
<domain type='kvm'><name>$1</name><memory unit='MiB'>64</memory><vcpu>$2</vcpu>
<iothreads>1</iothreads>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw' iothread='1'/>
<source file='/var/lib/libvirt/images/$1.img'/><target dev='vda' bus='virtio'/></disk>
<interface type='ethernet'><model type='virtio'/><driver name='vhost'/></interface>
</devices></domain>
END
    virsh define /tmp/$1.xml
    virsh start $1
}
"#;

/// What each part of the script printed.
static SAID: LazyLock<String> = LazyLock::new(|| {
    run(
        &[
            ("ten_minutes", ten_minutes::script()),
            ("discovery", discovery::SCRIPT.into()),
            ("unit", unit::script()),
        ],
        &[],
        |host| host,
    )
});

/// What a part of the script printed.
fn said(part: &str) -> &'static str {
    let begin = format!("==== part {part}\n");
    let said: &str = &SAID;
    let (_, said) = said.split_once(&begin).unwrap_or_else(|| panic!("{said}"));
    let (said, _) = said
        .split_once("==== end\n")
        .unwrap_or_else(|| panic!("{said}"));
    said
}

/// What stands behind a mark that begins a line; it is there once.
fn after<'a>(said: &'a str, mark: &str) -> &'a str {
    let mut found = said.lines().filter_map(|line| line.strip_prefix(mark));
    match (found.next(), found.next()) {
        (Some(rest), None) => rest,
        _ => panic!("not once: {mark}: {said}"),
    }
}

/// Boots the host as `of` makes it, with the files that all parts use and `more`, and runs the
/// parts there, each in a shell of its own.
fn run(
    parts: &[(&str, String)],
    more: &[(&Path, &str)],
    of: impl FnOnce(LibvirtHost) -> LibvirtHost,
) -> String {
    let workshop = Workshop::open(Cancel::default()).unwrap();
    let (vmm, debian, spin) = workshop.vmm_and_guests().unwrap();
    let files = tempfile::tempdir().unwrap();
    let put = |from: &Path, name: &str| {
        fs::copy(from, files.path().join(name)).unwrap();
    };
    put(&e2e::build_operators(&[]).join("vmfirst"), "vmfirst");
    put(&vmm, "vmm");
    put(&debian.kernel, "vmlinuz");
    put(&debian.initrd, "initrd");
    put(&spin, "spin");
    put(&repo().join("vmm/systemd/vmm@.service"), "vmm@.service");
    fs::write(files.path().join("web.toml"), unit::machine()).unwrap();
    for (from, name) in more {
        put(from, name);
    }
    let mut script = String::from("export PATH=/mnt:$PATH\n");
    for (part, text) in parts {
        fs::write(files.path().join(part), START.to_string() + text).unwrap();
        script += &format!("echo '==== part {part}'; sh /mnt/{part}; echo '==== end'\n");
    }
    fs::write(files.path().join("script"), script).unwrap();

    let work = tempfile::tempdir().unwrap();
    let host = of(workshop.host_with_libvirt().unwrap());
    let said = host.run(files.path(), 1, work.path(), &Cancel::default());
    said.unwrap_or_else(|error| {
        let read = |name| fs::read_to_string(work.path().join(name)).unwrap_or_default();
        panic!("{error}\n{}\n{}", read("console"), read("result"))
    })
}
