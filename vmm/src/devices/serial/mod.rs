//! The first serial port (8250), with the terminal or a pipe at its other end.

mod console;
mod watch;

use std::fs::File;
use std::io::{ErrorKind, Write, stdout};
use std::os::fd::AsFd;

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Device;
use crate::exit::Ender;
use crate::{Error, Result};

pub use console::Console;
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

/// Standard output. Whoever reads it may have stopped to: then a vCPU waits
/// here, until the machine ends and its thread is kicked.
pub struct Output {
    /// Where bytes go.
    pub file: File,
    /// Tells when the machine has ended.
    pub ender: Ender,
    /// Waits for a text in it.
    pub watch: Option<Watch>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.file.write(bytes) {
            Err(e) if e.kind() == ErrorKind::Interrupted && self.ender.ended().is_some() => {
                Ok(bytes.len())
            }
            other => {
                let written = other.as_ref().map_or(0, |&n| n);
                if let Some(watch) = &mut self.watch
                    && watch.take(&bytes[..written])
                {
                    self.watch = None;
                }
                other
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The port.
pub struct SerialPort {
    port: Serial<Irq, Drained, Output>,
}

impl SerialPort {
    /// A port that interrupts through `irq` and says through `drained` when it takes more
    /// input; its output is standard output, and `watch` sees it.
    pub fn new(
        irq: EventFd,
        drained: &EventFd,
        ender: Ender,
        watch: Option<Watch>,
    ) -> Result<Self> {
        let file = stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::system("open standard output"))?
            .into();
        Self::with_output(irq, drained, Output { file, ender, watch })
    }

    /// The same with another output.
    pub fn with_output(irq: EventFd, drained: &EventFd, output: Output) -> Result<Self> {
        let drained = drained
            .try_clone()
            .map_err(Error::system("share an event"))?;
        Ok(Self {
            port: Serial::with_events(Irq(irq), Drained(drained), output),
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
            // A closed standard output must not stop the guest.
            let _ = self.port.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests;
