//! A hostile driver of one virtio device, and the device with its transport, queues and
//! event loop as in a machine, without KVM.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Result, Unstructured};
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::builder::Worker;
use crate::bus::Device;
use crate::devices::virtio_mmio::{Identity, Interrupt, Served, Session, VirtioMmio};
use crate::memory::GuestMemory;

/// Bytes of the guest's memory.
const MEMORY: usize = 1 << 16;
/// Each queue's rings are in this many bytes; what is above is for buffers.
const QUEUE_SPAN: u64 = 0x3000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Rounds of the event loop that a step may cause: a device that always has something
/// left to do is a hang.
const ROUNDS: usize = 64;

/// An address: mostly one in memory.
#[derive(Debug)]
struct Place(u64);

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match u.arbitrary::<u8>()? {
            0 => u.arbitrary()?,
            _ => u.arbitrary::<u16>()?.into(),
        }))
    }
}

/// What the guest, or the world behind the device, does.
#[derive(Debug, Arbitrary)]
enum Step {
    /// Writes a register of 32 bits.
    Write { register: u8, value: u32 },
    /// Accesses the registers in any width.
    Access {
        offset: u16,
        bytes: [u8; 8],
        length: u8,
        write: bool,
    },
    /// Writes a descriptor.
    Describe {
        queue: u8,
        slot: u8,
        address: Place,
        length: Place,
        flags: u8,
        next: u8,
    },
    /// Puts the head of a chain into the ring.
    Offer { queue: u8, head: u8 },
    /// Writes to memory.
    Poke { address: u16, bytes: [u8; 16] },
    /// Rings a queue's doorbell.
    Notify { queue: u8 },
    /// The world has so many bytes for the device, of this value.
    World { length: u16, value: u8 },
    /// The world has these bytes for the device.
    Bytes { bytes: [u8; 48] },
}

/// The device under test.
pub struct Harness<'a, W> {
    memory: &'a GuestMemory,
    transport: Option<VirtioMmio>,
    doorbells: Vec<EventFd>,
    events: EventManager<Worker>,
    /// What is behind the device: it takes what `World` and `Bytes` give it.
    world: W,
}

thread_local! {
    static GUEST: GuestMemory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
}

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("an event")
}

impl<'a, W: FnMut(&[u8])> Harness<'a, W> {
    fn new(memory: &'a GuestMemory, world: W) -> Self {
        Self {
            memory,
            transport: None,
            doorbells: Vec::new(),
            events: EventManager::new().expect("an event loop"),
            world,
        }
    }

    /// Gives the device registers and queues of these sizes.
    pub fn attach<const N: usize>(&mut self, identity: Identity, sizes: [u16; N]) -> [Served; N] {
        let interrupt = Arc::new(Interrupt::new(event()));
        let session = Arc::<Session>::default();
        let served = sizes.map(|size| Served {
            queue: Arc::new(Mutex::new(Queue::new(size).expect("a queue"))),
            interrupt: interrupt.clone(),
            session: session.clone(),
            notified: event(),
            memory: self.memory.clone(),
        });
        self.doorbells = served
            .iter()
            .map(|served| served.notified.try_clone().expect("an event"))
            .collect();
        let queues = served.iter().map(|served| served.queue.clone()).collect();
        self.transport = Some(VirtioMmio::new(identity, queues, interrupt, session));
        served
    }

    /// Takes what serves the queues.
    pub fn serve(&mut self, worker: impl MutEventSubscriber + Send + 'static) {
        self.events.add_subscriber(Box::new(worker));
    }

    fn write(&mut self, register: u64, value: u32) {
        if let Some(transport) = &mut self.transport {
            transport.write(register, &value.to_le_bytes());
        }
    }

