//! Sees groups come and values change, where no runtime tells of it: inotify(7).

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// What is watched. A group that is gone is watched no longer, by the kernel's own doing.
#[derive(Debug)]
pub struct Watch {
    file: OwnedFd,
    /// The number of the newest watch: each new one has the next.
    newest: Cell<i32>,
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Watch {
    /// Of nothing yet.
    pub fn new() -> io::Result<Self> {
        let file = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            file,
            newest: Cell::new(0),
        })
    }

    /// Sees groups that are made in this one; whether it is watched since now, so that those
    /// made before were not seen.
    pub fn made_in(&self, folder: &Path) -> io::Result<bool> {
        self.add(folder, WatchFlags::CREATE)
    }

    /// Sees what is written to this group's files.
    pub fn written_in(&self, folder: &Path) -> io::Result<()> {
        self.add(folder, WatchFlags::MODIFY).map(drop)
    }

    /// Watching what is watched already changes nothing.
    fn add(&self, folder: &Path, what: WatchFlags) -> io::Result<bool> {
        match inotify::add_watch(&self.file, folder, what | WatchFlags::ONLYDIR) {
            // It is gone meanwhile.
            Err(rustix::io::Errno::NOENT) => Ok(false),
            number => {
                let number = number?;
                Ok(self.newest.replace(number.max(self.newest.get())) < number)
            }
        }
    }

    /// Whether something was seen since the last time.
    pub fn has_seen(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.file, &mut buffer);
        let mut has_seen = false;
        while events.next().is_ok() {
            has_seen = true;
        }
        has_seen
    }
}
