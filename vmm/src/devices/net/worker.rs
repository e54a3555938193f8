//! Carries frames between the tap and the guest, away from the vCPUs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::{FRAME, HEADER};
use crate::devices::virtio_mmio::{Chain, Served};
use crate::memory::GuestMemory;

/// Frames to the guest at one go; then the other devices have their turn.
const BURST: usize = 256;

/// The device with its queues.
pub struct Worker {
    host: Host,
    to_guest: Served,
    from_guest: Served,
}

/// The host's side.
struct Host {
    tap: File,
    /// A header, and room for a frame behind it.
    buffer: Box<[u8]>,
    /// Bytes of the frame that waits there until the guest has a buffer for it.
    waiting: Option<usize>,
    /// Frames that are left of this burst.
    burst: usize,
}

impl Worker {
    /// A worker between `tap`, whose reads don't wait, and the guest.
    pub fn new(tap: File, to_guest: Served, from_guest: Served) -> Self {
        let mut buffer = vec![0; HEADER + FRAME].into_boxed_slice();
        // One buffer a frame: little endian, the header's last field.
        buffer[HEADER - 2] = 1;
        Self {
            host: Host {
                tap,
                buffer,
                waiting: None,
                burst: 0,
            },
            to_guest,
            from_guest,
        }
    }

    /// Receives until the tap has no more frames or the guest no more buffers.
    fn receive(&mut self) {
        self.host.burst = BURST;
        self.to_guest
            .serve_while(&mut self.host, Host::fetch, Host::deliver);
        if self.host.burst == 0 {
            // Fails only when 2^64 - 1 of them wait already.
            let _ = self.to_guest.notified.write(1);
        }
    }

    fn send(&self) {
        self.from_guest.serve(|memory, chain| {
            send(&self.host.tap, memory, chain);
            0
        });
    }
}

impl Host {
    /// Whether there is a frame for the guest, and its turn.
    fn fetch(&mut self) -> bool {
        if self.burst > 0 && self.waiting.is_none() {
            let read = self.tap.read(&mut self.buffer[HEADER..]);
            self.waiting = read.ok().filter(|&size| size > 0);
        }
        self.burst > 0 && self.waiting.is_some()
    }

    /// Puts the frame that waits into a buffer. One that doesn't fit is lost, as on a wire.
    fn deliver(&mut self, memory: &GuestMemory, chain: Chain) -> u32 {
        self.burst -= 1;
        let bytes = &self.buffer[..HEADER + self.waiting.take().unwrap_or(0)];
        let Ok(mut output) = chain.writer(memory) else {
            return 0;
        };
        if output.available_bytes() < bytes.len() || output.write_all(bytes).is_err() {
            return 0;
        }
        bytes.len() as u32
    }
}

/// Sends a frame of the guest. One that is too long, or that the tap doesn't take
/// now, is lost, as on a wire.
fn send(mut tap: &File, memory: &GuestMemory, chain: Chain) {
    let Ok(mut input) = chain.reader(memory) else {
        return;
    };
    let mut header = [0; HEADER];
    if input.read_exact(&mut header).is_err() || input.available_bytes() > FRAME {
        return;
    }
    let mut frame = vec![0; input.available_bytes()];
    if input.read_exact(&mut frame).is_ok() {
        let _ = tap.write(&frame);
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        self.to_guest.watch(ops);
        self.from_guest.watch(ops);
        // Edges only: frames that the guest doesn't want yet wake nobody again.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        // Fails only for lack of memory; then nothing arrives.
        let _ = ops.add(Events::new(&self.host.tap, events));
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.from_guest.notified.as_raw_fd() {
            self.send();
        } else {
            self.receive();
        }
    }
}

#[cfg(test)]
mod tests;
