//! The first serial port (8250), and the console at the other end of its line.
//!
//! [`line`] is between the two, so that no vCPU waits for a reader; [`sink`] is where it
//! ends, [`input`] where input comes from, and [`console`] has `vmm-io` serve both.

mod attached;
mod console;
mod input;
mod line;
mod log_file;
mod place;
mod sink;
mod watch;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Device;
use crate::{Error, Result};

pub use console::Console;
pub use input::Input;
pub use line::{Line, Output, Shared};
pub use place::Place;
pub use sink::Sink;
pub use watch::Watch;

/// Bytes of I/O space.
pub const SIZE: u64 = 8;

/// Raises the port's interrupt.
struct Irq(EventFd);

impl Trigger for Irq {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the console that the guest has taken all input that it was given.
struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // The counter would have to reach 2^64 for this to fail.
        let _ = self.0.write(1);
    }
}

/// The port.
pub struct SerialPort {
    port: Serial<Irq, Drained, Output>,
}

impl SerialPort {
    /// A port that interrupts through `irq`, says through `drained` when it takes more
    /// input, and prints into `line`.
    pub fn new(irq: EventFd, drained: &EventFd, line: Shared) -> Result<Self> {
        let drained = drained
            .try_clone()
            .map_err(Error::system("share an event"))?;
        Ok(Self {
            port: Serial::with_events(Irq(irq), Drained(drained), Output(line)),
        })
    }

    /// How many bytes of input fit now.
    pub fn room(&self) -> usize {
        self.port.fifo_capacity()
    }

    /// Hands over input, at most [`Self::room`] bytes of it; returns how many
    /// were taken: none while the guest tests its port in loopback mode.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        self.port.enqueue_raw_bytes(bytes).unwrap_or(0)
    }
}

impl Device for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            *byte = self.port.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), [byte]) = (u8::try_from(offset), data) {
            // Fails only if the interrupt does, which would take 2^64 of them.
            let _ = self.port.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests;
