//! The virtio-mmio transport, version 2: section 4.2 of the virtio 1.2 specification.

mod complaints;
mod served;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL,
    VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS,
    VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Device;
use crate::devices::{get, put};

pub use complaints::Complaints;
pub use served::{Chain, Served, Used};

/// "virt" in little endian.
const MAGIC: u64 = 0x7472_6976;
const VERSION: u64 = 2;
/// "VMF1": any value is good.
const VENDOR: u64 = 0x3146_4d56;

/// A queue that the transport sets up and a device's worker serves.
pub type SharedQueue = Arc<Mutex<Queue>>;

/// Takes a shared queue, whatever happened to the thread that had it last.
pub fn lock(queue: &SharedQueue) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The device's interrupt, with the register that says why.
pub struct Interrupt {
    status: AtomicU32,
    irq: EventFd,
}

impl Interrupt {
    /// An interrupt that `irq` raises.
    pub fn new(irq: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            irq,
        }
    }

    /// Tells the driver that there are used buffers.
    pub fn used_buffers(&self) {
        self.status
            .fetch_or(VIRTIO_MMIO_INT_VRING, Ordering::SeqCst);
        // Fails only when 2^64 - 1 of them wait already.
        let _ = self.irq.write(1);
    }
}

/// What this driver and the device have agreed on, for the device's worker.
#[derive(Debug, Default)]
pub struct Session {
    features: AtomicU64,
    resets: AtomicU32,
}

/// A look at a [`Session`]. Another one means that what was before is of no use any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The features that both have.
    pub features: u64,
    /// How many sessions there were before.
    resets: u32,
}

impl Session {
    /// What holds now. Whoever has locked a queue of the device sees no reset until it
    /// lets go.
    pub fn now(&self) -> Agreed {
        Agreed {
            features: self.features.load(Ordering::SeqCst),
            resets: self.resets.load(Ordering::SeqCst),
        }
    }

    /// The driver has accepted these features.
    pub fn agree(&self, features: u64) {
        self.features.store(features, Ordering::SeqCst);
    }

    fn end(&self) {
        self.features.store(0, Ordering::SeqCst);
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the transport has to know of its device.
pub struct Identity {
    /// The device's type: section 5 of the specification.
    pub device_type: u32,
    /// The features it offers, less the transport's own.
    pub features: u64,
    /// Its configuration space.
    pub config: Vec<u8>,
}

/// The registers of one device.
pub struct VirtioMmio {
    identity: Identity,
    queues: Vec<SharedQueue>,
    interrupt: Arc<Interrupt>,
    session: Arc<Session>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: usize,
}

impl VirtioMmio {
    /// Registers for a device that serves `queues`.
    pub fn new(
        mut identity: Identity,
        queues: Vec<SharedQueue>,
        interrupt: Arc<Interrupt>,
        session: Arc<Session>,
    ) -> Self {
        identity.features |= 1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        Self {
            identity,
            queues,
            interrupt,
            session,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
        }
    }

    fn register(&self, offset: u32) -> u64 {
        let queue = || self.queues.get(self.queue_sel).map(lock);
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.identity.device_type.into(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.identity.features, self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue().map_or(0, |q| q.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => queue().is_some_and(|q| q.ready()).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status.load(Ordering::SeqCst).into(),
            VIRTIO_MMIO_STATUS => self.status.into(),
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES if self.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_features_sel, value);
            }
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value as usize,
            VIRTIO_MMIO_INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            }
            VIRTIO_MMIO_STATUS => self.set_status(value),
            VIRTIO_MMIO_QUEUE_NUM
            | VIRTIO_MMIO_QUEUE_READY
            | VIRTIO_MMIO_QUEUE_DESC_LOW..=VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.set_queue(offset, value)
            }
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let acceptable = self.driver_features & !self.identity.features == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        self.status = if acceptable {
            value
        } else {
            value & !VIRTIO_CONFIG_S_FEATURES_OK
        };
        if self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
            for queue in &self.queues {
                lock(queue).set_event_idx(event_idx);
            }
            self.session.agree(self.driver_features);
        }
    }

    fn reset(&mut self) {
        let mut queues: Vec<_> = self.queues.iter().map(lock).collect();
        self.session.end();
        for queue in &mut queues {
            queue.reset();
        }
        drop(queues);
        self.interrupt.status.store(0, Ordering::SeqCst);
        self.status = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
    }

    /// The chosen queue's registers: fixed from the moment that it is ready.
    fn set_queue(&self, offset: u32, value: u32) {
        let Some(mut queue) = self.queues.get(self.queue_sel).map(lock) else {
            return;
        };
        if offset == VIRTIO_MMIO_QUEUE_READY {
            queue.set_ready(value == 1);
            return;
        }
        if queue.ready() {
            return;
        }
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value as u16),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}

impl Device for VirtioMmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            None => put(self.register(offset as u32), data),
            Some(start) => {
                let config = self.identity.config.get(start as usize..).unwrap_or(&[]);
                for (i, byte) in data.iter_mut().enumerate() {
                    *byte = config.get(i).copied().unwrap_or(0);
                }
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // All registers are 32 bits wide; no device here has a writable configuration.
        if data.len() == 4 {
            self.set_register(offset as u32, get(data) as u32);
        }
    }
}

/// The lower (0) or upper (1) 32 bits; there are no others.
fn half(value: u64, sel: u32) -> u64 {
    match sel {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, sel: u32, half: u32) {
    match sel {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
