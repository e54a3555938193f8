//! Answers requests on a machine's socket, on the thread `vmm-api`. Nobody waits for a client
//! that is slow or says nothing.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::task::Poll;
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events, MutEventSubscriber};
use rustix::net::{SocketFlags, accept_with};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::timerfd::TimerFd;

use super::connection::{Connection, Step};
use super::http::{Request, Response};
use super::routes::{self, Call, For, Outcome};
use crate::observe::Observer;
use crate::run::control::KICK_INTERVAL;
use crate::{Error, Result};

/// Clients at the same time: one more takes the place of the one that is silent longest.
const CLIENTS: usize = 16;
/// How long a client may take for its request, and for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server.
pub struct Server {
    listener: UnixListener,
    observer: Observer,
    connections: Vec<Connection>,
    /// Expires when a connection has had its time, or it is time to look at a pause.
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
                // If all wait for something, the one that came first.
                self.close(self.oldest().unwrap_or(0), ops);
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
        let run = |request: &Request| match Call::of(request) {
            Ok(call) => call.run(observer),
            Err(response) => Outcome::Answer(response),
        };
        match connection.go_on(run) {
            Step::Reads => {}
            Step::Writes => drop(ops.modify(Events::new(connection, EventSet::OUT))),
            // Only that its client is gone.
            Step::Waits => drop(ops.modify(Events::empty(connection))),
            Step::Over => self.close(index, ops),
        }
    }

    fn close(&mut self, index: usize, ops: &mut EventOps) {
        let connection = self.connections.remove(index);
        let _ = ops.remove(Events::empty(&connection));
    }

    /// Answers those that wait for `what`.
    fn answer(&mut self, what: For, response: &Response, ops: &mut EventOps) {
        while let Some(index) = self.waiting(what) {
            self.connections[index].answer(response);
            self.go_on(index, ops);
        }
    }

    /// Looks what came of a pause, and tells those that have had their time.
    fn expire(&mut self, ops: &mut EventOps) {
        let _ = self.timer.wait();
        if self.waiting(For::Rest).is_some()
            && let Poll::Ready(done) = self.observer.live().look()
        {
            let response = routes::rest(&self.observer, done);
            self.answer(For::Rest, &response, ops);
        }
        while let Some(index) = self.oldest()
            && self.connections[index].since().elapsed() >= PATIENCE
        {
            self.connections[index].give_up();
            self.close(index, ops);
        }
        self.set_timer();
    }

    /// The connection that waits longest for its client.
    fn oldest(&self) -> Option<usize> {
        let all = self.connections.iter().enumerate();
        let slow = all.filter(|(_, connection)| connection.waits_for().is_none());
        slow.min_by_key(|(_, connection)| connection.since())
            .map(|(index, _)| index)
    }

    /// A connection that waits for `what`.
    fn waiting(&self, what: For) -> Option<usize> {
        let mut all = self.connections.iter();
        all.position(|connection| connection.waits_for() == Some(what))
    }

    fn set_timer(&mut self) {
        let oldest = self.oldest();
        let slow = oldest.map(|index| self.connections[index].since() + PATIENCE);
        let rest = self.waiting(For::Rest);
        let rest = rest.map(|_| Instant::now() + KICK_INTERVAL);
        let due = [slow, rest].into_iter().flatten().min();
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

/// With its thread, the machine has ended: those that wait for that are told how.
impl Drop for Server {
    fn drop(&mut self) {
        let Some(end) = self.observer.live().ender.ended() else {
            return;
        };
        let response = routes::ended(end);
        for connection in &mut self.connections {
            if connection.waits_for() == Some(For::End) {
                connection.answer(&response);
                // What its client doesn't take now it doesn't get.
                connection.go_on(|_| Outcome::Waits(For::End));
            }
        }
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
                    match self.connections[index].waits_for() {
                        Some(_) => self.close(index, ops),
                        None => self.go_on(index, ops),
                    }
                    self.set_timer();
                }
            }
        }
    }
}
