//! Serves a disk's queue, away from the vCPUs.

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::disk::Disk;
use super::request::serve;
use crate::devices::virtio_mmio::Served;

/// Requests at one go; then the other devices have their turn.
const BURST: usize = 16;

/// A disk with its queue.
pub struct Worker {
    /// The disk.
    pub disk: Disk,
    /// Its requests.
    pub queue: Served,
}

impl Worker {
    fn serve_queue(&self) {
        self.queue.serve(BURST, |memory, chain| {
            let surroundings = (&self.queue.brake, &*self.queue.counters);
            serve(&self.disk, surroundings, memory, chain)
        });
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        self.queue.watch(ops);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.serve_queue();
    }
}

#[cfg(test)]
mod tests;
