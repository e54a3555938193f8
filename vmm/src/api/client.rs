//! Asks machines by their sockets: all that are asked at the same time, and none for longer
//! than a moment.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::http;
use super::peer::Process;
use super::types::{Ended, Failure};
use crate::config::VmName;
use crate::observe::types::{Info, OwnStat};
use crate::plain::plain;
use crate::rundir::RunDir;
use crate::{Error, Result};

/// How long a machine may take to say what it does.
const LOOK: Duration = Duration::from_secs(2);
/// How long it may take to do something: a pause waits for every vCPU and disk.
const WORK: Duration = Duration::from_secs(10);
/// Longest answer.
const ANSWER_MAX: usize = 64 << 20;

/// A machine's API.
#[derive(Debug, Clone)]
pub struct Client {
    name: VmName,
    socket: PathBuf,
}

/// What a machine says, where it may tell who it is. That is not taken from it.
pub trait Signed: DeserializeOwned {
    /// Puts its name and process in.
    fn sign(&mut self, _name: &VmName, _pid: u32) {}
}

impl Signed for Info {
    fn sign(&mut self, name: &VmName, pid: u32) {
        (self.name, self.pid) = (name.to_string(), pid);
    }
}

impl Signed for OwnStat {}

impl Signed for Ended {}

/// A question that is under way until its machine's end.
pub struct Ending<'a>(Exchange<'a>);

impl Ending<'_> {
    /// What the machine has said, if it could: it has ended.
    pub fn said(mut self) -> Option<Ended> {
        self.0.go_on();
        self.0.answer()?.said.ok()
    }
}

/// What one of several machines answered.
#[derive(Debug)]
pub struct Answer<T> {
    /// The machine.
    pub name: VmName,
    /// Its process, if it is seen from here.
    pub process: Option<Process>,
    /// What it said.
    pub said: Result<T>,
}

impl Client {
    /// Of the machine called `name`.
    pub fn new(run_dir: &RunDir, name: &VmName) -> Self {
        Self {
            name: name.clone(),
            socket: run_dir.socket(name),
        }
    }

    /// Of all machines that have a socket, in the order of their names.
    pub fn all(run_dir: &RunDir) -> Result<Vec<Self>> {
        let all = run_dir.names()?.into_iter();
        Ok(all.map(|name| Self::new(run_dir, &name)).collect())
    }

    /// Gets an answer.
    pub fn get<T: Signed>(&self, path: &str) -> Result<T> {
        let mut answers = Self::get_all(std::slice::from_ref(self), path);
        let answer = answers.pop().ok_or_else(|| self.gone())?;
        answer.said
    }

    /// Gets the answers of several machines; one that has ended has none.
    pub fn get_all<T: Signed>(clients: &[Self], path: &str) -> Vec<Answer<T>> {
        let begin = |client| Exchange::begin(client, "GET", path, &[]);
        let mut exchanges: Vec<_> = clients.iter().map(begin).collect();
        finish(&mut exchanges, LOOK);
        exchanges.into_iter().filter_map(Exchange::answer).collect()
    }

    /// Has something done.
    pub fn post<T: Signed>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(Error::system("write a request"))?;
        let mut exchange = [Exchange::begin(self, "POST", path, &body)];
        finish(&mut exchange, WORK);
        let [exchange] = exchange;
        let answer = exchange.answer().ok_or_else(|| self.gone())?;
        answer.said
    }

    /// Asks how the machine ends, which is answered then.
    pub fn end(&self) -> Ending<'_> {
        let mut exchange = Exchange::begin(self, "GET", "/v1/end", &[]);
        exchange.go_on();
        Ending(exchange)
    }

    /// The machine's process. The machine itself need not answer for that.
    pub fn process(&self) -> Result<Process> {
        let stream = self.connect().map_err(|error| self.no_connection(error))?;
        Process::of(stream).map_err(Error::system("find the machine's process"))
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Fails at once where too many wait already.
        connect(&socket, &SocketAddrUnix::new(&self.socket)?)?;
        Ok(socket.into())
    }

    /// That there is no such machine.
    pub fn gone(&self) -> Error {
        Error::Gone(format!(
            "no machine called {} runs; vmm list shows those that do",
            self.name
        ))
    }

    fn no_connection(&self, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => self.gone(),
            ErrorKind::WouldBlock => self.silent(),
            _ => Error::file("connect to", "socket", &self.socket)(error),
        }
    }

    fn silent(&self) -> Error {
        Error::Busy(format!(
            "machine {} does not answer: is its process stopped, or has it no CPU time?",
            self.name
        ))
    }

    /// Reads an answer. Nothing that it says reaches a terminal as it is.
    fn read<T: Signed>(&self, pid: Option<u32>, bytes: &[u8]) -> Result<T> {
        let strange = |error: io::Error| {
            Error::Refused(format!(
                "machine {} answers what this vmm doesn't understand ({}): is it another \
                 version's?",
                self.name,
                plain(&error.to_string())
            ))
        };
        let (status, body) = http::parse_response(bytes).map_err(strange)?;
        let json: Value = serde_json::from_slice(body).map_err(|e| strange(e.into()))?;
        let json = all_plain(json);
        if !(200..300).contains(&status) {
            let failure: Failure = serde_json::from_value(json).map_err(|e| strange(e.into()))?;
            let message = format!("{}: {}", self.name, failure.error);
            return Err(Error::of(failure.code, message));
        }
        let mut said: T = serde_json::from_value(json).map_err(|e| strange(e.into()))?;
        said.sign(&self.name, pid.unwrap_or(0));
        Ok(said)
    }
}

