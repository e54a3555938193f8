//! Serves a disk's queue, away from the vCPUs.

use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::request::serve;
use crate::config::Disk;
use crate::devices::virtio_mmio::{Interrupt, SharedQueue, lock};
use crate::memory::GuestMemory;

/// A disk with its queue.
pub struct Worker {
    /// The disk.
    pub disk: Disk,
    /// The queue that the driver fills.
    pub queue: SharedQueue,
    /// How the driver is told.
    pub interrupt: Arc<Interrupt>,
    /// Written when the driver has filled the queue.
    pub notified: EventFd,
    /// The guest's memory.
    pub memory: GuestMemory,
}

impl Worker {
    /// Serves all that is in the queue; tells the driver if it wants to know.
    fn serve_queue(&self) {
        let mut queue = lock(&self.queue);
        if !queue.ready() || !queue.is_valid(&self.memory) {
            return;
        }
        if self.drain(&mut queue).is_err() {
            // The guest broke its own queue: it is out of use until a reset.
            queue.set_ready(false);
        }
    }

    fn drain(&self, queue: &mut Queue) -> Result<(), virtio_queue::Error> {
        loop {
            queue.disable_notification(&self.memory)?;
            let mut served = false;
            while let Some(chain) = next_chain(queue, &self.memory)? {
                let head = chain.head_index();
                let used = serve(&self.disk, &self.memory, chain);
                queue.add_used(&self.memory, head, used)?;
                served = true;
            }
            if served && queue.needs_notification(&self.memory)? {
                self.interrupt.used_buffers();
            }
            // The driver may have added a request since the last look.
            if !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }
}

type Chain<'a> = DescriptorChain<&'a GuestMemory>;

/// The next request. Fails when the driver's index is further ahead than a queue can hold.
fn next_chain<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemory,
) -> Result<Option<Chain<'a>>, virtio_queue::Error> {
    Ok(queue.iter(memory)?.next())
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        // Fails only for lack of memory; the disk then never answers.
        let _ = ops.add(Events::new(&self.notified, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.notified.read();
        self.serve_queue();
    }
}

#[cfg(test)]
mod tests;
