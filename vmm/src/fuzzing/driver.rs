//! A hostile driver of one virtio device, and the device with its transport, queues and
//! event loop as in a machine, without KVM.

use std::sync::{Arc, Mutex};

use arbitrary::{Arbitrary, Result, Unstructured};
use event_manager::MutEventSubscriber;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::reuse::{MEMORY, Parts};
use super::seen::Seen;
use crate::brake::Brake;
use crate::bus::Device;
use crate::devices::virtio_mmio::{Complaints, Identity, Interrupt, Served, Session, VirtioMmio};

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
    parts: &'a mut Parts,
    transport: Option<VirtioMmio>,
    queues: u8,
    /// What is behind the device: it takes what `World` and `Bytes` give it.
    world: W,
    seen: &'a mut Seen,
}

impl<W: FnMut(&[u8], &mut Seen)> Harness<'_, W> {
    /// Gives the device registers and queues of these sizes.
    pub fn attach<const N: usize>(&mut self, identity: Identity, sizes: [u16; N]) -> [Served; N] {
        let interrupt = Arc::new(Interrupt::new(self.parts.interrupt.share()));
        let session = Arc::<Session>::default();
        let complaints = Arc::new(Complaints::new("a device".into()));
        let mut doorbells = self.parts.doorbells.iter();
        let served = sizes.map(|size| Served {
            queue: Arc::new(Mutex::new(Queue::new(size).expect("a queue"))),
            interrupt: interrupt.clone(),
            session: session.clone(),
            notified: doorbells.next().expect("one for each queue").share(),
            memory: self.parts.memory.clone(),
            brake: Brake::default(),
            complaints: complaints.clone(),
            counters: Arc::default(),
        });
        self.queues = N as u8;
        let queues = served.iter().map(|served| served.queue.clone()).collect();
        self.transport = Some(VirtioMmio::new(identity, queues, interrupt, session));
        served
    }

    /// Takes what serves the queues.
    pub fn serve(&mut self, worker: impl MutEventSubscriber + Send + 'static) {
        self.parts.serve(Box::new(worker));
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
        for queue in 0..self.queues {
            let base = self.base(queue);
            let fields = [(0x80, base), (0x90, base + AVAILABLE), (0xa0, base + USED)];
            self.write(0x30, queue.into());
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
            if !self.parts.turn() {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Writes to memory, where there is any.
    fn poke(&self, address: u64, bytes: &[u8]) {
        let _ = self.parts.memory.write(bytes, GuestAddress(address));
    }

    fn base(&self, queue: u8) -> u64 {
        u64::from(queue % self.queues) * QUEUE_SPAN
    }

    /// What the guest has in the end.
    fn look(&mut self) {
        self.seen.note_with(|| self.parts.interrupt.take());
        self.seen.note_with(|| {
            let mut bytes = vec![0; MEMORY];
            let _ = self.parts.memory.read(&mut bytes, GuestAddress(0));
            bytes
        });
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
                    self.seen.note(bytes);
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
                let memory = &self.parts.memory;
                let index: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap_or(0);
                // Where a queue of 16 entries has its next one.
                self.poke(ring + 4 + u64::from(index % 16) * 2, &[head, 0]);
                self.poke(ring + 2, &index.wrapping_add(1).to_le_bytes());
            }
            Step::Poke { address, bytes } => self.poke(address.into(), &bytes),
            Step::Notify { queue } => {
                self.parts.doorbells[usize::from(queue % self.queues)].ring();
                self.settle();
            }
            Step::World { length, value } => {
                (self.world)(&vec![value; length.into()], self.seen);
                self.settle();
            }
            Step::Bytes { bytes } => {
                (self.world)(&bytes, self.seen);
                self.settle();
            }
        }
    }
}

/// Runs the steps in `input` on a device that `build` makes in the harness, with `world`
/// behind it.
pub fn drive<W: FnMut(&[u8], &mut Seen)>(
    input: &[u8],
    seen: &mut Seen,
    world: W,
    build: impl FnOnce(&mut Harness<W>),
) {
    Parts::with(|parts| {
        let mut harness = Harness {
            parts,
            transport: None,
            queues: 0,
            world,
            seen,
        };
        build(&mut harness);
        // The input's end ends the run.
        let _ = run(&mut harness, &mut Unstructured::new(input));
        harness.look();
    });
}

fn run<W: FnMut(&[u8], &mut Seen)>(
    harness: &mut Harness<W>,
    input: &mut Unstructured,
) -> Result<()> {
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
