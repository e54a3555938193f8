//! The mount, and how it outlives the process that serves it.
//!
//! A FUSE mount lives as long as somebody has its device open. systemd keeps it open in its
//! store of files (FileDescriptorStoreMax=), and hands it to the next process, which goes on
//! where the last one ended: files that containers have mounted are the same ones. Meanwhile
//! who reads waits, and can be interrupted.
//!
//! Requests are taken from clones of the device only, which nobody else has open: when the
//! process is killed, what it was about to answer ends with an error at once (ECONNABORTED),
//! and nobody waits for an answer that never comes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Config, MountOption, Session, SessionACL};
use sd_notify::NotifyState;

use super::View;
use super::triggers::{self, Triggers};
use crate::read::Root;
use crate::{Error, Result};

/// The mount's source, and the file's name in systemd's store.
const NAME: &str = "vmfirst";
/// How a mount of this program begins in /proc/self/mountinfo, behind its place.
const OURS: &str = "fuse vmfirst ";
/// The ioctl FUSE_DEV_IOC_CLONE of linux/fuse.h.
const CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
/// What each process does at once.
const THREADS: usize = 8;

/// A mount that is served.
#[derive(Debug)]
pub struct Mounted {
    session: Session<View>,
    triggers: Arc<Triggers>,
    folder: PathBuf,
    /// Whether systemd keeps the mount when this process ends.
    pub is_kept: bool,
}

/// Mounts at a folder, or takes over the mount that systemd kept.
///
/// # Errors
/// When another process serves that folder, or the caller may not mount.
pub fn mount(view: View, folder: &Path, root: &Root) -> Result<Mounted> {
    let refused = |what: &'static str| {
        let folder = folder.display().to_string();
        move |source: io::Error| {
            Error::refused(what, folder, source, "; it takes root or CAP_SYS_ADMIN")
        }
    };
    let folder = place(folder).map_err(refused("mount at"))?;
    let is_mounted = mounts(root, &folder, OURS) > 0;
    let kept = Kept::of_systemd();
    let triggers = view.triggers.clone();
    if let Some(device) = kept.device.filter(|_| is_mounted) {
        let session = resume(view, &device).map_err(refused("take over the mount at"))?;
        for (name, group) in kept.triggers {
            inherit(&triggers, name, group);
        }
        return Ok(Mounted {
            session,
            triggers,
            folder,
            is_kept: true,
        });
    }
    kept.triggers.iter().for_each(|(name, _)| unkeep(name));
    if is_mounted {
        detach_dead(root, &folder)?;
    }
    std::fs::create_dir_all(&folder).map_err(refused("create"))?;
    let session = Session::new(view, &folder, &config()).map_err(refused("mount at"))?;
    let device = session
        .as_fd()
        .try_clone_to_owned()
        .map_err(refused("mount at"))?;
    replace(&session, &device).map_err(refused("mount at"))?;
    // One of a mount that is there no more would be in the way.
    unkeep(NAME);
    let is_kept = keep(NAME, device.as_fd());
    Ok(Mounted {
        session,
        triggers,
        folder,
        is_kept,
    })
}

/// Takes over a trigger; one that can't be is a file without one, as its reader will see.
fn inherit(triggers: &Triggers, name: String, group: OwnedFd) {
    let inherited = triggers::of_name(&name).is_some_and(|(file, waiter)| {
        let inherited = triggers.inherit(file, waiter, name.clone(), group);
        inherited.is_ok()
    });
    if !inherited {
        unkeep(&name);
    }
}

impl Mounted {
    /// Answers until the folder is unmounted.
    pub fn serve(self) -> Result<()> {
        let (triggers, notifier) = (self.triggers, self.session.notifier());
        thread::spawn(move || triggers.watch(&notifier));
        let folder = self.folder.display().to_string();
        let served = self.session.run();
        served.map_err(|source| Error::refused("serve", folder, source, ""))
    }
}

/// Unmounts a folder, also where somebody still has a file of it open.
pub fn unmount(folder: &Path) -> Result<()> {
    let done = rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH);
    done.map_err(|source| Error::refused("unmount", folder.display().to_string(), source, ""))
}

/// The folder's path without links, as the kernel lists mounts. Nothing looks at the folder
/// itself: in a mount whose process has ended that would wait for the next one, this one.
fn place(folder: &Path) -> io::Result<PathBuf> {
    let folder = std::path::absolute(folder)?;
    let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(above)?;
    Ok(above.canonicalize()?.join(name))
}

