//! pvpanic: one byte by which the guest's kernel says that it panicked.
//! The interface is QEMU's docs/specs/pvpanic.

use crate::bus::Device;
use crate::exit::{End, Ender};

/// Event bit: the guest panicked.
const PANICKED: u8 = 1;

/// The device.
pub struct Pvpanic {
    ender: Ender,
}

impl Pvpanic {
    /// A device that ends the machine through `ender`.
    pub fn new(ender: Ender) -> Self {
        Self { ender }
    }
}

impl Device for Pvpanic {
    /// The events that are understood.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|event| event & PANICKED != 0) {
            self.ender.end(End::Panic);
        }
    }
}
