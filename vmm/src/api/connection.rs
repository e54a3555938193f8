//! One client of the API's server. Nothing here waits.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::http::{Arriving, Refusal, Request, Response};
use super::routes::{For, Outcome, failure};

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// More of the client's bytes.
    Reads,
    /// Room for the answer.
    Writes,
    /// What its answer depends on.
    Waits,
    /// Nothing more.
    Over,
}

/// How far a connection is.
#[derive(Debug)]
enum State {
    /// Its request arrives.
    Request(Arriving),
    /// Its answer depends on this.
    Waits(For),
    /// The answer, and how much of it is on its way; whether the rest of the request is read
    /// then, or the client would lose the answer.
    Answer(Vec<u8>, usize, bool),
    /// What is left of a request that was refused arrives.
    Rest,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    since: Instant,
    state: State,
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Connection {
    /// Of a client that has just connected; `stream` doesn't wait.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            since: Instant::now(),
            state: State::Request(Arriving::default()),
        }
    }

    /// When it began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What its answer depends on, if not on its client alone.
    pub fn waits_for(&self) -> Option<For> {
        match self.state {
            State::Waits(what) => Some(what),
            _ => None,
        }
    }

    /// Gives it the answer that it waits for; its client's time to take it begins now.
    pub fn answer(&mut self, response: &Response) {
        self.since = Instant::now();
        self.state = State::Answer(response.bytes(), 0, false);
    }

    /// Goes on as far as it can without a wait; `run` has a request done.
    pub fn go_on(&mut self, run: impl Fn(&Request) -> Outcome) -> Step {
        loop {
            let step = match &mut self.state {
                State::Request(_) => self.read_request(&run),
                State::Waits(_) => Some(Step::Waits),
                State::Answer(bytes, at, rest) => match self.stream.write(&bytes[*at..]) {
                    Ok(size) => {
                        *at += size;
                        let whole = *at == bytes.len();
                        match (whole, *rest) {
                            (false, _) => None,
                            (true, false) => Some(Step::Over),
                            (true, true) => {
                                let _ = self.stream.shutdown(Shutdown::Write);
                                self.state = State::Rest;
                                None
                            }
                        }
                    }
                    Err(error) => waits(&error, Step::Writes),
                },
                State::Rest => match self.stream.read(&mut [0; 4096]) {
                    Ok(0) => Some(Step::Over),
                    Ok(_) => None,
                    Err(error) => waits(&error, Step::Reads),
                },
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn read_request(&mut self, run: impl Fn(&Request) -> Outcome) -> Option<Step> {
        let State::Request(arriving) = &mut self.state else {
            return None;
        };
        let mut buffer = [0; 4096];
        let size = match self.stream.read(&mut buffer) {
            Ok(size) => size,
            Err(error) => return waits(&error, Step::Reads),
        };
        let request = match size {
            0 => Err((400, "the request is not complete")),
            _ => arriving.take(&buffer[..size]),
        };
        match request {
            Ok(None) => {}
            Ok(Some(request)) => match run(&request) {
                Outcome::Answer(response) => self.answer(&response),
                Outcome::Waits(what) => self.state = State::Waits(what),
            },
            Err(refusal) => self.refuse(refusal),
        }
        None
    }

    fn refuse(&mut self, (status, message): Refusal) {
        self.state = State::Answer(failure(status, message).bytes(), 0, true);
    }

    /// Its time is over: a client whose request has not come is told so.
    pub fn give_up(&mut self) {
        if let State::Request(_) = self.state {
            self.refuse((408, "the request did not come in time"));
            // What it doesn't take now it doesn't get.
            self.go_on(|_| Outcome::Answer(failure(400, "one request a connection")));
        }
    }
}

/// What a connection waits for that cannot go on.
fn waits(error: &std::io::Error, step: Step) -> Option<Step> {
    match error.kind() {
        ErrorKind::Interrupted => None,
        ErrorKind::WouldBlock => Some(step),
        // What goes wrong with a connection is its client's loss.
        _ => Some(Step::Over),
    }
}