fn config() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(NAME.into()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config
}

/// How many mounts are at a folder whose type and source begin so, without a look at it.
pub fn mounts(root: &Root, folder: &Path, kind: &str) -> usize {
    let text = root.text("proc/self/mountinfo").unwrap_or_default();
    let found = text.lines().filter(|line| {
        let (place, what) = line.split_once(" - ").unwrap_or_default();
        let at = place.split(' ').nth(4).unwrap_or_default();
        Path::new(at) == folder && what.starts_with(kind)
    });
    found.count()
}

/// Unmounts what a process left behind that ended without anybody to keep its mount.
fn detach_dead(root: &Root, folder: &Path) -> Result<()> {
    for _ in 0..mounts(root, folder, OURS) {
        // What stat(2) asks for the kernel may still know.
        let is_dead = rustix::fs::statfs(folder).err() == Some(rustix::io::Errno::NOTCONN);
        if !is_dead {
            return Err(Error::Usage(format!(
                "{}: another vmfirst view serves it",
                folder.display()
            )));
        }
        unmount(folder)?;
    }
    Ok(())
}

/// What systemd kept for this process.
#[derive(Default)]
struct Kept {
    device: Option<OwnedFd>,
    /// Other files, with their names.
    triggers: Vec<(String, OwnedFd)>,
}

impl Kept {
    fn of_systemd() -> Self {
        let mut kept = Self::default();
        for (file, name) in sd_notify::listen_fds_with_names(true).into_iter().flatten() {
            // SAFETY: systemd opened it for this process, in which nothing else knows of it.
            let file = unsafe { OwnedFd::from_raw_fd(file) };
            if name == NAME {
                kept.device = Some(file);
            } else {
                kept.triggers.push((name, file));
            }
        }
        kept
    }
}

/// Has systemd keep a file by this name; whether it does.
pub fn keep(name: &str, file: BorrowedFd) -> bool {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return false;
    }
    // systemd is not to look whether anything happens: it would take that from us.
    let alone = NotifyState::Custom("FDPOLL=0");
    let kept = [NotifyState::FdStore, NotifyState::FdName(name), alone];
    sd_notify::notify_with_fds(false, &kept, &[file]).is_ok()
}

/// Has systemd close a file that it keeps.
pub fn unkeep(name: &str) {
    // Where nobody keeps files there is nothing to do.
    let _ = sd_notify::notify(
        false,
        &[NotifyState::FdStoreRemove, NotifyState::FdName(name)],
    );
}

/// Tells systemd that readers are answered.
pub fn ready() {
    // Nobody is told where nobody asked to be.
    let _ = sd_notify::notify(false, &[NotifyState::Ready]);
}

/// A session for a device that is mounted already. fuser wants the kernel's greeting, which
/// came long ago: it gets it from a socket, and the device in that one's place.
fn resume(view: View, device: &OwnedFd) -> io::Result<Session<View>> {
    let (kernel, ours) = UnixStream::pair()?;
    let mut kernel = kernel;
    kernel.write_all(&greeting())?;
    let session = Session::from_fd(view, ours.into(), SessionACL::All, config())?;
    let mut answer = [0; 256];
    let _ = kernel.read(&mut answer)?;
    replace(&session, device)?;
    Ok(session)
}

/// FUSE_INIT of linux/fuse.h, version 7.31: header and struct fuse_init_in, without flags.
fn greeting() -> Vec<u8> {
    const LENGTH: u32 = 40 + 64;
    const INIT: u32 = 26;
    let mut words = vec![LENGTH, INIT];
    // unique, nodeid; uid, gid, pid, padding.
    words.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    // major, minor, max_readahead, flags; what is new since.
    words.extend([7, 31, 128 << 10, 0]);
    words.extend([0; 12]);
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// Puts a clone of the device in the place of the session's file.
fn replace(session: &Session<View>, device: &OwnedFd) -> io::Result<()> {
    let clone = File::options().read(true).write(true).open("/dev/fuse")?;
    let number: u32 = device
        .as_raw_fd()
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the ioctl reads a u32, the number of an open file.
    if unsafe { libc::ioctl(clone.as_raw_fd(), CLONE, &number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let place: RawFd = session.as_fd().as_raw_fd();
    // SAFETY: the session owns the number, which stays open, and nobody reads from it yet.
    if unsafe { libc::dup3(clone.as_raw_fd(), place, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
