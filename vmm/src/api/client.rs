//! Asks machines by their sockets.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http;
use super::types::Failure;
use crate::config::VmName;
use crate::rundir::RunDir;
use crate::{Error, Result};

/// A pause waits for every vCPU; nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine's API.
#[derive(Debug, Clone)]
pub struct Client {
    name: VmName,
    socket: PathBuf,
}

impl Client {
    /// Of the machine called `name`.
    pub fn new(run_dir: &RunDir, name: &VmName) -> Self {
        Self {
            name: name.clone(),
            socket: run_dir.socket(name),
        }
    }

    /// Of all machines that run, in the order of their names.
    pub fn all(run_dir: &RunDir) -> Result<Vec<Self>> {
        let all = run_dir.names()?.into_iter();
        Ok(all
            .map(|name| Self::new(run_dir, &name))
            .filter(|client| !client.is_gone())
            .collect())
    }

    /// The machine's name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Whether nobody listens any more.
    pub fn is_gone(&self) -> bool {
        let gone = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        UnixStream::connect(&self.socket).is_err_and(|error| gone.contains(&error.kind()))
    }

    /// Gets an answer in JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask("GET", path, &[])
    }

    /// The same, or none from a machine that has ended meanwhile.
    pub fn get_if_there<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        match self.get(path) {
            Err(_) if self.is_gone() => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Has something done.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(Error::system("write a request"))?;
        self.ask("POST", path, &body)
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<T> {
        let (status, answer) = self.exchange(method, path, body)?;
        let strange = |error: serde_json::Error| {
            Error::Refused(format!(
                "machine {} answers what this vmm doesn't understand ({error}): \
                 is it another version's?",
                self.name
            ))
        };
        if !(200..300).contains(&status) {
            let failure: Failure = serde_json::from_slice(&answer).map_err(strange)?;
            let message = format!("{}: {}", self.name, failure.error);
            return Err(Error::of(failure.code, message));
        }
        serde_json::from_slice(&answer).map_err(strange)
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let name = &self.name;
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Gone(format!(
                "no machine called {name} runs; vmm list shows those that do"
            )),
            _ => Error::file("connect to", "socket", &self.socket)(error),
        })?;
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| http::ask(&mut stream, method, path, body))
            .map_err(|error| Error::Busy(format!("machine {name} does not answer: {error}")))
    }
}
