//! Gives up what a running machine doesn't need: the file system, root, new privileges.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::{chroot, fchdir};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::config::Confinement;
use crate::{Error, Result};

/// Whom the process becomes and what it sees of the file system, checked.
#[derive(Debug)]
pub struct Privileges {
    /// The user and the group.
    pub(super) user: Option<User>,
    /// The folder that becomes the root.
    pub(super) root: Option<File>,
}

/// A user's and a group's number.
pub type User = (u32, u32);

impl Privileges {
    /// Finds what `confinement` names.
    pub fn new(confinement: &Confinement) -> Result<Self> {
        let user = confinement.user;
        Ok(Self {
            user: user.map(|(uid, gid)| (uid.into(), gid.into())),
            root: confinement.root.as_deref().map(open_folder).transpose()?,
        })
    }
}

/// Makes `root` all that this process sees of the file system.
pub fn leave_root(root: &File) -> Result<()> {
    fchdir(root)
        .and_then(|()| chroot("."))
        .map_err(Error::system("change the root (--chroot); run as root"))
}

/// Gives up all of the calling thread's capabilities but `kept`.
pub fn keep(kept: CapabilitySet) -> Result<()> {
    let keep = || {
        let kept = capabilities(None)?.permitted & kept;
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    };
    keep().map_err(Error::system("give up capabilities"))
}

/// Gives up what the calling thread may do, for good; ids are a thread's own.
pub fn give_up(user: Option<User>) -> Result<()> {
    if let Some((uid, gid)) = user {
        become_user(Uid::from_raw(uid), Gid::from_raw(gid)).map_err(Error::system(
            "become another user (--uid, --gid); run as root",
        ))?;
    }
    set_no_new_privs(true).map_err(Error::system("give up new privileges"))
}

fn open_folder(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_PATH)
        .open(path)
        .map_err(Error::file("open", "folder of --chroot", path))
}

/// Groups first: they cannot be changed any more without root's user id. With that id
/// go all capabilities.
fn become_user(uid: Uid, gid: Gid) -> rustix::io::Result<()> {
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
