//! Triggers of pressure/*: who writes one to a file and polls it has POLLPRI when the group's own
//! file has it.
//!
//! The trigger is the kernel's, in the group's own file, which is opened for it. One thread waits
//! for all of them. What happened is noted until the reader's next poll is answered, as the
//! kernel notes it, and who waits in poll(2) is woken.
//!
//! systemd keeps these files, too, once somebody waits: when the program is killed, who waits
//! knows nothing of it and would wait for ever.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::mem::take;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{Notifier, PollEvents, PollHandle};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::mounted::{keep, unkeep};
use crate::read::Root;

/// Triggers that there are at most. The service's unit has as many places in systemd's store,
/// and one for the device.
const MOST: usize = 512;
/// Triggers that a machine has at most.
const MOST_OF_A_READER: usize = 16;
/// Windows are multiples of this for those without CAP_SYS_RESOURCE, as the kernel has it: for
/// others it looks at shorter intervals, in a thread of its own.
const WINDOW_US: u32 = 2_000_000;
/// CAP_SYS_RESOURCE's bit.
const SYS_RESOURCE: u64 = 1 << 24;

/// What poll(2) has of every file in /proc.
pub const ALWAYS: PollEvents = PollEvents::POLLIN
    .union(PollEvents::POLLRDNORM)
    .union(PollEvents::POLLOUT)
    .union(PollEvents::POLLWRNORM);

/// All triggers, by the reader's open file.
#[derive(Debug)]
pub struct Triggers {
    epoll: OwnedFd,
    kept: Mutex<HashMap<u64, Trigger>>,
}

#[derive(Debug)]
struct Trigger {
    /// The group's file.
    file: OwnedFd,
    reader: Arc<str>,
    /// It happened, and nobody was told.
    has_fired: bool,
    /// The group has ended.
    is_gone: bool,
    /// Who waits for it in poll(2), by the kernel's number.
    waiter: Option<u64>,
    /// Its name in systemd's store.
    name: Option<String>,
}

/// What is written: for how long tasks must have waited in which time, in us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish<'a> {
    kind: &'a str,
    stall_us: u32,
    window_us: u32,
}

impl<'a> Wish<'a> {
    /// "some 150000 1000000"; a zero byte may end it.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let text = text.strip_suffix('\0').unwrap_or(text);
        let mut words = text.split_ascii_whitespace();
        let kind = words
            .next()
            .filter(|kind| ["some", "full"].contains(kind))?;
        let mut number = || words.next()?.parse().ok();
        let (stall_us, window_us) = (number()?, number()?);
        let wish = Self {
            kind,
            stall_us,
            window_us,
        };
        words.next().is_none().then_some(wish)
    }

    /// Whether the kernel lets a process have it.
    pub fn is_for(self, root: &Root, id: u32) -> bool {
        self.window_us.is_multiple_of(WINDOW_US) || may_all(root, id)
    }
}

/// Whether a process has CAP_SYS_RESOURCE.
fn may_all(root: &Root, id: u32) -> bool {
    let status = root.text(&format!("proc/{id}/status")).unwrap_or_default();
    let mut lines = status.lines();
    let caps = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let caps = caps.and_then(|caps| u64::from_str_radix(caps.trim(), 16).ok());
    caps.is_some_and(|caps| caps & SYS_RESOURCE != 0)
}

