//! Standard input on its way to the serial port.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::SerialPort;
use crate::{Error, Result};

/// Input that the guest hasn't taken yet is read ahead up to this many bytes.
const READ_AHEAD: usize = 64 * 1024;

/// Feeds the port as fast as the guest takes it, so that nothing is lost.
pub struct Console {
    port: Arc<Mutex<SerialPort>>,
    drained: EventFd,
    input: File,
    waiting: VecDeque<u8>,
}

impl Console {
    /// A console for `port`, which writes `drained` when its buffer is empty.
    pub fn new(port: Arc<Mutex<SerialPort>>, drained: EventFd) -> Result<Self> {
        let input = stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::system("open standard input"))?;
        Ok(Self {
            port,
            drained,
            input: input.into(),
            waiting: VecDeque::new(),
        })
    }

    /// Reads what is there; false at the end of the input.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.input.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.waiting.extend(&buffer[..n]);
                true
            }
        }
    }

    /// Hands over as much as the port takes now.
    fn feed(&mut self) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let n = port.room().min(self.waiting.len());
        if n > 0 {
            let bytes: Vec<u8> = self.waiting.drain(..n).collect();
            port.input(&bytes);
        }
    }

    fn input_events(&self, set: EventSet) -> Events {
        Events::new(&self.input, set)
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        // Neither fails but for lack of memory; then there is just no input.
        let _ = ops.add(Events::new(&self.drained, EventSet::IN));
        if ops.add(self.input_events(EventSet::IN)).is_err() {
            // A plain file can't be waited for: it is all there already.
            while self.waiting.len() < READ_AHEAD && self.read() {}
            self.feed();
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.input.as_raw_fd() {
            if !self.read() {
                let _ = ops.remove(self.input_events(EventSet::IN));
            } else if self.waiting.len() >= READ_AHEAD {
                let _ = ops.modify(self.input_events(EventSet::empty()));
            }
        } else {
            let _ = self.drained.read();
            if self.waiting.len() >= READ_AHEAD {
                let _ = ops.modify(self.input_events(EventSet::IN));
            }
        }
        self.feed();
    }
}
