//! Serves the queues, away from the vCPUs.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, Events, MutEventSubscriber};

use super::report;
use crate::devices::virtio_mmio::Served;

/// Requests at one go; then the other devices have their turn.
const BURST: usize = 16;

/// The device with its queues.
pub struct Worker {
    inflate: Served,
    deflate: Served,
    reporting: Served,
}

impl Worker {
    /// A worker for the queues, in their order.
    pub fn new([inflate, deflate, reporting]: [Served; 3]) -> Self {
        Self {
            inflate,
            deflate,
            reporting,
        }
    }
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        for queue in [&self.inflate, &self.deflate, &self.reporting] {
            queue.watch(ops);
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.reporting.notified.as_raw_fd() {
            self.reporting.serve(BURST, |memory, chain| {
                let bytes = report::take(memory, chain);
                self.reporting.counters.from_guest(bytes);
                0
            });
            return;
        }
        // Nothing was asked for: the driver has its pages back.
        for queue in [&self.inflate, &self.deflate] {
            queue.serve(BURST, |_, _| 0);
        }
    }
}
