//! The console's reader and writer on their way to and from the serial port.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::SerialPort;
use super::input::Input;
use super::line::{self, lock};
use super::sink::Sink;
use crate::Result;

/// Input that the guest hasn't taken yet is read ahead up to this many bytes.
const READ_AHEAD: usize = 64 * 1024;

/// Feeds the port as fast as the guest takes it, so that nothing is lost, and sends on what
/// the guest has printed and nobody took at once.
pub struct Console {
    port: Arc<Mutex<SerialPort>>,
    /// Written when the port's buffer is empty.
    drained: EventFd,
    line: line::Shared,
    /// Written when the line has something to send on.
    stuck: EventFd,
    input: Input,
    waiting: VecDeque<u8>,
    /// What epoll waits for, beside events and the listener.
    watched: Vec<(RawFd, EventSet)>,
}

impl Console {
    /// A console for `port` and its `line`.
    pub fn new(
        (port, drained): (Arc<Mutex<SerialPort>>, EventFd),
        line: line::Shared,
        input: Input,
    ) -> Result<Self> {
        let stuck = lock(&line).stuck()?;
        Ok(Self {
            port,
            drained,
            line,
            stuck,
            input,
            waiting: VecDeque::new(),
            watched: Vec::new(),
        })
    }

    /// Reads some of what is there, if there is room for it.
    fn read(&mut self) {
        let mut buffer = [0; 4096];
        if self.waiting.len() >= READ_AHEAD {
            return;
        }
        let size = self.input.read(&self.line, &mut buffer);
        self.waiting.extend(&buffer[..size]);
    }

    /// Hands over as much as the port takes now.
    fn feed(&mut self) {
        if self.input.is_file() {
            self.read();
        }
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let n = port.room().min(self.waiting.len());
        let taken = port.input(&self.waiting.make_contiguous()[..n]);
        self.waiting.drain(..taken);
        lock(&self.line).counters().to_guest(taken as u64);
    }

    /// Waits for more input only while there is room for it: a pipe that was closed would go
    /// on to report that. Waits for the reader only while there is something for it.
    fn watch(&mut self, ops: &mut EventOps) {
        let wanted = self.wanted();
        if wanted != self.watched {
            for (fd, _) in self.watched.drain(..) {
                // Fails only for what is not watched.
                let _ = ops.remove(Events::empty_raw(fd));
            }
            for (fd, events) in wanted {
                match ops.add(Events::new_raw(fd, events)) {
                    Ok(()) => self.watched.push((fd, events)),
                    // Files never wait, and epoll doesn't take them.
                    Err(_) => self.input.cannot_be_watched(fd),
                }
            }
        }
        // Only now: another descriptor may get the number of one that is closed.
        if let Sink::Attached(attached) = lock(&self.line).sink() {
            attached.forget();
        }
    }

    /// The descriptors to wait for, each once.
    fn wanted(&self) -> Vec<(RawFd, EventSet)> {
        let mut line = lock(&self.line);
        let stuck = line.is_stuck();
        let output = line.sink().descriptor().map(|fd| fd.as_raw_fd());
        let room = self.waiting.len() < READ_AHEAD;
        let input = self.input.descriptor(output).filter(|_| room);
        let output = output.filter(|_| stuck);
        let mut wanted: Vec<_> = input.map(|fd| (fd, EventSet::IN)).into_iter().collect();
        match output {
            Some(fd) if input == Some(fd) => wanted[0].1 |= EventSet::OUT,
            Some(fd) => wanted.push((fd, EventSet::OUT)),
            None => {}
        }
        wanted
    }
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        // These fail only for lack of memory; then there is just no input.
        for event in [&self.drained, &self.stuck] {
            let _ = ops.add(Events::new(event, EventSet::IN));
        }
        if let Some(listener) = self.input.listener() {
            let _ = ops.add(Events::new(listener, EventSet::IN));
        }
        self.watch(ops);
        self.feed();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if fd == self.drained.as_raw_fd() {
            let _ = self.drained.read();
        } else if fd == self.stuck.as_raw_fd() {
            let _ = self.stuck.read();
        } else if self.input.listener().map(AsRawFd::as_raw_fd) == Some(fd) {
            self.input.accept(&self.line);
        } else if !events.event_set().difference(EventSet::OUT).is_empty() {
            self.read();
        }
        lock(&self.line).drain();
        self.feed();
        self.watch(ops);
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let lost = lock(&self.line).finish();
        if lost > 0 {
            log::warn!("nobody took the console's last {lost} bytes in time: they are lost");
        }
    }
}
