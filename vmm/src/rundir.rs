//! Where machines with a name are found: for each a socket and a lock in one folder.
//!
//! The lock says that the name is taken; the kernel lets go of it when its process ends,
//! however that is. What a killed vmm left is taken over by the next machine of the name:
//! the socket, and the control group that the lock's file tells of.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;

use crate::config::VmName;
use crate::sched::Group;
use crate::{Error, Result};

/// Where the folder is unless the user says otherwise.
pub const DEFAULT: &str = "/run/vmfirst";

/// Longest content of a lock's file, in bytes: the process's id and a path.
const RECORD_MAX: u64 = 8192;
/// How often a lock is tried before its name is taken.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(10);

/// The folder.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The folder at `path`; it need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self(path.into())
    }

    /// The API's socket of the machine called `name`.
    pub fn socket(&self, name: &VmName) -> PathBuf {
        self.0.join(format!("{name}.sock"))
    }

    /// Names that have a socket, in order; their machines may have ended.
    pub fn names(&self) -> Result<Vec<VmName>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::file("read", "folder", &self.0))?,
        };
        let name = |entry: fs::DirEntry| {
            let file = entry.file_name();
            file.to_str()?.strip_suffix(".sock")?.parse().ok()
        };
        let mut names: Vec<VmName> = entries.flatten().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Takes a name for this process, which is about to make a control group at `cgroup`,
    /// and listens on its socket, which only this user can connect to.
    pub fn claim(&self, name: &VmName, cgroup: Option<&Path>) -> Result<(Claim, UnixListener)> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.0)
            .map_err(Error::file("make", "folder", &self.0))?;
        let mut claim = self.lock(name)?;
        remove(&claim.socket);
        claim.record(cgroup)?;
        // Not from anybody's first moment on may others connect.
        let before = umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&claim.socket);
        umask(before);
        let listener = listener.map_err(Error::file("listen on", "socket", &claim.socket))?;
        Ok((claim, listener))
    }

    /// Removes what a machine left that has ended. Fails while one of the name runs.
    pub fn tidy(&self, name: &VmName) -> Result<()> {
        self.lock(name).map(drop)
    }

    fn lock(&self, name: &VmName) -> Result<Claim> {
        let path = self.0.join(format!("{name}.lock"));
        Ok(Claim {
            lock: take_lock(&path, name)?,
            path,
            socket: self.socket(name),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// A name that is this process's until this is dropped.
#[derive(Debug)]
pub struct Claim {
    lock: File,
    path: PathBuf,
    socket: PathBuf,
}

impl Claim {
    /// Takes away the control group that the last machine of the name left, if it did,
    /// and writes down this one's.
    fn record(&mut self, cgroup: Option<&Path>) -> Result<()> {
        let fail = |error| Error::file("use", "lock", &self.path)(error);
        let mut before = String::new();
        // What isn't text is no record.
        let _ = (&self.lock).take(RECORD_MAX).read_to_string(&mut before);
        if let Some(group) = before.lines().nth(1) {
            Group::take_recorded(Path::new(group));
        }
        let cgroup = cgroup.map_or(String::new(), |path| path.display().to_string());
        let record = format!("{}\n{cgroup}\n", std::process::id());
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.write_all_at(record.as_bytes(), 0))
            .map_err(fail)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        remove(&self.socket);
        // Before the lock ends with its file: afterwards this may be another's.
        remove(&self.path);
    }
}

/// What can't be removed is taken over by the next machine of the name.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

fn take_lock(path: &Path, name: &VmName) -> Result<File> {
    let mut tries = TRIES;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Error::file("open", "lock", path))?;
        match file.try_lock() {
            Ok(()) => {}
            // Perhaps somebody tidies up behind the last one of the name.
            Err(TryLockError::WouldBlock) if tries > 0 => {
                tries -= 1;
                thread::sleep(BETWEEN);
                continue;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy(format!(
                    "a machine called {name} runs already; stop it (vmm stop {name}) or choose \
                     another --name"
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::file("lock", "file", path)(error));
            }
        }
        // The one that had it may have removed the file since it was opened.
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        if let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path))
            && same(ours, there)
        {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn name(text: &str) -> VmName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_taken_once_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(&folder.path().join("run"));
        assert!(run_dir.names().unwrap().is_empty());
        let (claim, _listener) = run_dir.claim(&name("web"), None).unwrap();
        let mode = fs::metadata(&claim.socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(run_dir.names().unwrap(), [name("web")]);
        let again = run_dir.claim(&name("web"), None).unwrap_err().to_string();
        assert!(again.contains("runs already"), "{again}");
        UnixStream::connect(run_dir.socket(&name("web"))).unwrap();
        drop(claim);
        assert_eq!(fs::read_dir(&run_dir.0).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_one_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(folder.path());
        let (claim, listener) = run_dir.claim(&name("web"), None).unwrap();
        // As if killed: the files stay, lock and listener go.
        claim.lock.unlock().unwrap();
        std::mem::forget(claim);
        drop(listener);
        let (_claim, _listener) = run_dir.claim(&name("web"), None).unwrap();
        UnixStream::connect(run_dir.socket(&name("web"))).unwrap();
    }
}
