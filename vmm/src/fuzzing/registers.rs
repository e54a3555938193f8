//! The bus with every device that has registers and no queue.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use arbitrary::{Arbitrary, Unstructured};

use super::reuse::Event;
use super::seen::Seen;
use crate::bus::Bus;
use crate::devices::power::{self, Power, PowerButton};
use crate::devices::pvpanic::Pvpanic;
use crate::devices::rtc::Rtc;
use crate::devices::serial::{self, Line, SerialPort, Sink, Watch};
use crate::exit::Ender;
use crate::layout::{ACPI_PM, COM1, PVPANIC, RTC};

const STARTS: [u16; 4] = [COM1, RTC, ACPI_PM, PVPANIC];

#[derive(Debug, Arbitrary)]
enum Step {
    /// An access near a device.
    Access {
        device: u8,
        offset: u8,
        bytes: [u8; 8],
        length: u8,
        write: bool,
    },
    /// An access anywhere. A string instruction may read more than a register has.
    Anywhere { address: u64, length: u8 },
    /// Somebody types.
    Input { length: u8, value: u8 },
    /// Somebody presses the power button.
    Press,
}

thread_local! {
    static EVENT: Event = Event::default();
    static SINK: File = File::options()
        .write(true)
        .open("/dev/null")
        .expect("a sink");
}

/// A guest's accesses to ports. All events of the devices are one: nobody waits for them.
pub fn registers(input: &[u8], seen: &mut Seen) {
    EVENT.with(|event| {
        event.take();
        run(input, event, seen);
        seen.note_with(|| event.take());
    });
}

fn run(input: &[u8], event: &Event, seen: &mut Seen) {
    let ender = Ender::new().expect("an event");
    let file = SINK.with(|sink| sink.try_clone().expect("a sink"));
    let watch = Some(Watch::new("started", event.share()));
    let line = Line::new(Sink::from(file), watch, event.share(), Arc::default());
    let line = Arc::new(Mutex::new(line));
    let port = SerialPort::new(event.share(), &event.0, line).expect("a port");
    let port = Arc::new(Mutex::new(port));
    let power = Arc::new(Mutex::new(Power::new(ender.clone(), event.share())));
    let button = PowerButton::new(power.clone());
    let mut bus = Bus::default();
    bus.add(COM1.into(), serial::SIZE, port.clone());
    bus.add(RTC.into(), 2, Arc::new(Mutex::new(Rtc::default())));
    bus.add(ACPI_PM.into(), power::SIZE, power);
    bus.add(PVPANIC.into(), 1, Arc::new(Mutex::new(Pvpanic::new(ender))));

    let mut input = Unstructured::new(input);
    let access = |address: u64, bytes: &mut [u8], write: bool, seen: &mut Seen| {
        match write {
            true => bus.write(address, bytes),
            false => bus.read(address, bytes),
        }
        // The time goes on.
        if address != u64::from(RTC) + 1 {
            seen.note(bytes);
        }
    };
    while !input.is_empty() {
        let Ok(step) = input.arbitrary() else {
            return;
        };
        match step {
            Step::Access {
                device,
                offset,
                mut bytes,
                length,
                write,
            } => {
                let start = STARTS[usize::from(device) % STARTS.len()];
                let bytes = &mut bytes[..usize::from(length) % 9];
                access(
                    u64::from(start) + u64::from(offset % 12),
                    bytes,
                    write,
                    seen,
                );
            }
            Step::Anywhere { address, length } => {
                let mut bytes = [0; 256];
                let bytes = &mut bytes[..usize::from(length)];
                access(address, bytes, false, seen);
                access(address, bytes, true, seen);
            }
            Step::Input { length, value } => {
                let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
                let room = port.room().min(length.into());
                let taken = port.input(&vec![value; room]);
                assert!(taken <= room, "the port takes more than it is given");
                seen.note(taken);
            }
            Step::Press => button.press(),
        }
    }
}
