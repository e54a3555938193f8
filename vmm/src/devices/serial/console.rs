//! Standard input on its way to the serial port.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, stdin};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::SerialPort;
use crate::{Error, Result};

/// Input that the guest hasn't taken yet is read ahead up to this many bytes.
const READ_AHEAD: usize = 64 * 1024;

/// What standard input is.
#[derive(PartialEq, Eq)]
enum Source {
    /// A terminal, pipe or socket: epoll tells when there is input.
    Stream,
    /// A file: all of it is there already, and epoll does not take it.
    File,
    /// There will be no more.
    Ended,
}

/// Feeds the port as fast as the guest takes it, so that nothing is lost.
pub struct Console {
    port: Arc<Mutex<SerialPort>>,
    drained: EventFd,
    input: File,
    source: Source,
    watched: bool,
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
            source: Source::Stream,
            watched: false,
            waiting: VecDeque::new(),
        })
    }

    /// Reads some of what is there, if there is room for it.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        if self.waiting.len() >= READ_AHEAD {
            return;
        }
        match self.input.read(&mut buffer) {
            Ok(n) if n > 0 => self.waiting.extend(&buffer[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            _ => self.source = Source::Ended,
        }
    }

    /// Hands over as much as the port takes now.
    fn feed(&mut self) {
        if self.source == Source::File {
            self.read();
        }
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let n = port.room().min(self.waiting.len());
        let taken = port.input(&self.waiting.make_contiguous()[..n]);
        self.waiting.drain(..taken);
    }

    /// Waits for more input only while there is room for it: a pipe that was
    /// closed would go on to report that.
    fn watch(&mut self, ops: &mut EventOps) {
        let wanted = self.source == Source::Stream && self.waiting.len() < READ_AHEAD;
        if wanted == self.watched {
            return;
        }
        let events = Events::new(&self.input, EventSet::IN);
        if !wanted {
            // Fails only for what is not watched.
            let _ = ops.remove(events);
        } else if ops.add(events).is_err() {
            self.source = Source::File;
            return;
        }
        self.watched = wanted;
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        // Fails only for lack of memory; then there is just no input.
        let _ = ops.add(Events::new(&self.drained, EventSet::IN));
        self.watch(ops);
        self.feed();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.input.as_raw_fd() {
            self.read();
        } else {
            let _ = self.drained.read();
        }
        self.feed();
        self.watch(ops);
    }
}
