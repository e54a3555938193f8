//! A socket at which the host's programs find a device of the guest's.

use std::fs::{File, OpenOptions};
use std::io::{Error as IoError, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, unlinkat};

use crate::rundir::listen;
use crate::{Error, Result};

/// Longest path in bytes: with "_" and a port it has to fit into a socket's address.
const PATH_MAX: usize = 107 - "_4294967295".len();

/// The socket's file; it is removed when this is dropped, if the process still may.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    /// Its folder, found before the process may have another root.
    folder: File,
}

impl Socket {
    /// Makes the socket and listens at it. One that a killed machine left is replaced.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        let fail = || Error::file("listen at", "socket", path);
        let folder = Self::folder(path)?;
        remove_stale(path)?;
        let listener = listen(path).map_err(fail())?;
        let socket = Self {
            path: path.into(),
            folder,
        };
        listener.set_nonblocking(true).map_err(fail())?;
        Ok((socket, listener))
    }

    /// Opens the folder of a socket that can be made at `path`.
    pub fn folder(path: &Path) -> Result<File> {
        if path.as_os_str().len() > PATH_MAX || path.file_name().is_none() {
            return Err(Error::Usage(format!(
                "socket {}: a path of a file, at most {PATH_MAX} bytes",
                path.display()
            )));
        }
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(parent(path))
            .map_err(Error::file("listen at", "socket", path))
    }

    /// Its folder's path.
    pub fn parent(&self) -> &Path {
        parent(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(name) = self.path.file_name() {
            // Without the right to, it stays for the next machine, which replaces it.
            let _ = unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Removes a socket at which nobody listens any more; whatever else is there stays.
fn remove_stale(path: &Path) -> Result<()> {
    let refuse = |what| {
        Err(Error::Refused(format!(
            "socket {} {what}; give another path",
            path.display()
        )))
    };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::file("look at", "socket", path)(e)),
        Ok(file) if !file.file_type().is_socket() => return refuse("is a file already"),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if is_stale(&e) => {
            std::fs::remove_file(path).map_err(Error::file("remove", "old socket", path))
        }
        _ => refuse("is in use"),
    }
}

fn is_stale(error: &IoError) -> bool {
    error.kind() == ErrorKind::ConnectionRefused
}
