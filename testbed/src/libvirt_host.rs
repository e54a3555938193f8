//! A host as operators have it: Debian 12 with systemd, libvirt and QEMU, and Debian's own
//! kernel 6.12, in the emulator. What Debian's mirror had when it was made is kept in the
//! cache; another machine has what is newest there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::emulator::Emulator;
use crate::machine::{self, Machine};
use crate::packaged::found;
use crate::proc::{self, Cancel};
use crate::{Error, Result};

/// What is installed beside Debian's minimum.
const PACKAGES: &str = "dbus,iproute2,kmod,libvirt-clients,libvirt-daemon-system,\
    linux-image-6.12-cloud-amd64,procps,qemu-system-x86,systemd-sysv,udev";
const MIRRORS: [&str; 2] = [
    "deb http://deb.debian.org/debian bookworm main",
    "deb http://deb.debian.org/debian-security bookworm-security main",
];
const OPTIONS: [&str; 5] = [
    "--aptopt=APT::Install-Recommends \"0\"",
    "--aptopt=Acquire::Retries \"3\"",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    // Drivers of the disks, for the initial ram disk.
    "--setup-hook=mkdir -p \"$1/usr/share/initramfs-tools/modules.d\" && \
        printf 'nfit\\nnd_pmem\\n' >\"$1/usr/share/initramfs-tools/modules.d/vmfirst\"",
];
/// Sizes of the file systems, the host's and that of the run's own files, in MiB. Both are
/// sparse.
const DISK_MIB: u32 = 2048;
const FILES_MIB: u32 = 768;
/// Runs the run's script when libvirt is up, and powers off. The second serial line is what
/// the script says, the first one has also what the journal complains of.
const UNIT: &str = "\
[Unit]
After=libvirtd.service
Requires=libvirtd.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 -opost; mount -o ro -L files /mnt; \
    sh /mnt/script >/dev/ttyS1 2>&1; journalctl -b -p warning >/dev/ttyS0; systemctl poweroff -ff'
";
/// The host's own files beside its packages'.
const FILES: [(&str, &str); 5] = [
    ("etc/hostname", "debian\n"),
    ("etc/fstab", "LABEL=host / ext4 defaults 0 0\n"),
    // KVM is there before libvirt asks QEMU what it can.
    ("etc/modules-load.d/kvm.conf", "kvm_amd\n"),
    ("etc/systemd/system/vmfirst-test.service", UNIT),
    (
        "etc/systemd/system/multi-user.target.d/test.conf",
        "[Unit]\nWants=vmfirst-test.service\n",
    ),
];
/// A jiffy's loops are known, as in [`machine`].
const CMDLINE: &str =
    "root=LABEL=host rw console=ttyS0 nokaslr tsc=reliable lpj=4000000 panic=-1 quiet";
/// Physical CPUs.
const PCPUS: u32 = 2;
/// Unless more are asked for.
const MEM_MIB: u32 = 2048;
/// What memory may be added to the machine's own: that of the two disks.
const DISKS_MAX_MIB: u32 = 6144;
/// Virtual time in s after which the host is given up.
const LIMIT_S: u64 = 300;

/// What boots it.
#[derive(Debug, Clone)]
pub struct LibvirtHost {
    dir: PathBuf,
    emulator: Emulator,
    mem_mib: u32,
    limit_s: u64,
}

impl LibvirtHost {
    /// Makes the host's disk, once; it takes a minute, and root.
    pub fn build(emulator: Emulator, cache: &Cache, cancel: &Cancel) -> Result<Self> {
        let mut key = Key::new()
            .text("recipe", "1")
            .text("packages", PACKAGES)
            .text("mirrors", &MIRRORS.join(" "))
            .text("options", &OPTIONS.join(" "))
            .text("size", &DISK_MIB.to_string());
        for (path, text) in FILES {
            key = key.text(path, text);
        }
        let dir = cache.artefact("libvirt-host", &key, |out| {
            let root = out.join("root");
            let mut make = proc::command("mmdebstrap");
            make.args(["--variant=minbase", "--mode=root", "--format=directory"])
                .args(OPTIONS)
                .args(["--include", PACKAGES, "bookworm"])
                .arg(&root)
                .args(MIRRORS);
            proc::run_logged(make, &cache.log("libvirt-host")?, cancel, |_| {})?;
            finish(&root, out, cancel)
        })?;
        Ok(Self {
            dir,
            emulator,
            mem_mib: MEM_MIB,
            limit_s: LIMIT_S,
        })
    }

