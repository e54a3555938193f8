//! A queue as the worker sees that serves it, away from the vCPUs.

use std::sync::Arc;

use event_manager::{EventOps, Events};
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::{Complaints, Interrupt, Session, SharedQueue, lock};
use crate::brake::Brake;
use crate::devices::counters::Counters;
use crate::memory::GuestMemory;

/// A request of the driver.
pub type Chain<'a> = DescriptorChain<&'a GuestMemory>;

/// What has become of a request.
pub enum Used {
    /// So many bytes were written to the guest; it has the request back.
    Bytes(u32),
    /// It is kept for later.
    Kept,
    /// Several that were kept, the last among them: heads, and bytes written to each. The
    /// driver gets them all at once.
    Together(Vec<(u16, u32)>),
}

impl From<u32> for Used {
    fn from(bytes: u32) -> Self {
        Self::Bytes(bytes)
    }
}

/// A queue with all that it takes to serve it.
pub struct Served {
    /// The queue that the driver fills.
    pub queue: SharedQueue,
    /// How the driver is told.
    pub interrupt: Arc<Interrupt>,
    /// What the driver has agreed on.
    pub session: Arc<Session>,
    /// Written when the driver has filled the queue.
    pub notified: EventFd,
    /// The guest's memory.
    pub memory: GuestMemory,
    /// When requests have to wait.
    pub brake: Brake,
    /// Where the device speaks of its driver.
    pub complaints: Arc<Complaints>,
    /// What the device counts.
    pub counters: Arc<Counters>,
}

impl Served {
    /// Waits for the driver's notifications from now on.
    pub fn watch(&self, ops: &mut EventOps) {
        // Fails only for lack of memory; the device then never answers.
        let _ = ops.add(Events::new(&self.notified, EventSet::IN));
    }

    /// Serves requests, each by `serve`, which returns the number of bytes that it wrote to
    /// the guest; tells the driver if it wants to know. After `burst` of them the other
    /// devices have their turn.
    pub fn serve(&self, burst: usize, mut serve: impl FnMut(&GuestMemory, Chain) -> u32) {
        self.serve_while(
            burst,
            &mut serve,
            |_| true,
            |serve, memory, chain| serve(memory, chain),
        );
    }

    /// The same as long as `device` is ready for another request. A device that is ready
    /// later has to call again: the driver need not tell of buffers that wait already.
    pub fn serve_while<D, U: Into<Used>>(
        &self,
        burst: usize,
        device: &mut D,
        ready: impl Fn(&mut D) -> bool,
        serve: impl Fn(&mut D, &GuestMemory, Chain) -> U,
    ) {
        let _ = self.notified.read();
        let mut queue = lock(&self.queue);
        if !queue.ready() {
            return;
        }
        let done = match queue.is_valid(&self.memory) {
            true => self.drain(&mut queue, burst, device, ready, serve),
            false => Err(Error::InvalidAvailRingIndex),
        };
        match done {
            Ok(Left::Nothing) => {}
            // Fails only when 2^64 - 1 of them wait already.
            Ok(Left::Perhaps) => drop(self.notified.write(1)),
            Err(_) => {
                queue.set_ready(false);
                self.counters.error();
                let broken = "its driver broke a queue, which is out of use until a reset";
                self.complaints.say(broken);
            }
        }
    }

    fn drain<D, U: Into<Used>>(
        &self,
        queue: &mut Queue,
        mut burst: usize,
        device: &mut D,
        ready: impl Fn(&mut D) -> bool,
        serve: impl Fn(&mut D, &GuestMemory, Chain) -> U,
    ) -> Result<Left, Error> {
        loop {
            queue.disable_notification(&self.memory)?;
            let (mut served, mut several) = (false, false);
            let mut more = ready(device);
            while more
                && !self.rests(burst)
                && let Some(chain) = next_chain(queue, &self.memory)?
            {
                burst -= 1;
                let head = chain.head_index();
                match serve(device, &self.memory, chain).into() {
                    Used::Bytes(bytes) => {
                        queue.add_used(&self.memory, head, bytes)?;
                        self.counters.requests(1);
                        served = true;
                    }
                    Used::Kept => {}
                    Used::Together(chains) => {
                        add_together(queue, &self.memory, &chains)?;
                        self.counters.requests(chains.len() as u64);
                        (served, several) = (true, true);
                    }
                }
                more = ready(device);
            }
            // The queue hasn't counted all of several: the driver is told in any case.
            if served && (queue.needs_notification(&self.memory)? || several) {
                self.interrupt.used_buffers();
            }
            if more && self.rests(burst) {
                return Ok(Left::Perhaps);
            }
            // The driver may have added a request since the last look.
            if !more || !queue.enable_notification(&self.memory)? {
                return Ok(Left::Nothing);
            }
        }
    }

    /// Whether no other request is to be served now.
    fn rests(&self, burst: usize) -> bool {
        burst == 0 || self.brake.is_on()
    }
}

/// Whether requests are left to serve.
enum Left {
    Nothing,
    Perhaps,
}

/// Gives chains back so that the driver sees all or none of them: the queue publishes its
/// index with the last.
fn add_together(
    queue: &mut Queue,
    memory: &GuestMemory,
    chains: &[(u16, u32)],
) -> Result<(), Error> {
    let Some((&(head, bytes), others)) = chains.split_last() else {
        return Ok(());
    };
    let mut next = queue.next_used();
    for &(head, bytes) in others {
        // A ring's header has 4 bytes, an element 8: head and bytes, 32 bits each in
        // little endian. `is_valid` has seen that the ring is in memory.
        let slot = u64::from(next % queue.size());
        let element = u64::from(bytes) << 32 | u64::from(head);
        memory
            .write_obj(
                element.to_le(),
                GuestAddress(queue.used_ring() + 4 + 8 * slot),
            )
            .map_err(Error::GuestMemory)?;
        next = next.wrapping_add(1);
    }
    queue.set_next_used(next);
    queue.add_used(memory, head, bytes)
}

/// The next request. Fails when the driver's index is further ahead than a queue can hold.
fn next_chain<'a>(queue: &mut Queue, memory: &'a GuestMemory) -> Result<Option<Chain<'a>>, Error> {
    Ok(queue.iter(memory)?.next())
}