    /// Sets the device up as a good driver does, with some of the features and queues.
    fn set_up(&mut self, features: u32, size: u16) {
        self.write(0x70, 3);
        for (half, bits) in [(0, features), (1, 1)] {
            let offered = self.offered(half);
            self.write(0x24, half);
            self.write(0x20, bits & offered);
        }
        self.write(0x70, 11);
        for queue in 0..self.doorbells.len() {
            let base = queue as u64 * QUEUE_SPAN;
            let fields = [(0x80, base), (0x90, base + AVAILABLE), (0xa0, base + USED)];
            self.write(0x30, queue as u32);
            self.write(0x38, size.into());
            for (register, address) in fields {
                self.write(register, address as u32);
            }
            self.write(0x44, 1);
        }
        self.write(0x70, 15);
        self.settle();
    }

    fn offered(&mut self, half: u32) -> u32 {
        self.write(0x14, half);
        let mut bits = [0; 4];
        if let Some(transport) = &mut self.transport {
            transport.read(0x10, &mut bits);
        }
        u32::from_le_bytes(bits)
    }

    /// Lets the device do all that it has to do.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if self.events.run_with_timeout(0).expect("events") == 0 {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Writes to memory, where there is any.
    fn poke(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write(bytes, GuestAddress(address));
    }

    fn base(&self, queue: u8) -> u64 {
        u64::from(queue) % self.doorbells.len() as u64 * QUEUE_SPAN
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write { register, value } => self.write(u64::from(register) * 4, value),
            Step::Access {
                offset,
                mut bytes,
                length,
                write,
            } => {
                let bytes = &mut bytes[..usize::from(length) % 9];
                if let Some(transport) = &mut self.transport {
                    match write {
                        true => transport.write(offset.into(), bytes),
                        false => transport.read(offset.into(), bytes),
                    }
                }
            }
            Step::Describe {
                queue,
                slot,
                address,
                length,
                flags,
                next,
            } => {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&address.0.to_le_bytes());
                bytes[8..12].copy_from_slice(&(length.0 as u32).to_le_bytes());
                bytes[12] = flags;
                bytes[14] = next;
                self.poke(self.base(queue) + u64::from(slot) * 16, &bytes);
            }
            Step::Offer { queue, head } => {
                let ring = self.base(queue) + AVAILABLE;
                let index: u16 = self.memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
                // Where a queue of 16 entries has its next one.
                self.poke(ring + 4 + u64::from(index % 16) * 2, &[head, 0]);
                self.poke(ring + 2, &index.wrapping_add(1).to_le_bytes());
            }
            Step::Poke { address, bytes } => self.poke(address.into(), &bytes),
            Step::Notify { queue } => {
                let queue = usize::from(queue) % self.doorbells.len();
                let _ = self.doorbells[queue].write(1);
                self.settle();
            }
            Step::World { length, value } => {
                (self.world)(&vec![value; length.into()]);
                self.settle();
            }
            Step::Bytes { bytes } => {
                (self.world)(&bytes);
                self.settle();
            }
        }
    }
}

/// Runs the steps in `input` on a device that `build` makes in the harness, with `world`
/// behind it.
pub fn drive<W: FnMut(&[u8])>(input: &[u8], world: W, build: impl FnOnce(&mut Harness<W>)) {
    GUEST.with(|memory| {
        let _ = memory.write(&[0; MEMORY], GuestAddress(0));
        let mut harness = Harness::new(memory, world);
        build(&mut harness);
        let mut input = Unstructured::new(input);
        // The input's end ends the run.
        let _ = run(&mut harness, &mut input);
    });
}

fn run<W: FnMut(&[u8])>(harness: &mut Harness<W>, input: &mut Unstructured) -> Result<()> {
    if input.arbitrary()? {
        // The size that `Offer` counts on, or another one.
        let size = if input.arbitrary()? { 16 } else { 256 };
        harness.set_up(input.arbitrary()?, size);
    }
    while !input.is_empty() {
        harness.step(input.arbitrary()?);
    }
    Ok(())
}
