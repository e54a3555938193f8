//! A file that keeps the last that the guest printed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::{Error, Result};

/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;

/// A file of at most `limit` bytes. When it is full its older half goes.
pub struct LogFile {
    file: File,
    length: u64,
    limit: u64,
}

impl LogFile {
    /// Opens or makes the file, for this machine alone; what is in it stays as far as the
    /// limit lets it.
    pub fn open(path: &Path, limit: u64) -> Result<Self> {
        let fail = |action| Error::file(action, "console's file", path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Nobody waits for the other end of a pipe.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(fail("open"))?;
        if !file.metadata().map_err(fail("look at"))?.is_file() {
            return Err(no_file(path));
        }
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::Busy(format!(
                "console's file {} is in use by another machine; give another path",
                path.display()
            )),
            TryLockError::Error(source) => fail("lock")(source),
        })?;
        Self::new(file, limit).map_err(fail("use"))
    }

    /// Sees that there is, or can be, an ordinary file.
    pub fn check(path: &Path) -> Result<()> {
        match path.metadata() {
            Ok(there) if there.is_file() => Ok(()),
            Ok(_) => Err(no_file(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = path.parent().filter(|folder| *folder != Path::new(""));
                let folder = folder.unwrap_or(Path::new("."));
                let look = folder.metadata().map(drop);
                look.map_err(Error::file("find", "folder of the console's file", folder))
            }
            Err(error) => Err(Error::file("look at", "console's file", path)(error)),
        }
    }

    fn new(mut file: File, limit: u64) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut log = Self {
            file,
            length,
            limit,
        };
        if length >= limit {
            log.make_room()?;
        }
        Ok(log)
    }

    /// Writes up to the limit; there it waits for [`LogFile::make_room`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.limit.saturating_sub(self.length);
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let written = self.file.write(&bytes[..most])?;
        self.length += written as u64;
        Ok(written)
    }

    /// Where the file is full: keeps the newer half of what may be in it.
    pub fn make_room(&mut self) -> io::Result<()> {
        if self.length < self.limit {
            return Ok(());
        }
        let kept = self.limit / 2;
        let mut buffer = vec![0; CHUNK.min(kept as usize)];
        let mut done = 0;
        while done < kept {
            let size = buffer.len().min((kept - done) as usize);
            let from = self.length - kept + done;
            self.file.read_exact_at(&mut buffer[..size], from)?;
            self.file.write_all_at(&buffer[..size], done)?;
            done += size as u64;
        }
        self.file.set_len(kept)?;
        self.length = self.file.seek(SeekFrom::Start(kept))?;
        Ok(())
    }
}

fn no_file(path: &Path) -> Error {
    Error::Usage(format!(
        "console's file {} is no ordinary file",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As the line does it.
    fn print(log: &mut LogFile, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match log.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    log.make_room().unwrap();
                }
            }
        }
    }

    #[test]
    fn the_last_that_was_printed_is_kept_and_never_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 10).unwrap();
        let mut all = Vec::new();
        for n in 0..100u8 {
            let bytes = [b'a' + n % 26; 3];
            print(&mut log, &bytes);
            all.extend(bytes);
            let kept = fs::read(&path).unwrap();
            assert!(kept.len() <= 10, "{kept:?}");
            assert!(all.ends_with(&kept), "{kept:?}");
            assert!(kept.len() >= all.len().min(5), "{kept:?}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "before, and much of it; ").unwrap();
        let mut log = LogFile::open(&path, 100).unwrap();
        print(&mut log, b"after");
        drop(log);
        let text = "before, and much of it; after";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let _log = LogFile::open(&path, 10).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert!(LogFile::open(&path, 10).is_err(), "two have it");
    }
}
