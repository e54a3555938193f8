//! The clock of an MC146818: tells the host's time (UTC), takes no orders.

use time::OffsetDateTime;

use crate::bus::Device;

/// Register B: 24-hour mode, decimal digits (BCD): Linux asks for nothing else.
const MODE: u8 = 0x02;
/// Register D: the time is valid.
const VALID: u8 = 0x80;

/// The clock: an index port and a data port.
#[derive(Default)]
pub struct Rtc {
    index: u8,
}

impl Device for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 1 {
            data.fill(register(self.index, OffsetDateTime::now_utc()));
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Some(index)) = (offset, data.first()) {
            // Bit 7 masks NMIs on real machines.
            self.index = index & 0x7f;
        }
    }
}

/// Register `index` at a given time; register A has no update in progress, ever.
fn register(index: u8, now: OffsetDateTime) -> u8 {
    let number = match index {
        0 => now.second(),
        2 => now.minute(),
        4 => now.hour(),
        6 => now.weekday().number_from_sunday(),
        7 => now.day(),
        8 => now.month().into(),
        9 => (now.year().rem_euclid(100)) as u8,
        0x0b => return MODE,
        0x0d => return VALID,
        0x32 => (now.year().div_euclid(100)) as u8,
        _ => 0,
    };
    ((number / 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_tell_the_time() {
        let now = OffsetDateTime::from_unix_timestamp(1_798_761_599).unwrap();
        let time: Vec<u8> = [0x32, 9, 8, 7, 4, 2, 0, 6].map(|i| register(i, now)).into();
        // Thursday, 2026-12-31 23:59:59 UTC
        let digits = [0x20, 0x26, 0x12, 0x31, 0x23, 0x59, 0x59, 0x05];
        assert_eq!(time, digits);
        assert_eq!(register(0x0a, now) & 0x80, 0);
    }
}