/// Makes every text plain, wherever it is.
fn all_plain(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(values) => values.into_iter().map(all_plain).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter();
            fields
                .map(|(name, v)| (plain(&name), all_plain(v)))
                .collect()
        }
        other => other,
    }
}

/// A request under way.
struct Exchange<'a> {
    client: &'a Client,
    stream: Option<UnixStream>,
    process: Option<Process>,
    request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    /// Set when it is over: whether all of the answer has come.
    done: Option<Result<()>>,
}

impl<'a> Exchange<'a> {
    fn begin(client: &'a Client, method: &str, path: &str, body: &[u8]) -> Self {
        let mut exchange = Self {
            client,
            stream: None,
            process: None,
            request: http::request(method, path, body),
            sent: 0,
            answer: Vec::new(),
            done: None,
        };
        match client.connect() {
            Ok(stream) => {
                exchange.process = Process::of(&stream).ok();
                exchange.stream = Some(stream);
            }
            Err(error) => exchange.done = Some(Err(client.no_connection(error))),
        }
        exchange
    }

    /// What it waits for, while it is under way.
    fn waits_for(&self) -> Option<PollFd<'_>> {
        let events = match self.sent < self.request.len() {
            true => PollFlags::OUT,
            false => PollFlags::IN,
        };
        let stream = self.stream.as_ref().filter(|_| self.done.is_none())?;
        Some(PollFd::new(stream, events))
    }

    /// Sends and reads what can be without a wait.
    fn go_on(&mut self) {
        while self.done.is_none() {
            match self.transfer() {
                Ok(true) => {}
                Ok(false) => self.done = Some(Ok(())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It ended before it had said all.
                Err(_) => self.done = Some(Err(self.client.gone())),
            }
        }
    }

    /// Returns whether there is more to come.
    fn transfer(&mut self) -> io::Result<bool> {
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        if self.sent < self.request.len() {
            self.sent += stream.write(&self.request[self.sent..])?;
            return Ok(true);
        }
        let mut buffer = [0; 16 * 1024];
        let size = stream.read(&mut buffer)?;
        self.answer.extend(&buffer[..size]);
        Ok(size > 0 && self.answer.len() < ANSWER_MAX)
    }

    /// What came of it; none if the machine is not there.
    fn answer<T: Signed>(self) -> Option<Answer<T>> {
        let said = match self.done {
            Some(Err(Error::Gone(_))) => return None,
            // It ended before it said anything.
            Some(Ok(())) if self.answer.is_empty() => return None,
            Some(Ok(())) => {
                let pid = self.process.as_ref().map(|process| process.pid);
                self.client.read(pid, &self.answer)
            }
            Some(Err(error)) => Err(error),
            None => Err(self.client.silent()),
        };
        Some(Answer {
            name: self.client.name.clone(),
            process: self.process,
            said,
        })
    }
}

/// Brings all to their end, those at least that have one within `time`.
fn finish(exchanges: &mut [Exchange], time: Duration) {
    let limit = Instant::now() + time;
    loop {
        exchanges.iter_mut().for_each(Exchange::go_on);
        let left = limit.saturating_duration_since(Instant::now());
        let mut waiting: Vec<_> = exchanges.iter().filter_map(Exchange::waits_for).collect();
        if waiting.is_empty() || left.is_zero() {
            return;
        }
        // Fails when a signal comes, or for what the next round finds out.
        let _ = poll(&mut waiting, Timespec::try_from(left).ok().as_ref());
    }
}

#[cfg(test)]
mod tests;
