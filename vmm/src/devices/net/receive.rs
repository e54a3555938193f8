//! Frames on their way from the tap into the guest's buffers.

use std::io::Write;
use std::sync::Arc;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::{Bytes, GuestAddress};

use super::tap::Tap;
use super::{FRAME, HEADER, QUEUE_SIZES};
use crate::devices::counters::Counters;
use crate::devices::virtio_mmio::{Agreed, Chain, Served, Session, Used};
use crate::memory::GuestMemory;

/// Where a header has the number of the frame's buffers, 16 bits in little endian.
const COUNT: usize = HEADER - 2;

/// The host's side, and the frame that is under way.
pub struct Receiver {
    tap: Tap,
    session: Arc<Session>,
    counters: Arc<Counters>,
    /// The session that all below is of.
    agreed: Agreed,
    /// Room for a header and a frame.
    buffer: Box<[u8]>,
    /// Bytes in it that wait for the guest's buffers.
    waiting: Option<usize>,
    /// How many of them are in its buffers already.
    placed: usize,
    /// These buffers: heads, and bytes in each.
    filled: Vec<(u16, u32)>,
    /// Where the first of them has the bytes of their number.
    count_at: [GuestAddress; 2],
}

impl Receiver {
    /// For a tap, and the driver that fills `queue`.
    pub fn new(tap: Tap, queue: &Served) -> Self {
        let mut buffer = vec![0; HEADER + FRAME].into_boxed_slice();
        // The tap leaves it alone.
        buffer[COUNT] = 1;
        Self {
            tap,
            session: queue.session.clone(),
            counters: queue.counters.clone(),
            agreed: Agreed::default(),
            buffer,
            waiting: None,
            placed: 0,
            filled: Vec::new(),
            count_at: [GuestAddress(0); 2],
        }
    }

    /// The tap, for the other direction.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Whether there is a frame for the guest.
    pub fn fetch(&mut self) -> bool {
        let now = self.session.now();
        if now != self.agreed {
            // Another driver's frames, or of a kind that this one doesn't take.
            self.agreed = now;
            self.forget();
            // Fails only where no offload was offered.
            let _ = self.tap.give(now.features);
        }
        if self.waiting.is_none() {
            self.waiting = self.tap.receive(&mut self.buffer);
        }
        self.waiting.is_some()
    }

    /// Whether a frame waits for a buffer.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The frame is with the guest, or lost.
    fn count(&self, size: usize, lost: bool) {
        match lost {
            true => self.counters.dropped(1),
            false => self.counters.to_guest(size.saturating_sub(HEADER) as u64),
        }
    }

    fn forget(&mut self) {
        self.waiting = None;
        self.placed = 0;
        self.filled.clear();
    }

    /// Puts what waits into a buffer. A frame that doesn't fit is lost, as on a wire.
    pub fn deliver(&mut self, memory: &GuestMemory, chain: Chain) -> Used {
        if self.agreed.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0 {
            return self.deliver_part(memory, chain);
        }
        let bytes = &self.buffer[..self.waiting.take().unwrap_or(0)];
        let written = chain.writer(memory).is_ok_and(|mut output| {
            output.available_bytes() >= bytes.len() && output.write_all(bytes).is_ok()
        });
        self.count(bytes.len(), !written);
        Used::Bytes(if written { bytes.len() as u32 } else { 0 })
    }

    /// The same with a driver that takes a frame in several buffers.
    fn deliver_part(&mut self, memory: &GuestMemory, chain: Chain) -> Used {
        let head = chain.head_index();
        if self.filled.is_empty() {
            match count_at(&chain) {
                Some(places) => self.count_at = places,
                // Not even the header fits; the next may do better.
                None => return Used::Bytes(0),
            }
        }
        let size = self.waiting.unwrap_or(0);
        let left = &self.buffer[self.placed..size];
        let written = match chain.writer(memory) {
            Ok(mut output) => {
                let part = left.len().min(output.available_bytes());
                output.write_all(&left[..part]).map_or(0, |()| part)
            }
            Err(_) => 0,
        };
        self.placed += written;
        self.filled.push((head, written as u32));
        if self.placed == size {
            return self.hand_over(memory);
        }
        if self.filled.len() < QUEUE_SIZES[0].into() {
            return Used::Kept;
        }
        // All buffers that a queue can hold.
        self.filled.iter_mut().for_each(|(_, bytes)| *bytes = 0);
        let lost = std::mem::take(&mut self.filled);
        self.count(size, true);
        self.forget();
        Used::Together(lost)
    }

    fn hand_over(&mut self, memory: &GuestMemory) -> Used {
        let filled = std::mem::take(&mut self.filled);
        self.count(self.placed, false);
        self.forget();
        if let [(_, bytes)] = filled[..] {
            // The buffer of heads goes on to be used.
            self.filled = filled;
            self.filled.clear();
            return Used::Bytes(bytes);
        }
        let count = (filled.len() as u16).to_le_bytes();
        for (at, byte) in self.count_at.into_iter().zip(count) {
            // The writer has been there.
            let _ = memory.write_obj(byte, at);
        }
        Used::Together(filled)
    }
}

/// Where the two bytes of the number of buffers are in a chain; they may be apart.
fn count_at(chain: &Chain) -> Option<[GuestAddress; 2]> {
    let place = |offset: usize| {
        let mut left = offset as u64;
        for descriptor in chain.clone().writable() {
            let length = u64::from(descriptor.len());
            if left < length {
                return descriptor.addr().0.checked_add(left).map(GuestAddress);
            }
            left -= length;
        }
        None
    };
    Some([place(COUNT)?, place(COUNT + 1)?])
}