    /// The same with so much memory, for so long in virtual time.
    pub fn with(self, mem_mib: u32, limit_s: u64) -> Self {
        Self {
            mem_mib,
            limit_s,
            ..self
        }
    }

    /// Boots it with `files` on a second disk, runs `script`, one of them, there, and returns
    /// what that printed. `work` is an empty folder for the run's files.
    ///
    /// Both disks are memory of the machine: when no CPU has anything to do, virtual time goes
    /// to the next timer at once, and would not wait for a disk whose file has to be read.
    pub fn run(&self, files: &Path, seed: u64, work: &Path, cancel: &Cancel) -> Result<String> {
        let disk = work.join("files.img");
        file_system("files", files, &disk, FILES_MIB, cancel)?;
        let machine = Machine {
            emulator: self.emulator.clone(),
            kernel: self.dir.join("vmlinuz"),
            initrd: self.dir.join("initrd.img"),
            pcpus: PCPUS,
            mem_mib: self.mem_mib,
            round_ns: 3000,
            seed,
            limit_s: self.limit_s,
        };
        let result = work.join(machine::RESULT);
        let mut qemu = machine.hardware(&work.join(machine::CONSOLE), &result);
        qemu.args(["-M", "pc,nvdimm=on"]);
        let most = self.mem_mib + DISKS_MAX_MIB;
        qemu.args(["-m", &format!("{},slots=2,maxmem={most}M", self.mem_mib)]);
        let host = self.dir.join("disk.img");
        for (id, image, mib) in [("host", &host, DISK_MIB), ("files", &disk, FILES_MIB)] {
            let file = format!("share=off,mem-path={},size={mib}M", image.display());
            qemu.args(["-object", &format!("memory-backend-file,id={id},{file}")])
                .args(["-device", &format!("nvdimm,memdev={id}")]);
        }
        qemu.arg("-kernel")
            .arg(&machine.kernel)
            .arg("-initrd")
            .arg(&machine.initrd)
            .args(["-append", CMDLINE]);
        let status = machine.emulate(qemu, work, cancel)?;
        match fs::read(&result) {
            Ok(said) if !said.is_empty() => Ok(String::from_utf8_lossy(&said).into_owned()),
            _ => Err(machine::no_result(status, work)),
        }
    }
}

/// Everything that makes a host of the unpacked packages.
fn finish(root: &Path, out: &Path, cancel: &Cancel) -> Result<()> {
    for (path, text) in FILES {
        let path = root.join(path);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
    }
    let boot = root.join("boot");
    for name in ["vmlinuz", "initrd.img"] {
        let from = found(&boot, |file| file.starts_with(name))?;
        fs::copy(&from, out.join(name)).map_err(Error::io("copy", &from))?;
    }
    file_system("host", root, &out.join("disk.img"), DISK_MIB, cancel)?;
    fs::remove_dir_all(root).map_err(Error::io("remove", root))
}

/// Makes an image with this label and the files of a folder.
fn file_system(label: &str, folder: &Path, image: &Path, mib: u32, cancel: &Cancel) -> Result<()> {
    let mut make = proc::command("mke2fs");
    make.args(["-q", "-t", "ext4", "-O", "^has_journal", "-L", label, "-d"])
        .arg(folder)
        .arg(image)
        .arg(format!("{mib}M"));
    proc::run_logged(make, &image.with_extension("log"), cancel, |_| {})
}
