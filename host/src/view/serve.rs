//! Answers to FUSE's requests. A request is bounded by what the kernel lets through; what is
//! kept of it is bounded by [`Texts`] and [`Machines`].

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyPoll, ReplyWrite, Request, WriteFlags,
};

use super::machines::{Machine, Machines};
use super::texts::Texts;
use super::tree::{self, Made, Node};
use super::triggers::{ALWAYS, Triggers, Wish};

/// For so long the kernel need not ask again whether a file is there that all have.
const FOR_ALL: Duration = Duration::from_secs(3600);
/// The same of CPUs, which not all see.
const FOR_ONE: Duration = Duration::ZERO;

/// The file system.
#[derive(Debug)]
pub struct View {
    machines: Arc<Machines>,
    texts: Mutex<Texts>,
    pub(super) triggers: Arc<Triggers>,
    next: AtomicU64,
    start: SystemTime,
}

impl View {
    /// Shows these machines.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn new(machines: Arc<Machines>) -> io::Result<Self> {
        // Who takes over a mount gives its files other numbers than who had it before.
        let first = RandomState::new().build_hasher().finish() >> 1;
        Ok(Self {
            machines,
            texts: Mutex::default(),
            triggers: Arc::new(Triggers::new()?),
            next: AtomicU64::new(first),
            start: SystemTime::now(),
        })
    }

    fn machine(&self, req: &Request) -> io::Result<Option<Arc<Machine>>> {
        self.machines.of(req.pid().try_into().unwrap_or_default())
    }

    /// The whole text of a file for who asks, and whose machine it tells of.
    fn text(&self, req: &Request, number: u64) -> io::Result<(Arc<str>, Arc<str>)> {
        let path = tree::path(number).unwrap_or_default();
        let machine = self.machine(req)?;
        match (tree::node(number), machine) {
            (Some(Node::Made(made)), Some(machine)) => {
                let text = self.machines.text(&machine, made)?;
                Ok((text.into(), machine.name.clone()))
            }
            (Some(Node::Made(_) | Node::Host), machine) => {
                let name = machine.map_or_else(|| "/".into(), |machine| machine.name.clone());
                Ok((self.machines.host_text(&path)?.into(), name))
            }
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// What a read of an open file is answered.
    fn read_at(
        &self,
        req: &Request,
        (number, file): (u64, u64),
        from: u64,
        size: usize,
    ) -> io::Result<Vec<u8>> {
        let texts = || self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if from == 0 { None } else { texts().get(file) };
        let text = match kept {
            Some(text) => text,
            None => {
                let (text, reader) = self.text(req, number)?;
                texts().keep(file, &reader, &text);
                text
            }
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(text.len());
        let part = &text.as_bytes()[from..];
        let part = &part[..size.min(part.len())];
        if part.is_empty() {
            texts().forget(file);
        }
        Ok(part.to_vec())
    }

    /// Sets a trigger of pressure, in the file of whose machine the writer sees.
    fn trigger(&self, req: &Request, (number, file): (u64, u64), text: &[u8]) -> io::Result<()> {
        let name = pressure(number).ok_or(io::ErrorKind::PermissionDenied)?;
        let wish = Wish::parse(text);
        let wish = wish.filter(|wish| self.machines.lets(req.pid(), *wish));
        let wish = wish.ok_or(rustix::io::Errno::INVAL)?;
        let (path, reader) = match self.machine(req)? {
            Some(machine) => (machine.file(name), machine.name.clone()),
            None => (
                self.machines.path(&tree::path(number).unwrap_or_default()),
                "/".into(),
            ),
        };
        self.triggers.set(file, &reader, &path, wish)
    }

    /// The CPUs that who asks sees; all that the host has when it sees the host.
    fn cpus(&self, req: &Request) -> io::Result<Vec<u16>> {
        if let Some(machine) = self.machine(req)? {
            return Ok(self.machines.visible(&machine)?.cpus().collect());
        }
        let text = self.machines.host_text("sys/devices/system/cpu/present")?;
        let list: crate::act::CpuList = text
            .trim()
            .parse()
            .map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(list.cpus().collect())
    }

    /// The number of a name in a folder, if who asks sees it.
    fn find(&self, req: &Request, parent: u64, name: &OsStr) -> io::Result<u64> {
        let gone = io::ErrorKind::NotFound;
        let found = name.to_str().and_then(|name| tree::find(parent, name));
        let number = found.ok_or(gone)?;
        let is_there = match (tree::node(number), tree::cpu_of(number)) {
            (_, Some(cpu)) if !self.cpus(req)?.contains(&cpu) => false,
            (Some(Node::Host | Node::Made(_)), _) => {
                self.machines.has(&tree::path(number).unwrap_or_default())
            }
            _ => true,
        };
        if is_there {
            Ok(number)
        } else {
            Err(gone.into())
        }
    }

    fn attributes(&self, number: u64) -> Option<(FileAttr, Duration)> {
        let (kind, perm) = match tree::node(number)? {
            Node::Folder | Node::CpuFolder | Node::Cpu(_) => (FileType::Directory, 0o555),
            Node::Made(Made::Pressure(_)) => (FileType::RegularFile, 0o666),
            Node::Made(_) | Node::Host => (FileType::RegularFile, 0o444),
        };
        let attributes = FileAttr {
            ino: INodeNo(number),
            size: 0,
            blocks: 0,
            atime: self.start,
            mtime: self.start,
            ctime: self.start,
            crtime: self.start,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let ttl = if tree::cpu_of(number).is_some() {
            FOR_ONE
        } else {
            FOR_ALL
        };
        Some((attributes, ttl))
    }

    /// The names in a folder, with their numbers.
    fn names(&self, req: &Request, number: u64) -> io::Result<Vec<(u64, String)>> {
        let node = tree::node(number).ok_or(io::ErrorKind::NotFound)?;
        let mut names = vec![(number, ".".to_string()), (number, "..".to_string())];
        for (child, name) in tree::children(number) {
            let is_file = matches!(tree::node(child), Some(Node::Host | Node::Made(_)));
            if !is_file || self.machines.has(&tree::path(child).unwrap_or_default()) {
                names.push((child, name.to_string()));
            }
        }
        if node == Node::CpuFolder {
            let cpus = self.cpus(req)?.into_iter();
            names.extend(cpus.map(|cpu| (tree::cpu_file(cpu), format!("cpu{cpu}"))));
        }
        Ok(names)
    }
}

impl Filesystem for View {
    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(req, parent.0, name) {
            Ok(number) => match self.attributes(number) {
                Some((attributes, ttl)) => reply.entry(&ttl, &attributes, Generation(0)),
                None => reply.error(Errno::ENOENT),
            },
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino.0) {
            Some((attributes, ttl)) => reply.attr(&ttl, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY && pressure(ino.0).is_none() {
            return reply.error(Errno::EACCES);
        }
        let file = self.next.fetch_add(1, Ordering::Relaxed);
        // Each reader has a text of its own, whose length nobody knows before.
        reply.opened(FileHandle(file), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_at(req, (ino.0, fh.0), offset, size as usize) {
            Ok(part) => reply.data(&part),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.trigger(req, (ino.0, fh.0), data) {
            // It was parsed, so it is short.
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn poll(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        waiter: PollNotifier,
        _events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        if pressure(ino.0).is_none() {
            return reply.poll(ALWAYS);
        }
        let waits = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY);
        let waiter = waits.then(|| waiter.handle());
        reply.poll(self.triggers.poll(fh.0, waiter));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.forget(fh.0);
        drop(texts);
        if pressure(ino.0).is_some() {
            self.triggers.forget(fh.0);
        }
        reply.ok();
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.names(req, ino.0) {
            Ok(names) => names,
            Err(error) => return reply.error(errno(&error)),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (number, name)) in names.iter().enumerate().skip(from) {
            let kind = match tree::node(*number) {
                Some(Node::Made(_) | Node::Host) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            if reply.add(INodeNo(*number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

/// The group's file of a file of pressure/*.
fn pressure(number: u64) -> Option<&'static str> {
    match tree::node(number) {
        Some(Node::Made(Made::Pressure(name))) => Some(name),
        _ => None,
    }
}

/// What a reader is told: the kernel's own error where there is one.
fn errno(error: &io::Error) -> Errno {
    match (error.raw_os_error(), error.kind()) {
        (Some(code), _) => Errno::from_i32(code),
        (None, io::ErrorKind::NotFound) => Errno::ENOENT,
        (None, io::ErrorKind::IsADirectory) => Errno::EISDIR,
        (None, _) => Errno::EIO,
    }
}
