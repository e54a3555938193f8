//! Carries frames between the tap and the guest, away from the vCPUs.

use std::io::Read;
use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;

use super::receive::Receiver;
use super::tap::Tap;
use super::{FRAME, HEADER};
use crate::devices::virtio_mmio::{Chain, Served};
use crate::memory::GuestMemory;

/// Frames at one go in each direction; then the other devices have their turn.
const BURST: usize = 256;

/// The device with its queues.
pub struct Worker {
    receiver: Receiver,
    to_guest: Served,
    from_guest: Served,
}

impl Worker {
    /// A worker between `tap` and the guest.
    pub fn new(tap: Tap, to_guest: Served, from_guest: Served) -> Self {
        Self {
            receiver: Receiver::new(tap, &to_guest),
            to_guest,
            from_guest,
        }
    }

    /// Receives until the tap has no more frames or the guest no more buffers.
    fn receive(&mut self) {
        let (fetch, deliver) = (Receiver::fetch, Receiver::deliver);
        self.to_guest
            .serve_while(BURST, &mut self.receiver, fetch, deliver);
        if self.receiver.is_waiting() {
            self.to_guest.counters.full();
        }
    }

    fn send(&self) {
        self.from_guest.serve(BURST, |memory, chain| {
            match send(self.receiver.tap(), memory, chain) {
                Some(bytes) => self.from_guest.counters.from_guest(bytes),
                None => self.from_guest.counters.dropped(1),
            }
            0
        });
    }
}

/// Sends a frame of the guest with its header, which the host's kernel checks; returns the
/// frame's bytes. One that is too short or too long, or that the tap doesn't take, is lost,
/// as on a wire.
fn send(tap: &Tap, memory: &GuestMemory, chain: Chain) -> Option<u64> {
    let mut input = chain.reader(memory).ok()?;
    let size = input.available_bytes();
    if !(HEADER + 1..=HEADER + FRAME).contains(&size) {
        return None;
    }
    let mut frame = vec![0; size];
    input.read_exact(&mut frame).ok()?;
    tap.send(&frame).then_some((size - HEADER) as u64)
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        self.to_guest.watch(ops);
        self.from_guest.watch(ops);
        // Edges only: frames that the guest doesn't want yet wake nobody again.
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        // Fails only for lack of memory; then nothing arrives.
        let _ = ops.add(Events::new(self.receiver.tap(), events));
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
