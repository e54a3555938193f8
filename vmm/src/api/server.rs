//! Answers requests on a machine's socket, on the thread `vmm-api`. Nobody waits for a client
//! that is slow or says nothing.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::connection::{Connection, Step};
use super::http::Request;
use super::routes::Call;
use crate::observe::Observer;
use crate::{Error, Result};

/// Clients at the same time: one more takes the place of the one that is silent longest.
const CLIENTS: usize = 16;
/// How long a client may take for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server.
pub struct Server {
    listener: UnixListener,
    observer: Observer,
    /// The oldest first.
    connections: Vec<Connection>,
    /// Expires when the oldest has had its time.
    timer: TimerFd,
}

impl Server {
    /// A server on `listener` for the machine that `observer` looks at.
    pub fn new(listener: UnixListener, observer: Observer) -> Result<Self> {
        let fail = Error::system("listen for clients");
        listener.set_nonblocking(true).map_err(fail)?;
        Ok(Self {
            listener,
            observer,
            connections: Vec::new(),
            timer: TimerFd::new().map_err(|error| fail(error.into()))?,
        })
    }

    fn accept(&mut self, ops: &mut EventOps) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        while let Ok(stream) = accept_with(&self.listener, flags) {
            if self.connections.len() == CLIENTS {
                self.close(0, ops);
            }
            let connection = Connection::new(stream.into());
            // Fails only for lack of memory; then there is no connection.
            if ops.add(Events::new(&connection, EventSet::IN)).is_ok() {
                self.connections.push(connection);
                self.go_on(self.connections.len() - 1, ops);
            }
        }
        self.set_timer();
    }

    /// Does what the connection is ready for.
    fn go_on(&mut self, index: usize, ops: &mut EventOps) {
        let connection = &mut self.connections[index];
        let observer = &self.observer;
        let answer = |request: &Request| match Call::of(request) {
            Ok(call) => call.answer(observer),
            Err(response) => response,
        };
        match connection.go_on(answer) {
            Step::Reads => {}
            Step::Writes => drop(ops.modify(Events::new(connection, EventSet::OUT))),
            Step::Over => self.close(index, ops),
        }
    }

    fn close(&mut self, index: usize, ops: &mut EventOps) {
        let connection = self.connections.remove(index);
        let _ = ops.remove(Events::empty(&connection));
    }

    /// Tells those that have had their time.
    fn expire(&mut self, ops: &mut EventOps) {
        let _ = self.timer.wait();
        while let Some(oldest) = self.connections.first_mut()
            && oldest.since().elapsed() >= PATIENCE
        {
            oldest.give_up();
            self.close(0, ops);
        }
        self.set_timer();
    }

    fn set_timer(&mut self) {
        let due = self
            .connections
            .first()
            .map(|oldest| oldest.since() + PATIENCE);
        // Both fail only for what is no timer.
        let _ = match due {
            // At once would be never.
            Some(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                self.timer.reset(wait.max(Duration::from_millis(1)), None)
            }
            None => self.timer.clear(),
        };
    }

    fn find(&self, fd: RawFd) -> Option<usize> {
        let mut connections = self.connections.iter();
        connections.position(|connection| connection.as_raw_fd() == fd)
    }
}

impl MutEventSubscriber for Server {
    fn init(&mut self, ops: &mut EventOps) {
        // Both fail only for lack of memory; then nobody is answered.
        let _ = ops.add(Events::new(&self.listener, EventSet::IN));
        let _ = ops.add(Events::new(&self.timer, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.fd() {
            fd if fd == self.listener.as_raw_fd() => self.accept(ops),
            fd if fd == self.timer.as_raw_fd() => self.expire(ops),
            fd => {
                if let Some(index) = self.find(fd) {
                    self.go_on(index, ops);
                    self.set_timer();
                }
            }
        }
    }
}
