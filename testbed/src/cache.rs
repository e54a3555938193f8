//! Slow builds, kept outside the tree under a hash of all their inputs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The folder that holds finished artefacts and the work trees they came from.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `$VMFIRST_CACHE`, or else `vmfirst` in the user's cache folder.
    pub fn open() -> Result<Self> {
        let root = std::env::var_os("VMFIRST_CACHE")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("XDG_CACHE_HOME").map(|d| Path::new(&d).join("vmfirst")))
            .or_else(|| std::env::var_os("HOME").map(|d| Path::new(&d).join(".cache/vmfirst")))
            .ok_or_else(|| {
                Error::Setup("no HOME: set VMFIRST_CACHE to a folder for builds".into())
            })?;
        Self::at(&root)
    }

    /// Opens the cache in `root`, which is made if it is not there.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).map_err(Error::io("create the cache folder", root))?;
        let root = root
            .canonicalize()
            .map_err(Error::io("find the cache folder", root))?;
        Ok(Self { root })
    }

    /// A folder that survives from build to build, for work trees and downloads.
    pub fn work_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join("work").join(name);
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir)
    }

    /// The file that receives the output of the build called `name`.
    pub fn log(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join("logs");
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        Ok(dir.join(format!("{name}.log")))
    }

    /// The artefact `name` for `key`; `build` fills an empty folder if it is not there yet.
    ///
    /// A folder appears under its final name only when it is complete, and two
    /// processes never build the same artefact at once.
    pub fn artefact(
        &self,
        name: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.root.join(format!("{name}-{}", key.short()));
        // What is there is complete: no need to wait for who builds another key.
        if done.is_dir() {
            return Ok(done);
        }
        let _lock = self.lock(name)?;
        if done.is_dir() {
            return Ok(done);
        }
        let dir = tempfile::tempdir_in(&self.root).map_err(Error::io("write to", &self.root))?;
        build(dir.path())?;
        let inputs = dir.path().join("inputs.txt");
        fs::write(&inputs, key.inputs()).map_err(Error::io("write", &inputs))?;
        fs::rename(dir.keep(), &done).map_err(Error::io("publish", &done))?;
        Ok(done)
    }

    /// Waits for, and takes, the lock called `name`; it ends with the returned file.
    pub fn lock(&self, name: &str) -> Result<fs::File> {
        let path = self.root.join(format!("{name}.lock"));
        let file = fs::File::create(&path).map_err(Error::io("create", &path))?;
        file.lock().map_err(Error::io("lock", &path))?;
        Ok(file)
    }
}

/// A hash over labelled inputs, with the list of what went into it.
#[derive(Debug, Default)]
pub struct Key {
    inputs: String,
}

impl Key {
    /// An empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a short text: a version, an option, another artefact's name.
    #[must_use]
    pub fn text(mut self, label: &str, value: &str) -> Self {
        self.inputs
            .push_str(&format!("{label}: {}\n", value.trim_end()));
        self
    }

    /// Adds a file's content.
    pub fn file(self, path: &Path) -> Result<Self> {
        let label = path.file_name().unwrap_or_default().to_string_lossy();
        let hash = hash_file(path)?;
        Ok(self.text(&label, &hash))
    }

    /// Sixteen hexadecimal digits of the hash: enough to tell builds apart.
    pub fn short(&self) -> String {
        hex(&Sha256::digest(self.inputs.as_bytes()))[..16].to_string()
    }

    /// What went in, a line each.
    pub fn inputs(&self) -> &str {
        &self.inputs
    }
}

/// SHA-256 of a file's content, in hexadecimal.
pub fn hash_file(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).map_err(Error::io("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artefact_is_built_once_for_a_key_and_again_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let mut builds = 0;
        for value in ["1", "1", "2"] {
            let key = Key::new().text("input", value);
            let made = cache.artefact("part", &key, |dir| {
                builds += 1;
                fs::write(dir.join("out"), value).map_err(Error::io("write", dir))
            });
            assert_eq!(
                fs::read_to_string(made.unwrap().join("out")).unwrap(),
                value
            );
        }
        assert_eq!(builds, 2);
    }

    #[test]
    fn a_failed_build_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let key = Key::new().text("input", "1");
        let failed = cache.artefact("part", &key, |_| Err(Error::Cancelled));
        assert!(matches!(failed, Err(Error::Cancelled)));
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["part.lock"]);
    }
}
