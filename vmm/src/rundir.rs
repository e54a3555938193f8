//! Where machines with a name are found: for each a socket and a lock in one folder.
//!
//! The lock says that the name is taken; the kernel lets go of it when its process ends,
//! however that is. What a killed vmm left is taken over by the next machine of the name:
//! the sockets, and the control group that the lock's file tells of.
//!
//! Files are removed through the folder's descriptor, and only such as these can be: the
//! process may have another root by then, and others may write to the folder.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::process::{geteuid, umask};

use crate::config::VmName;
use crate::sched::Group;
use crate::{Error, Result};

/// Where the folder is unless the user says otherwise.
pub const DEFAULT: &str = "/run/vmfirst";

/// What the names of a machine's sockets end in: the API's, and the console's.
const SOCKETS: [&str; 2] = [".sock", ".console"];
/// Longest content of a lock's file, in bytes: the process's id and a path.
const RECORD_MAX: u64 = 8192;
/// How often a lock is tried before its name is taken.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(10);

/// The folder.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The folder at `path`; it need not be there yet. Wherever a process that is handed the
    /// path works, it is this folder.
    pub fn new(path: &Path) -> Self {
        // Fails only where the working folder is gone: then nothing is found there either.
        Self(std::path::absolute(path).unwrap_or_else(|_| path.into()))
    }

    /// The API's socket of the machine called `name`.
    pub fn socket(&self, name: &VmName) -> PathBuf {
        self.0.join(format!("{name}{}", SOCKETS[0]))
    }

    /// The console's socket of the machine called `name`, if it is there.
    pub fn console(&self, name: &VmName) -> PathBuf {
        self.0.join(format!("{name}{}", SOCKETS[1]))
    }

    /// Names that have a socket, in order; their machines may have ended.
    pub fn names(&self) -> Result<Vec<VmName>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::file("read", "folder", &self.0))?,
        };
        let name = |entry: fs::DirEntry| {
            let file = entry.file_name();
            file.to_str()?.strip_suffix(SOCKETS[0])?.parse().ok()
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
        let mut claim = self.lock(name, OFlags::CREATE)?;
        claim.remove_sockets();
        claim.record(cgroup)?;
        let socket = self.socket(name);
        let listener = listen(&socket).map_err(Error::file("listen on", "socket", &socket))?;
        Ok((claim, listener))
    }

    /// Removes what a machine left that has ended; the lock is the last of it, and never made
    /// here. Returns whether nothing of it is there: not while a machine of the name runs.
    pub fn tidy(&self, name: &VmName) -> bool {
        drop(self.lock(name, OFlags::empty()));
        let path = self.0.join(lock_name(name));
        path.symlink_metadata()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Takes the lock, with `CREATE` also one that is not there.
    fn lock(&self, name: &VmName, create: OFlags) -> Result<Claim> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // Who removes files may make this call, not open(2).
        let folder = openat(CWD, &self.0, flags, Mode::empty())
            .map_err(|error| Error::file("open", "folder", &self.0)(error.into()))?;
        let path = self.0.join(lock_name(name));
        Ok(Claim {
            lock: take_lock((&folder, create), &path, name)?,
            folder,
            path,
            name: name.clone(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Listens at a socket to which only this user can connect, from its first moment on. To be
/// called before other threads are started.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// A name that is this process's until this is dropped.
#[derive(Debug)]
pub struct Claim {
    folder: OwnedFd,
    lock: File,
    /// Where the lock is, for messages.
    path: PathBuf,
    name: VmName,
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

    /// What can't be removed is taken over by the next machine of the name.
    fn remove_sockets(&self) {
        for end in SOCKETS {
            let name = format!("{}{end}", self.name);
            let file = statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW);
            if file.is_ok_and(|f| FileType::from_raw_mode(f.st_mode) == FileType::Socket) {
                let _ = unlinkat(&self.folder, &name, AtFlags::empty());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.remove_sockets();
        // Before the lock ends with its file: afterwards this may be another's.
        if is_at(&self.folder, &lock_name(&self.name), &self.lock) {
            let _ = unlinkat(&self.folder, lock_name(&self.name), AtFlags::empty());
        }
    }
}

fn lock_name(name: &VmName) -> String {
    format!("{name}.lock")
}

/// Whether `file` is what is called `name` in `folder`.
fn is_at(folder: &OwnedFd, name: &str, file: &File) -> bool {
    let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let ours = file.metadata();
    ours.is_ok_and(|ours| there.is_ok_and(|t| (t.st_dev, t.st_ino) == (ours.dev(), ours.ino())))
}

fn take_lock((folder, create): (&OwnedFd, OFlags), path: &Path, name: &VmName) -> Result<File> {
    let mut tries = TRIES;
    loop {
        let file = open_lock(folder, create, name).map_err(Error::file("open", "lock", path))?;
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
        if is_at(folder, &lock_name(name), &file) {
            return Ok(file);
        }
    }
}

/// Opens a lock that is this user's alone: whoever else can write to the folder could have put
/// something there that leads elsewhere.
fn open_lock(folder: &OwnedFd, create: OFlags, name: &VmName) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | create;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = File::from(openat(folder, lock_name(name), flags, mode)?);
    let found = file.metadata()?;
    let ours = found.is_file() && found.nlink() <= 1 && found.uid() == geteuid().as_raw();
    match ours {
        true => Ok(file),
        false => Err(io::Error::other(
            "it is no file of this user's alone; remove it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
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
        let socket = run_dir.socket(&name("web"));
        let mode = fs::metadata(socket).unwrap().permissions().mode();
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

    #[test]
    fn a_lock_that_leads_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(folder.path());
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "precious").unwrap();
        symlink(&theirs, folder.path().join("a.lock")).unwrap();
        fs::hard_link(&theirs, folder.path().join("b.lock")).unwrap();
        for taken in ["a", "b"] {
            let refused = run_dir.claim(&name(taken), None).unwrap_err().to_string();
            assert!(refused.contains("cannot open lock"), "{refused}");
        }
        assert_eq!(fs::read_to_string(theirs).unwrap(), "precious");
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(folder.path());
        let theirs = run_dir.socket(&name("web"));
        fs::write(&theirs, "precious").unwrap();
        assert!(run_dir.claim(&name("web"), None).is_err());
        assert_eq!(fs::read_to_string(theirs).unwrap(), "precious");
    }
}
