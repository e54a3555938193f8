//! What inputs share because it is dear to make, as new for each of them.

use std::cell::RefCell;

use event_manager::{EventManager, SubscriberId, SubscriberOps};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::builder::Worker;
use crate::memory::GuestMemory;

/// Bytes of the guest's memory.
pub const MEMORY: usize = 1 << 16;
/// Queues that a device has at most.
const QUEUES: usize = 3;
/// Events that the loop takes at once: more than a device has.
const READY: usize = 16;

/// A device's surroundings.
pub struct Parts {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// The device's interrupt.
    pub interrupt: Event,
    /// Its queues' notifications.
    pub doorbells: [Event; QUEUES],
    events: EventManager<Worker>,
    workers: Vec<SubscriberId>,
}

thread_local! {
    static PARTS: RefCell<Parts> = RefCell::new(Parts {
        memory: GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory"),
        interrupt: Event::default(),
        doorbells: Default::default(),
        events: EventManager::new_with_capacity(READY).expect("an event loop"),
        workers: Vec::new(),
    });
}

impl Parts {
    /// Lends them to `run`, as if they had just been made.
    pub fn with(run: impl FnOnce(&mut Self)) {
        PARTS.with_borrow_mut(|parts| {
            let _ = parts.memory.write(&[0; MEMORY], GuestAddress(0));
            for event in parts.doorbells.iter().chain([&parts.interrupt]) {
                event.take();
            }
            run(parts);
            for id in parts.workers.drain(..) {
                let _ = parts.events.remove_subscriber(id);
            }
        });
    }

    /// Gives `worker` to the event loop.
    pub fn serve(&mut self, worker: Worker) {
        self.workers.push(self.events.add_subscriber(worker));
    }

    /// Lets the event loop do what is to be done now; tells whether there was anything.
    pub fn turn(&mut self) -> bool {
        self.events.run_with_timeout(0).expect("events") > 0
    }
}

/// An event that can be had again and again.
pub struct Event(pub EventFd);

impl Default for Event {
    fn default() -> Self {
        Self(EventFd::new(EFD_NONBLOCK).expect("an event"))
    }
}

impl Event {
    /// A descriptor of it.
    pub fn share(&self) -> EventFd {
        self.0.try_clone().expect("an event")
    }

    /// Makes it happen.
    pub fn ring(&self) {
        let _ = self.0.write(1);
    }

    /// How often it has happened; then it hasn't any more.
    pub fn take(&self) -> u64 {
        self.0.read().unwrap_or(0)
    }
}