impl Triggers {
    /// None yet.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            kept: Mutex::default(),
        })
    }

    /// Sets a trigger on the group's file at `path` for a reader's open file.
    pub fn set(&self, file: u64, reader: &Arc<str>, path: &Path, wish: Wish<'_>) -> io::Result<()> {
        self.has_room(&self.kept(), file, reader)?;
        let mut group = OpenOptions::new().read(true).write(true).open(path)?;
        let text = format!("{} {} {}", wish.kind, wish.stall_us, wish.window_us);
        // The kernel takes one whole, or refuses it. Meanwhile nobody else waits for the lock.
        group.write_all(text.as_bytes())?;
        let mut kept = self.kept();
        self.has_room(&kept, file, reader)?;
        self.add(&mut kept, file, group.into(), reader.clone())
    }

    /// Takes over one from systemd's store, of the reader's file and the kernel's number of who
    /// waited for it. Whether it has happened meanwhile nobody knows: it has.
    pub fn inherit(&self, file: u64, waiter: u64, name: String, group: OwnedFd) -> io::Result<()> {
        let mut kept = self.kept();
        self.add(&mut kept, file, group, "".into())?;
        if let Some(trigger) = kept.get_mut(&file) {
            trigger.has_fired = true;
            trigger.waiter = Some(waiter);
            trigger.name = Some(name);
        }
        Ok(())
    }

    /// What poll(2) is answered. It is told once, as by the kernel, that a trigger happened.
    pub fn poll(&self, file: u64, waiter: Option<PollHandle>) -> PollEvents {
        let mut kept = self.kept();
        let Some(trigger) = kept.get_mut(&file).filter(|trigger| !trigger.is_gone) else {
            return ALWAYS | PollEvents::POLLERR | PollEvents::POLLPRI;
        };
        if take(&mut trigger.has_fired) {
            return ALWAYS | PollEvents::POLLPRI;
        }
        let Some(PollHandle(waiter)) = waiter else {
            return ALWAYS;
        };
        trigger.waiter = Some(waiter);
        if trigger.name.is_none() {
            let name = format!("trigger-{file}-{waiter}");
            keep(&name, trigger.file.as_fd());
            trigger.name = Some(name);
        }
        ALWAYS
    }

    /// Ends the trigger of a file that was closed.
    pub fn forget(&self, file: u64) {
        let Some(trigger) = self.kept().remove(&file) else {
            return;
        };
        // systemd may have it open for a while yet.
        let _ = epoll::delete(&self.epoll, &trigger.file);
        if let Some(name) = &trigger.name {
            unkeep(name);
        }
    }

    /// Notes what happens, and wakes who waits for it; for ever.
    pub fn watch(&self, notifier: &Notifier) {
        // What was inherited has happened.
        let waiting: Vec<_> = self
            .kept()
            .values_mut()
            .filter_map(|t| t.waiter.take())
            .collect();
        let wake = |waiter| {
            // Who closed the file meanwhile waits no more.
            let _ = notifier.poll(PollHandle(waiter));
        };
        waiting.into_iter().for_each(wake);
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let waiting = events.iter().filter_map(|event| self.happened(*event));
            waiting.for_each(wake);
        }
    }

    /// Notes what happened; who is to be woken.
    fn happened(&self, event: Event) -> Option<u64> {
        let (file, flags) = (event.data.u64(), event.flags);
        let mut kept = self.kept();
        let trigger = kept.get_mut(&file)?;
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            trigger.is_gone = true;
            let _ = epoll::delete(&self.epoll, &trigger.file);
        } else {
            trigger.has_fired = true;
        }
        trigger.waiter.take()
    }

    fn has_room(
        &self,
        kept: &HashMap<u64, Trigger>,
        file: u64,
        reader: &Arc<str>,
    ) -> io::Result<()> {
        let of_reader = kept.values().filter(|trigger| trigger.reader == *reader);
        if kept.contains_key(&file) {
            Err(Errno::BUSY.into())
        } else if kept.len() >= MOST || of_reader.count() >= MOST_OF_A_READER {
            Err(Errno::NOSPC.into())
        } else {
            Ok(())
        }
    }

    fn add(
        &self,
        kept: &mut HashMap<u64, Trigger>,
        file: u64,
        group: OwnedFd,
        reader: Arc<str>,
    ) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            &group,
            EventData::new_u64(file),
            EventFlags::PRI,
        )?;
        let trigger = Trigger {
            file: group,
            reader,
            has_fired: false,
            is_gone: false,
            waiter: None,
            name: None,
        };
        kept.insert(file, trigger);
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<u64, Trigger>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reader's file and the waiter's number in the name of a trigger in systemd's store.
pub fn of_name(name: &str) -> Option<(u64, u64)> {
    let (file, waiter) = name.strip_prefix("trigger-")?.split_once('-')?;
    Some((file.parse().ok()?, waiter.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn a_wish_is_what_the_kernel_takes() {
        let wish = |kind, stall_us, window_us| {
            Some(Wish {
                kind,
                stall_us,
                window_us,
            })
        };
        let parse = |text: &'static str| Wish::parse(text.as_bytes());
        assert_eq!(
            parse("some 150000 1000000"),
            wish("some", 150_000, 1_000_000)
        );
        assert_eq!(parse("full 1 2000000\n\0"), wish("full", 1, 2_000_000));
        for bad in [
            "",
            "some",
            "some 1",
            "some 1 2 3",
            "some -1 2",
            "all 1 2",
            "some 1 4294967296",
            "some 1 2\0\0",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn short_windows_take_cap_sys_resource() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        for (id, caps) in [(1, "000001ffffffffff"), (2, "00000000a80425fb")] {
            let process = folder.path().join(format!("proc/{id}"));
            std::fs::create_dir_all(&process).unwrap();
            std::fs::write(
                process.join("status"),
                format!("Name:\tx\nCapEff:\t{caps}\n"),
            )
            .unwrap();
        }
        let of = |text: &'static str, id| Wish::parse(text.as_bytes()).unwrap().is_for(&root, id);
        assert!(of("some 1 4000000", 2) && of("some 1 4000000", 3));
        assert!(of("some 1 500000", 1));
        assert!(!of("some 1 500000", 2) && !of("some 1 500000", 3));
    }

    /// A pipe stands for the group's file: it can be written to and waited for.
    #[test]
    fn one_who_sets_many_leaves_room_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cpu.pressure");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let triggers = Triggers::new().unwrap();
        let wish = Wish::parse(b"some 1 2000000").unwrap();
        let set = |file, reader: &str| {
            let set = triggers.set(file, &reader.into(), &path, wish);
            set.map_err(|error| Errno::from_io_error(&error))
        };
        set(0, "/good").unwrap();
        assert_eq!(set(0, "/good"), Err(Some(Errno::BUSY)));
        for file in 1..=MOST_OF_A_READER as u64 {
            set(file, "/bad").unwrap();
        }
        assert_eq!(set(99, "/bad"), Err(Some(Errno::NOSPC)));
        triggers.forget(1);
        set(99, "/bad").unwrap();
        for file in 100.. {
            if set(file, &format!("/{file}")).is_err() {
                break;
            }
        }
        assert_eq!(triggers.kept().len(), MOST);
        // Nothing happened to this one; nobody knows the other.
        assert_eq!(triggers.poll(0, None), ALWAYS);
        let nothing = ALWAYS | PollEvents::POLLERR | PollEvents::POLLPRI;
        assert_eq!(triggers.poll(1, None), nothing);
    }

    proptest! {
        /// A reader may write anything.
        #[test]
        fn any_text_is_a_wish_or_none(text in any::<Vec<u8>>(), near in "(some|full) [0-9 \0+-]{0,24}") {
            for text in [&text[..], near.as_bytes()] {
                if let Some(wish) = Wish::parse(text) {
                    prop_assert!(text.len() >= "some 0 0".len() && ["some", "full"].contains(&wish.kind));
                }
            }
        }

        #[test]
        fn names_are_read_as_they_are_written(file in any::<u64>(), waiter in any::<u64>(), other in "[a-z0-9-]{0,30}") {
            prop_assert_eq!(of_name(&format!("trigger-{file}-{waiter}")), Some((file, waiter)));
            let _ = of_name(&other);
        }
    }
}
