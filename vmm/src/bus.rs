//! Which device answers at which address.

use std::sync::{Arc, Mutex, PoisonError};

/// A device with registers. Every access comes from a guest that may be hostile.
pub trait Device: Send {
    /// The guest reads `data.len()` bytes at `offset`; what is left untouched reads as ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that vCPUs share.
pub type Shared = Arc<Mutex<dyn Device>>;

/// Address ranges with their devices; one bus for ports, one for memory.
#[derive(Default)]
pub struct Bus {
    ranges: Vec<(u64, u64, Shared)>,
}

impl Bus {
    /// Puts `device` at `start`, `length` bytes long.
    pub fn add(&mut self, start: u64, length: u64, device: Shared) {
        self.ranges.push((start, length, device));
    }

    /// A read by the guest. Where nothing is, it reads ones, as on an empty bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(offset, data);
        }
    }

    /// A write by the guest. Where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, data);
        }
    }

    /// An access that reaches over a device's end belongs to nobody.
    fn find(&self, address: u64, length: usize) -> Option<(u64, &Shared)> {
        self.ranges.iter().find_map(|(start, size, device)| {
            let offset = address.checked_sub(*start)?;
            let end = offset.checked_add(length as u64)?;
            (end <= *size).then_some((offset, device))
        })
    }
}

/// The buses that vCPUs reach devices by.
#[derive(Default)]
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Memory-mapped registers.
    pub mmio: Bus,
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u64);

    impl Device for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = offset as u8;
        }
        fn write(&mut self, offset: u64, _data: &[u8]) {
            self.0 = offset;
        }
    }

    #[test]
    fn accesses_reach_their_device_and_only_inside_it() {
        let mut bus = Bus::default();
        bus.add(0x10, 4, Arc::new(Mutex::new(Echo(0))));
        let mut data = [0; 2];
        bus.read(0x12, &mut data);
        assert_eq!(data, [2, 0xff]);
        for outside in [0, 0xf, 0x13, 0x14, u64::MAX] {
            bus.read(outside, &mut data);
            assert_eq!(data, [0xff, 0xff], "{outside:#x}");
        }
        bus.write(u64::MAX, &[0; 8]);
    }
}
