//! Initial ram disks: files become an archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc::{Builder, ModeFileType};

use crate::cache::{Cache, Key};
use crate::{Error, Result, proc};

/// What goes into an initial ram disk: path in the image, file outside, mode.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, (PathBuf, u32)>,
}

impl Files {
    /// Puts a file at a path of the image, with the permissions that it has.
    pub fn add(&mut self, to: &str, from: &Path) -> Result<()> {
        let from = from.canonicalize().map_err(Error::io("find", from))?;
        let meta = fs::metadata(&from).map_err(Error::io("look at", &from))?;
        let mode = meta.permissions().mode() & 0o777;
        self.files.insert(to.into(), (from, mode));
        Ok(())
    }

    /// Puts the files of a folder into one of the image.
    pub fn add_folder(&mut self, to: &str, from: &Path) -> Result<()> {
        for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
            let path = entry.map_err(Error::io("read", from))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.add(&format!("{to}/{name}"), &path)?;
        }
        Ok(())
    }

    /// Puts a program at its own path, and the shared libraries that it needs.
    pub fn add_program(&mut self, program: &str) -> Result<()> {
        self.add(program, Path::new(program))?;
        let mut ldd = proc::command("ldd");
        ldd.arg(program);
        for library in libraries(&proc::output(ldd)?) {
            self.add(library, Path::new(library))?;
        }
        Ok(())
    }

    fn key(&self) -> Result<Key> {
        let mut key = Key::new().text("recipe", "1");
        for (to, (from, mode)) in &self.files {
            key = key.text("path", &format!("{to} {mode:o}")).file(from)?;
        }
        Ok(key)
    }

    /// Writes an uncompressed cpio archive, as the kernel unpacks it fastest.
    fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        let mut out = BufWriter::new(file);
        self.write_entries(&mut out)
            .and_then(|()| cpio::newc::trailer(&mut out)?.flush())
            .map_err(Error::io("write", path))
    }

    fn write_entries(&self, out: &mut impl Write) -> std::io::Result<()> {
        let mut inode = 0;
        let mut next = |name: &str, kind: ModeFileType, mode: u32| {
            inode += 1;
            Builder::new(name.trim_start_matches('/'))
                .ino(inode)
                .mode(mode)
                .set_mode_file_type(kind)
        };
        for dir in self.folders() {
            next(&dir, ModeFileType::Directory, 0o755)
                .write(&mut *out, 0)
                .finish()?;
        }
        // The kernel opens the console for init before anything is mounted.
        next("dev/console", ModeFileType::Char, 0o600)
            .rdev_major(5)
            .rdev_minor(1)
            .write(&mut *out, 0)
            .finish()?;
        for (to, (from, mode)) in &self.files {
            let mut content = File::open(from)?;
            let length = u32::try_from(content.metadata()?.len())
                .map_err(|_| std::io::Error::other("a file of 4 GiB or more"))?;
            let mut entry = next(to, ModeFileType::Regular, *mode).write(&mut *out, length);
            std::io::copy(&mut content, &mut entry)?;
            entry.finish()?;
        }
        Ok(())
    }

    /// Every folder that the files need, parents first.
    fn folders(&self) -> Vec<String> {
        let mut folders: Vec<String> = ["dev", "proc", "sys", "tmp", "run", "mnt"]
            .iter()
            .map(|d| format!("/{d}"))
            .chain(self.files.keys().flat_map(|to| {
                Path::new(to)
                    .ancestors()
                    .skip(1)
                    .map(|a| a.display().to_string())
                    .filter(|a| a != "/")
                    .collect::<Vec<_>>()
            }))
            .collect();
        folders.sort();
        folders.dedup();
        folders
    }
}

/// The paths in `ldd`'s output.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.split_whitespace().filter(|word| word.starts_with('/'))
}

/// Builds an initial ram disk of `files`, or takes it from the cache.
pub fn build(name: &str, files: &Files, cache: &Cache) -> Result<PathBuf> {
    let dir = cache.artefact(&format!("image-{name}"), &files.key()?, |out| {
        files.write(&out.join("initrd"))
    })?;
    Ok(dir.join("initrd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output_gives_libraries_and_the_loader() {
        let ldd = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
                   \t/lib64/ld-linux.so.2 (0x7f)\n";
        let found: Vec<_> = libraries(ldd).collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld-linux.so.2"]);
    }

    #[test]
    fn an_archive_holds_folders_the_console_and_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        fs::write(&file, "hello").unwrap();
        let mut files = Files::default();
        files.add("/a/b/data", &file).unwrap();
        let archive = dir.path().join("out");
        files.write(&archive).unwrap();

        let mut input = File::open(&archive).unwrap();
        let mut names = Vec::new();
        loop {
            let reader = cpio::newc::Reader::new(&mut input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_string());
            reader.finish().unwrap();
        }
        let expected = [
            "a",
            "a/b",
            "dev",
            "mnt",
            "proc",
            "run",
            "sys",
            "tmp",
            "dev/console",
            "a/b/data",
        ];
        assert_eq!(names, expected);
    }
}
