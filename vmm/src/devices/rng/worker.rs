//! Serves the queue, away from the vCPUs.

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::{Source, serve};
use crate::devices::virtio_mmio::Served;

/// Requests at one go; then the other devices have their turn.
const BURST: usize = 64;

/// The device with its queue.
pub struct Worker {
    /// Requests for random bytes.
    pub queue: Served,
    /// Who answers them.
    pub source: Source,
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        self.queue.watch(ops);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.queue.serve(BURST, |memory, chain| {
            let bytes = serve(self.source, memory, chain);
            self.queue.counters.to_guest(bytes.into());
            bytes
        });
    }
}
