//! KVM's statistics of a vCPU by its binary statistics file: Linux's
//! Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.
//!
//! Only the process that has a vCPU can ask KVM for the file. One that keeps it open (vmm,
//! QEMU from 8.1 on) has it duplicated from outside: with the right to trace it, and whether
//! debugfs is there or not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Root;
use super::kvm::{Counts, place};

/// Bytes of the header, and of a descriptor without its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More than any kernel has: beyond them the table is not believed.
const NAME_MAX: usize = 256;
const DESCRIPTORS_MAX: usize = 4096;
const DATA_MAX: usize = 1 << 20;
/// Bits 0 to 3 of a descriptor's flags: its kind; 0 counts up.
const KIND: u32 = 0xf;
const CUMULATIVE: u32 = 0;

/// Where the counters are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    start: u64,
    length: usize,
    /// Place in [`super::KVM_COUNTERS`], and offset from `start`.
    counters: Vec<(usize, usize)>,
}

impl Table {
    /// Reads the descriptors of the counters that are known. Fails when they contradict
    /// themselves: then there are no statistics.
    pub fn read(file: &impl FileExt) -> io::Result<Self> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        let (name_size, count) = (word(4) as usize, word(8) as usize);
        let (descriptors, data) = (word(16), word(20));
        if name_size > NAME_MAX || count > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let size = DESCRIPTOR + name_size;
        let mut bytes = vec![0; size * count];
        file.read_exact_at(&mut bytes, descriptors.into())?;
        let counters: Vec<_> = bytes
            .chunks_exact(size)
            .filter_map(counter)
            .filter_map(|(name, offset)| Some((place(name)?, offset)))
            .collect();
        let last = counters.iter().map(|&(_, offset)| offset).max();
        let length = last.map_or(0, |offset| offset + 8);
        if length > DATA_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            start: data.into(),
            length,
            counters,
        })
    }

    /// Reads the counters themselves.
    pub fn counters(&self, file: &impl FileExt) -> io::Result<Counts> {
        let mut data = vec![0; self.length];
        file.read_exact_at(&mut data, self.start)?;
        let value = |offset: usize| {
            let bytes = data.get(offset..offset + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let mut counts = Counts::default();
        for &(place, offset) in &self.counters {
            counts.put(place, value(offset));
        }
        Ok(counts)
    }
}

/// Name and offset of a descriptor, if it is of a single value that counts up.
fn counter(descriptor: &[u8]) -> Option<(&str, usize)> {
    let (fixed, name) = descriptor.split_at_checked(DESCRIPTOR)?;
    let flags = u32::from_ne_bytes(fixed[0..4].try_into().ok()?);
    let values = u16::from_ne_bytes(fixed[6..8].try_into().ok()?);
    let offset = u32::from_ne_bytes(fixed[8..12].try_into().ok()?);
    let name = name.split(|&byte| byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    (flags & KIND == CUMULATIVE && values == 1).then_some((name, offset as usize))
}

/// What a process's descriptor of such a file is called; the vCPU's number follows.
const LINK: &str = "anon_inode:kvm-vcpu-stats:";

/// Reads a vCPU's counters again and again. It keeps the vCPU's VM alive while it is open.
#[derive(Debug)]
pub struct StatsFile {
    file: File,
    table: Arc<Table>,
}

impl StatsFile {
    /// The counters now.
    pub fn read(&self) -> io::Result<Counts> {
        self.table.counters(&self.file)
    }
}

impl Root {
    /// The statistics files of a process's vCPUs that it has open, by vCPU. None of a recorded
    /// tree: behind its links there is no file.
    pub fn kvm_stats_files(&self, pid: i32) -> Vec<(u32, StatsFile)> {
        let process = Pid::from_raw(pid).filter(|_| self.is_live());
        let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let fds = self.fds(pid).unwrap_or_default().into_iter();
        let mut table: Option<Arc<Table>> = None;
        let files = fds.filter_map(|(fd, link)| {
            let vcpu = link.strip_prefix(LINK)?.parse().ok()?;
            let copy = pidfd_getfd(process.as_ref()?, fd, PidfdGetfdFlags::empty()).ok()?;
            // The process may have put another file there since.
            if rustix::fs::readlinkat(rustix::fs::CWD, own_link(&copy), Vec::new())
                .ok()?
                .to_bytes()
                != link.as_bytes()
            {
                return None;
            }
            let file = File::from(copy);
            if table.is_none() {
                table = Table::read(&file).ok().map(Arc::new);
            }
            // The same for all vCPUs of a kernel.
            let table = table.clone()?;
            Some((vcpu, StatsFile { file, table }))
        });
        files.collect()
    }
}

fn own_link(fd: &impl std::os::fd::AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: usize = 16;

    /// A file with these descriptors: name, flags, number of values, offset.
    fn file(descriptors: &[(&str, u32, u16, u32)], data: &[u64]) -> Vec<u8> {
        let at = HEADER as u32 + 4;
        let data_at = at + (descriptors.len() * (DESCRIPTOR + NAME)) as u32;
        let words = [0, NAME as u32, descriptors.len() as u32, 24, at, data_at];
        let mut file: Vec<u8> = words.map(u32::to_ne_bytes).concat();
        file.extend([0; 4]); // the id
        for &(name, flags, values, offset) in descriptors {
            file.extend(flags.to_ne_bytes());
            file.extend(0i16.to_ne_bytes());
            file.extend(values.to_ne_bytes());
            file.extend(offset.to_ne_bytes());
            file.extend(0u32.to_ne_bytes());
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME, 0);
            file.extend(bytes);
        }
        file.extend(data.iter().flat_map(|value| value.to_ne_bytes()));
        file
    }

    fn on_disk(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<(String, u64)>> {
        let file = on_disk(bytes);
        let counters = Table::read(&file)?.counters(&file)?;
        Ok(counters.iter().map(|(n, v)| (n.to_string(), v)).collect())
    }

    #[test]
    fn single_values_that_count_up_are_read() {
        let descriptors = [
            ("exits", 0, 1, 0),
            ("halt_exits", 2, 1, 8),
            ("spin_exits", 0, 2, 16),
            ("spin_ns", 0x20, 1, 32),
        ];
        let bytes = file(&descriptors, &[7, 8, 9, 10, 11]);
        let expected = [("exits", 7), ("spin_ns", 11)].map(|(n, v)| (n.to_string(), v));
        assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let file = on_disk(&file(&[("a", 0, 1, 0), ("exits", 0, 1, 8)], &[1, 2]));
        let table = Table::read(&file).unwrap();
        assert_eq!(table.counters.len(), 1);
    }

    #[test]
    fn tables_that_cannot_be_are_no_statistics() {
        let good = file(&[("exits", 0, 1, 0)], &[1]);
        for length in [0, HEADER - 1, HEADER + 8, good.len() - 1] {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
        for (at, what) in [
            (4, "names"),
            (8, "descriptors"),
            (16, "place"),
            (20, "data"),
        ] {
            let mut bad = good.clone();
            bad[at..at + 4].fill(0xff);
            assert!(read(&bad).is_err(), "{what}");
        }
        assert!(read(&file(&[("exits", 0, 1, u32::MAX)], &[1])).is_err());
    }
}
