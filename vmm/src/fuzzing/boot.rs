//! The boot loader's input: kernel, initial ram disk, command line.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::seen::Seen;
use crate::config::{Config, Pv, SchedConfig, Seccomp};
use crate::layout::CMDLINE;
use crate::memory::{self, GuestMemory};
use crate::sandbox::{Privileges, Sandbox};

const MEM: u64 = 8 << 20;
/// Bytes by which a kernel's file may be longer than the input says.
const PADDING: u64 = 1 << 13;

thread_local! {
    static GUEST: GuestMemory = memory::allocate(MEM).expect("memory");
    static KERNEL: File = memfd_create("kernel", MemfdFlags::CLOEXEC).expect("a file").into();
    static INITRD: File = memfd_create("initrd", MemfdFlags::CLOEXEC).expect("a file").into();
}

/// Loads a kernel; what it says of itself is the input.
pub fn boot(input: &[u8], seen: &mut Seen) {
    // The input's end ends the run.
    let _ = load(&mut Unstructured::new(input), seen);
}

fn load(input: &mut Unstructured, seen: &mut Seen) -> Result<()> {
    let initrd = match input.arbitrary()? {
        true => Some(file(
            &INITRD,
            &[],
            input.arbitrary::<u32>()? as u64 % (2 * MEM),
        )),
        false => None,
    };
    let cmdline = input.arbitrary::<&str>()?.to_owned();
    let padding = u64::from(input.arbitrary::<u16>()?) % PADDING;
    let cpus = input.arbitrary::<u8>()?.max(1);
    let image = input.bytes(input.len())?;
    let mut config = Config {
        kernel: (
            "kernel".into(),
            file(&KERNEL, image, image.len() as u64 + padding),
        ),
        initrd: initrd.map(|file| ("initrd".into(), file)),
        disks: Vec::new(),
        nets: Vec::new(),
        vsock: None,
        rng: true,
        cpus,
        mem: MEM,
        // Config takes no others.
        cmdline: match cmdline.parse::<crate::config::values::Cmdline>() {
            Ok(cmdline) => cmdline.to_string(),
            Err(_) => String::new(),
        },
        pv: Pv::All,
        sched: SchedConfig::default(),
        stop_timeout: Duration::ZERO,
        sandbox: Sandbox::new(
            Seccomp::Off,
            Privileges::new(None, None, None).expect("none to give up"),
        )
        .expect("no filters"),
    };
    GUEST.with(|memory| {
        let loaded = crate::boot::load(memory, &mut config);
        seen.note_with(|| format!("{loaded:?}"));
        if loaded.is_ok() {
            let mut bytes = vec![0; config.cmdline.len() + 1];
            memory
                .read_slice(&mut bytes, GuestAddress(CMDLINE))
                .expect("memory");
            assert_eq!(bytes.pop(), Some(0));
            assert_eq!(bytes, config.cmdline.as_bytes());
        }
    });
    Ok(())
}

/// A file of `length` bytes that begins with `bytes`; zeros follow.
fn file(reused: &'static std::thread::LocalKey<File>, bytes: &[u8], length: u64) -> File {
    reused.with(|file| {
        let _ = file.set_len(0);
        let _ = file.set_len(length);
        let _ = file.write_all_at(bytes, 0);
        let mut file: File = file.as_fd().try_clone_to_owned().expect("a file").into();
        let _ = file.seek(SeekFrom::Start(0));
        file
    })
}
