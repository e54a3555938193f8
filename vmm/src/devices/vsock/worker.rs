//! Carries packets between the streams and the guest, away from the vCPUs.

use std::io::{Read, Write};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use zerocopy::{FromBytes, IntoBytes};

use super::muxer::{Muxer, payload_size};
use super::packet::{HEADER, Header};
use crate::devices::virtio_mmio::{Agreed, Chain, Served};
use crate::memory::GuestMemory;

/// Packets at one go in each direction; then the other devices have their turn.
const BURST: usize = 256;

/// The device with its queues.
pub struct Worker {
    muxer: Muxer,
    to_guest: Served,
    from_guest: Served,
    /// The driver whose streams these are.
    agreed: Agreed,
    /// For events that this device never has; kept, as the driver fills it.
    _events: Served,
}

impl Worker {
    /// A worker between the streams of `muxer` and the guest.
    pub fn new(muxer: Muxer, [to_guest, from_guest, events]: [Served; 3]) -> Self {
        Self {
            muxer,
            to_guest,
            from_guest,
            agreed: Agreed::default(),
            _events: events,
        }
    }

    /// Takes and hands over all that there is. What the guest sends has answers; when too
    /// many wait, its packets do, until it has taken some.
    fn exchange(&mut self) {
        let now = self.from_guest.session.now();
        if now != self.agreed {
            self.agreed = now;
            self.muxer.forget_guest();
        }
        self.muxer.host_events();
        let counters = &self.from_guest.counters;
        self.from_guest.serve_while(
            BURST,
            &mut self.muxer,
            |muxer| muxer.is_ready(),
            |muxer, memory, chain| {
                match take(muxer, memory, chain) {
                    Some(bytes) => counters.from_guest(bytes),
                    None => counters.dropped(1),
                }
                0
            },
        );
        let waited = !self.muxer.is_ready();
        self.to_guest.serve_while(
            BURST,
            &mut self.muxer,
            Muxer::fetch,
            |muxer, memory, chain| {
                let written = deliver(muxer, memory, chain);
                counters.to_guest(u64::from(written).saturating_sub(HEADER as u64));
                written
            },
        );
        if waited && self.muxer.is_ready() {
            // Fails only when 2^64 - 1 of them wait already.
            let _ = self.from_guest.notified.write(1);
        }
    }
}

/// Hands a packet to the guest.
fn deliver(muxer: &mut Muxer, memory: &GuestMemory, chain: Chain) -> u32 {
    let Ok(mut output) = chain.writer(memory) else {
        return 0;
    };
    let Some(room) = output.available_bytes().checked_sub(HEADER) else {
        return 0;
    };
    let Some((header, bytes)) = muxer.deliver(room) else {
        return 0;
    };
    let written = output
        .write_all(header.as_bytes())
        .and_then(|()| output.write_all(bytes));
    match written {
        Ok(()) => (HEADER + bytes.len()) as u32,
        Err(_) => 0,
    }
}

/// Takes a packet of the guest's; returns the payload's bytes. What is none is dropped.
fn take(muxer: &mut Muxer, memory: &GuestMemory, chain: Chain) -> Option<u64> {
    let mut input = chain.reader(memory).ok()?;
    let mut header = [0; HEADER];
    input.read_exact(&mut header).ok()?;
    let header = Header::read_from_bytes(&header).ok()?;
    let size = payload_size(&header, input.available_bytes())?;
    let mut payload = vec![0; size];
    input.read_exact(&mut payload).ok()?;
    muxer.take(&header, &payload);
    Some(size as u64)
}

impl MutEventSubscriber for Worker {
    fn init(&mut self, ops: &mut EventOps) {
        self.to_guest.watch(ops);
        self.from_guest.watch(ops);
        // Fails only for lack of memory; then the host's side is silent.
        let _ = ops.add(Events::new(self.muxer.events(), EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.exchange();
    }
}

#[cfg(test)]
mod tests;
