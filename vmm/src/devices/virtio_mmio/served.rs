//! A queue as the worker sees that serves it, away from the vCPUs.

use std::sync::Arc;

use event_manager::{EventOps, Events};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{Interrupt, SharedQueue, lock};
use crate::memory::GuestMemory;

/// A request of the driver.
pub type Chain<'a> = DescriptorChain<&'a GuestMemory>;

/// A queue with all that it takes to serve it.
pub struct Served {
    /// The queue that the driver fills.
    pub queue: SharedQueue,
    /// How the driver is told.
    pub interrupt: Arc<Interrupt>,
    /// Written when the driver has filled the queue.
    pub notified: EventFd,
    /// The guest's memory.
    pub memory: GuestMemory,
}

impl Served {
    /// Waits for the driver's notifications from now on.
    pub fn watch(&self, ops: &mut EventOps) {
        // Fails only for lack of memory; the device then never answers.
        let _ = ops.add(Events::new(&self.notified, EventSet::IN));
    }

    /// Serves every request that is there, each by `serve`, which returns the number
    /// of bytes that it wrote to the guest; tells the driver if it wants to know.
    pub fn serve(&self, mut serve: impl FnMut(&GuestMemory, Chain) -> u32) {
        self.serve_while(
            &mut serve,
            |_| true,
            |serve, memory, chain| serve(memory, chain),
        );
    }

    /// The same as long as `device` is ready for another request. Who is ready later
    /// has to call again: the driver need not tell of buffers that wait already.
    pub fn serve_while<D>(
        &self,
        device: &mut D,
        ready: impl Fn(&mut D) -> bool,
        serve: impl Fn(&mut D, &GuestMemory, Chain) -> u32,
    ) {
        let _ = self.notified.read();
        let mut queue = lock(&self.queue);
        if !queue.ready() || !queue.is_valid(&self.memory) {
            return;
        }
        if self.drain(&mut queue, device, ready, serve).is_err() {
            // The guest broke its own queue: it is out of use until a reset.
            queue.set_ready(false);
        }
    }

    fn drain<D>(
        &self,
        queue: &mut Queue,
        device: &mut D,
        ready: impl Fn(&mut D) -> bool,
        serve: impl Fn(&mut D, &GuestMemory, Chain) -> u32,
    ) -> Result<(), Error> {
        loop {
            queue.disable_notification(&self.memory)?;
            let mut served = false;
            let mut more = ready(device);
            while more && let Some(chain) = next_chain(queue, &self.memory)? {
                let head = chain.head_index();
                let used = serve(device, &self.memory, chain);
                queue.add_used(&self.memory, head, used)?;
                served = true;
                more = ready(device);
            }
            if served && queue.needs_notification(&self.memory)? {
                self.interrupt.used_buffers();
            }
            // The driver may have added a request since the last look.
            if !more || !queue.enable_notification(&self.memory)? {
                return Ok(());
            }
        }
    }
}

/// The next request. Fails when the driver's index is further ahead than a queue can hold.
fn next_chain<'a>(queue: &mut Queue, memory: &'a GuestMemory) -> Result<Option<Chain<'a>>, Error> {
    Ok(queue.iter(memory)?.next())
}
