//! The files that a guest is started from.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::{Error, Result};

/// The files, open, with their paths for messages.
#[derive(Debug)]
pub struct Images {
    /// The kernel.
    pub kernel: (PathBuf, File),
    /// The initial ram disk.
    pub initrd: Option<(PathBuf, File)>,
}

impl Images {
    /// Opens what `config` names.
    pub fn open(config: &Config) -> Result<Self> {
        let initrd = config.initrd.as_deref();
        Ok(Self {
            kernel: open_file("kernel", &config.kernel)?,
            initrd: initrd.map(|path| open_file("initrd", path)).transpose()?,
        })
    }
}

/// Opens a file that is read from any place in it, without waiting for what is none.
fn open_file(what: &'static str, path: &Path) -> Result<(PathBuf, File)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(Error::file("open", what, path))?;
    let meta = file
        .metadata()
        .map_err(Error::file("look at", what, path))?;
    if !meta.is_file() {
        return Err(Error::Usage(format!(
            "{what} {} is no ordinary file",
            path.display()
        )));
    }
    Ok((path.into(), file))
}
