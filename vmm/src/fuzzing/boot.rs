//! The boot loader's input: kernel, initial ram disk, command line.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use arbitrary::{Result, Unstructured};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::seen::Seen;
use crate::boot::Images;
use crate::config::{Config, RunArgs};
use crate::layout::CMDLINE;
use crate::memory::{self, GuestMemory};

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
    let mut images = Images {
        kernel: (
            "kernel".into(),
            file(&KERNEL, image, image.len() as u64 + padding),
        ),
        initrd: initrd.map(|file| ("initrd".into(), file)),
    };
    let args = RunArgs {
        kernel: Some("kernel".into()),
        cpus: cpus.to_string().parse().ok(),
        // What is no command line is not taken.
        cmdline: cmdline.parse().ok(),
        rng: Some(true),
        ..RunArgs::default()
    };
    let mut config = Config::try_from(args).expect("nothing contradicts itself");
    // Less than an option takes, as it is dear.
    config.mem = MEM;
    GUEST.with(|memory| {
        let loaded = crate::boot::load(memory, &config, &mut images);
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
