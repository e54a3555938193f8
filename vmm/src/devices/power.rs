//! ACPI power management: the fixed registers of ACPI 6.5, chapter 4.8, and a reset register.
//!
//! | offset | bytes | register |
//! |---|---|---|
//! | 0 | 2 | PM1a status |
//! | 2 | 2 | PM1a enable |
//! | 4 | 2 | PM1a control |
//! | 8 | 1 | reset |

use crate::bus::Device;
use crate::devices::{get, put};
use crate::exit::End;
use crate::run::Ender;

/// Bytes of I/O space.
pub const SIZE: u64 = 9;
/// Offset of PM1a control.
pub const CONTROL: u16 = 4;
/// Offset of the reset register.
pub const RESET: u16 = 8;
/// What the guest writes there to reboot.
pub const RESET_VALUE: u8 = 1;
/// Sleep type of S5, as the DSDT's _S5 says.
pub const S5_TYPE: u8 = 5;

/// ACPI is on for good: there is no legacy mode to come from.
const SCI_EN: u16 = 1;
const SLP_EN: u16 = 1 << 13;

/// The registers.
pub struct Power {
    ender: Ender,
    enable: u16,
}

impl Power {
    /// Registers that end the machine through `ender`.
    pub fn new(ender: Ender) -> Self {
        Self { ender, enable: 0 }
    }
}

impl Device for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            2 => put(self.enable.into(), data),
            4 => put(SCI_EN.into(), data),
            _ => put(0, data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let value = get(data) as u16;
        match offset {
            2 => self.enable = value,
            4 if value & SLP_EN != 0 && (value >> 10) & 7 == u16::from(S5_TYPE) => {
                self.ender.end(End::PowerOff);
            }
            8 if value as u8 == RESET_VALUE => self.ender.end(End::Reboot),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_after(offset: u64, value: u16) -> Option<End> {
        let ender = Ender::new().unwrap();
        Power::new(ender.clone()).write(offset, &value.to_le_bytes());
        ender.ended()
    }

    #[test]
    fn only_s5_with_sleep_enable_powers_off() {
        assert_eq!(end_after(4, SLP_EN | 5 << 10), Some(End::PowerOff));
        assert_eq!(end_after(4, 5 << 10), None);
        assert_eq!(end_after(4, SLP_EN | 3 << 10), None);
    }

    #[test]
    fn the_reset_register_reboots() {
        assert_eq!(end_after(8, 1), Some(End::Reboot));
        assert_eq!(end_after(8, 0), None);
    }
}
