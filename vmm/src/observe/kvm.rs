//! KVM's statistics of a vCPU by its binary statistics file: Linux's
//! Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::{_IOC_NONE, ioctl, ioctl_expr};

/// `_IO(KVMIO, 0xce)`
const KVM_GET_STATS_FD: libc::c_ulong = ioctl_expr(_IOC_NONE, KVMIO, 0xce, 0);

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

/// Counters by the kernel's names.
pub type Counters = BTreeMap<Arc<str>, u64>;

/// Where the counters are in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    start: u64,
    length: usize,
    /// Name, and offset from `start`.
    counters: Vec<(Arc<str>, usize)>,
}

impl Table {
    /// Reads the descriptors of the counters that `wanted` names. Fails when they
    /// contradict themselves: then there are no statistics.
    pub fn read(file: &impl FileExt, wanted: impl Fn(&str) -> bool) -> io::Result<Self> {
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
            .filter(|(name, _)| wanted(name))
            .map(|(name, offset)| (Arc::from(name), offset))
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
    pub fn counters(&self, file: &impl FileExt) -> io::Result<Counters> {
        let mut data = vec![0; self.length];
        file.read_exact_at(&mut data, self.start)?;
        let value = |offset: usize| {
            let bytes = data.get(offset..offset + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let counters = self.counters.iter();
        Ok(counters
            .filter_map(|(name, offset)| Some((name.clone(), value(*offset)?)))
            .collect())
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

/// The statistics file of a vCPU; none where KVM has none.
pub fn open(vcpu: &VcpuFd) -> Option<File> {
    // SAFETY: the request takes no argument and returns a new descriptor or -1.
    let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD) };
    // SAFETY: the descriptor is new and nobody else's.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
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
        let counters = Table::read(&file, |_| true)?.counters(&file)?;
        Ok(counters.iter().map(|(n, &v)| (n.to_string(), v)).collect())
    }

    #[test]
    fn single_values_that_count_up_are_read() {
        let descriptors = [
            ("exits", 0, 1, 0),
            ("peak", 2, 1, 8),
            ("histogram", 0, 2, 16),
            ("spin_ns", 0x20, 1, 32),
        ];
        let bytes = file(&descriptors, &[7, 8, 9, 10, 11]);
        let expected = [("exits", 7), ("spin_ns", 11)].map(|(n, v)| (n.to_string(), v));
        assert_eq!(read(&bytes).unwrap(), expected);
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let file = on_disk(&file(&[("a", 0, 1, 0), ("b", 0, 1, 8)], &[1, 2]));
        let table = Table::read(&file, |name| name == "b").unwrap();
        assert_eq!(table.counters.len(), 1);
    }

    #[test]
    fn tables_that_cannot_be_are_no_statistics() {
        let good = file(&[("a", 0, 1, 0)], &[1]);
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
        assert!(read(&file(&[("a", 0, 1, u32::MAX)], &[1])).is_err());
    }
}
