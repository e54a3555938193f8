//! Which files a thread may find by name from now on, where the kernel has Landlock
//! (Documentation/userspace-api/landlock.rst). What is open stays so.

use std::fmt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError,
};

use super::Role;
use crate::{Error, Result};

/// All that this version of Landlock knows is refused; an older kernel refuses less, one
/// without Landlock nothing.
const KNOWN: ABI = ABI::V5;

/// What a thread that steers or removes may do below a path, or with the file there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Read it.
    Read,
    /// Read and write files that are there, and remove what is in it.
    Change,
    /// Write to this one file.
    WriteFile,
    /// Remove folders in it.
    RemoveFolders,
    /// Read what is in it, and remove folders.
    ReadAndRemoveFolders,
}

impl Use {
    fn access(self) -> BitFlags<AccessFs> {
        match self {
            Self::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Self::Change => {
                let remove = AccessFs::RemoveFile | AccessFs::RemoveDir;
                Self::Read.access() | Self::WriteFile.access() | remove
            }
            Self::WriteFile => AccessFs::WriteFile | AccessFs::Truncate,
            Self::RemoveFolders => AccessFs::RemoveDir.into(),
            Self::ReadAndRemoveFolders => Self::Read.access() | Self::RemoveFolders.access(),
        }
    }
}

/// The rules of the main thread and of those that steer or remove, and of all others, which find no
/// file at all.
pub struct Files {
    steer: RulesetCreated,
    others: RulesetCreated,
}

impl Files {
    /// Rules by which who steers has `paths`; one that isn't there is left out. To be called
    /// before the process may have another root.
    pub fn new(paths: &[(PathBuf, Use)]) -> Result<Self> {
        let mut steer = nothing()?;
        for (path, how) in paths {
            if let Ok(fd) = PathFd::new(path) {
                let rule = PathBeneath::new(fd, how.access());
                steer = steer.add_rule(rule).map_err(refused)?;
            }
        }
        Ok(Self {
            steer,
            others: nothing()?,
        })
    }

    /// Puts the rules on the calling thread, for good.
    pub fn restrict(&self, role: Role) -> Result<()> {
        let rules = match role {
            Role::Steer | Role::Main | Role::Reap => &self.steer,
            Role::Vcpu | Role::Io | Role::IoStreams | Role::Api => &self.others,
        };
        let rules = rules
            .try_clone()
            .map_err(Error::system("share Landlock's rules"))?;
        rules.restrict_self().map(drop).map_err(refused)
    }
}

fn nothing() -> Result<RulesetCreated> {
    let all = Ruleset::default().handle_access(AccessFs::from_all(KNOWN));
    all.and_then(Ruleset::create).map_err(refused)
}

fn refused(error: RulesetError) -> Error {
    Error::System {
        action: "confine a thread to its files (Landlock)",
        source: std::io::Error::other(error),
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Files")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::thread;

    use super::*;

    /// Where the kernel has Landlock. The rules are the thread's alone.
    #[test]
    fn a_thread_finds_only_what_its_role_has() {
        let [theirs, others] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        for folder in [&theirs, &others] {
            fs::write(folder.path().join("file"), "x").unwrap();
        }
        let files = Files::new(&[(theirs.path().into(), Use::Change)]).unwrap();
        let [steer, vcpu] = [Role::Steer, Role::Vcpu].map(|role| {
            thread::scope(|scope| {
                let restricted = scope.spawn(|| {
                    files.restrict(role).unwrap();
                    let opens = |folder: &tempfile::TempDir| File::open(folder.path().join("file"));
                    let found = [&theirs, &others].map(|folder| opens(folder).is_ok());
                    let made = File::create(theirs.path().join("new")).is_ok();
                    (
                        found,
                        made,
                        fs::remove_file(theirs.path().join("file")).is_ok(),
                    )
                });
                restricted.join().unwrap()
            })
        });
        if vcpu == ([false, true], true, false) || steer.0[1] {
            eprintln!("SKIP: this kernel has no Landlock");
            return;
        }
        assert_eq!(steer, ([true, false], false, true));
        assert_eq!(vcpu, ([false, false], false, false));
    }
}
