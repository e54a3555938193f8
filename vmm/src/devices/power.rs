//! ACPI power management: the fixed registers of ACPI 6.5, chapter 4.8, and a reset register.
//!
//! | offset | bytes | register |
//! |---|---|---|
//! | 0 | 2 | PM1a status |
//! | 2 | 2 | PM1a enable |
//! | 4 | 2 | PM1a control |
//! | 8 | 1 | reset |
//!
//! The only event is the power button. The SCI that tells it is declared as edge
//! triggered: an event that comes while the guest handles the last one isn't lost.

use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::Device;
use crate::devices::{get, put};
use crate::exit::{End, Ender};

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
/// The power button, in status and enable.
const PWRBTN: u16 = 1 << 8;

/// The registers.
pub struct Power {
    ender: Ender,
    sci: EventFd,
    status: u16,
    enable: u16,
}

/// The guest's power button, for any thread of the host.
#[derive(Clone)]
pub struct PowerButton(Arc<Mutex<Power>>);

impl PowerButton {
    /// The button of these registers.
    pub fn new(power: Arc<Mutex<Power>>) -> Self {
        Self(power)
    }

    /// Presses it. What the guest does then is its own affair: Linux shuts down
    /// when its user space listens, or does nothing.
    pub fn press(&self) {
        let mut power = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        power.change(|power| power.status |= PWRBTN);
    }
}

impl Power {
    /// Registers that end the machine through `ender` and tell events through `sci`.
    pub fn new(ender: Ender, sci: EventFd) -> Self {
        Self {
            ender,
            sci,
            status: 0,
            enable: 0,
        }
    }

    /// Changes status or enable; interrupts when that makes an enabled event.
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.status & self.enable;
        change(self);
        if before == 0 && self.status & self.enable != 0 {
            // Fails only when 2^64 - 1 of them wait already.
            let _ = self.sci.write(1);
        }
    }
}

impl Device for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            0 => put(self.status.into(), data),
            2 => put(self.enable.into(), data),
            4 => put(SCI_EN.into(), data),
            _ => put(0, data),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let value = get(data) as u16;
        match offset {
            // Ones clear.
            0 => self.status &= !value,
            2 => self.change(|power| power.enable = value),
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
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn sci() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    fn end_after(offset: u64, value: u16) -> Option<End> {
        let ender = Ender::new().unwrap();
        Power::new(ender.clone(), sci()).write(offset, &value.to_le_bytes());
        ender.ended()
    }

    /// The button, what the guest does to the registers, and the interrupt.
    fn button() -> (PowerButton, impl Fn(u64, u16), EventFd) {
        let sci = sci();
        let power = Power::new(Ender::new().unwrap(), sci.try_clone().unwrap());
        let power = Arc::new(Mutex::new(power));
        let registers = power.clone();
        let write = move |offset, value: u16| {
            registers
                .lock()
                .unwrap()
                .write(offset, &value.to_le_bytes());
        };
        (PowerButton::new(power), write, sci)
    }

    #[test]
    fn a_press_interrupts_once_until_it_is_cleared() {
        let (button, write, sci) = button();
        write(2, PWRBTN);
        button.press();
        button.press();
        assert_eq!(sci.read().unwrap(), 1);
        // Another event's bit clears nothing.
        write(0, 1);
        button.press();
        assert!(sci.read().is_err());
        write(0, PWRBTN);
        button.press();
        assert_eq!(sci.read().unwrap(), 1);
    }

    #[test]
    fn a_press_waits_until_it_is_enabled() {
        let (button, write, sci) = button();
        button.press();
        assert!(sci.read().is_err());
        write(2, PWRBTN);
        assert_eq!(sci.read().unwrap(), 1);
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
