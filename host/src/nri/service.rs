//! The plugin at work: a runtime where there is one, and the groups in any case.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::groups::Groups;
use super::messages::{RUNTIME_SERVICE, RegisterPluginRequest, Request, Response};
use super::plugin::Plugin;
use super::watch::Watch;
use super::wire::{self, Incoming, Message};
use crate::agent::alone::Alone;
use crate::agent::config::Config;
use crate::agent::signals::Signals;
use crate::model::shown;
use crate::read::Root;
use crate::{Error, Result};

/// Where containerd and CRI-O listen for plugins.
pub const SOCKET: &str = "/var/run/nri/nri.sock";
const NRI: Alone = Alone {
    command: "vmfirst nri",
    unit: "vmfirst-nri",
    lock: "run/vmfirst/nri.lock",
    status: "run/vmfirst/nri-status.json",
};
/// What the runtime calls it.
const NAME: &str = "vmfirst";
/// Between two tries to find a runtime.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at all groups when nothing was seen.
const LOOK: Duration = Duration::from_secs(10);
/// After it, what somebody else changes again and again is written again.
const FORGIVE: Duration = Duration::from_secs(60);
/// A runtime that doesn't read for so long is left: it takes as much for a plugin to be dead.
const WRITE_MOST: Duration = Duration::from_secs(2);

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct Options {
    /// The runtime's socket.
    pub socket: PathBuf,
    /// Plugins are asked in this order, 0 to 99.
    pub index: u8,
    /// The folder with the configuration, the agent's.
    pub config: PathBuf,
    /// Where `vmfirst view` is mounted.
    pub view: PathBuf,
    /// Whether a pod that is offline stays so.
    pub keep_offline: bool,
}

/// A runtime.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    incoming: Incoming,
}

/// The plugin of a host.
#[derive(Debug)]
pub struct Service {
    options: Options,
    groups: Groups,
    plugin: Plugin,
    watch: Watch,
    link: Option<Link>,
    tried: Option<Instant>,
    looked: Option<Instant>,
    forgave: Instant,
    /// What the operator was told last of the runtime.
    told: String,
}

impl Service {
    /// For a host with cgroup v2; takes up what a killed one left.
    pub fn new(root: Root, options: Options) -> Result<Self> {
        let config = Config::read(&options.config)?;
        let groups = Groups::new(root.clone(), config, options.keep_offline, NRI.status)?;
        let watch = Watch::new();
        let watch = watch.map_err(|source| Error::refused("watch", "groups", source, ""))?;
        Ok(Self {
            plugin: Plugin::new(root, options.view.clone()),
            options,
            groups,
            watch,
            link: None,
            tried: None,
            looked: None,
            forgave: Instant::now(),
            told: String::new(),
        })
    }

    /// Takes what there was to say, for the operator.
    pub fn notes(&mut self) -> Vec<String> {
        self.groups.notes()
    }

    /// Whether the runtime has asked for what the plugin wants to be told of.
    pub fn is_asked(&self) -> bool {
        self.plugin.runtime.is_some()
    }

    /// Waits until something happens, at most so long, and does what that takes. `wake` ends
    /// the wait, too.
    pub fn step(&mut self, most: Duration, wake: Option<&dyn AsFd>) {
        self.connect();
        let is_over = |then: Option<Instant>, most| then.is_none_or(|then| then.elapsed() >= most);
        let most = match is_over(self.looked, LOOK) {
            true => Duration::ZERO,
            false => most,
        };
        let (has_asked, has_seen) = self.wait(most, wake);
        if has_asked {
            self.hear();
        }
        if has_seen || is_over(self.looked, LOOK) {
            self.look();
        }
    }

    /// Looks at all groups.
    fn look(&mut self) {
        if self.forgave.elapsed() >= FORGIVE {
            self.groups.forgive();
            self.forgave = Instant::now();
        }
        let runtime = self.plugin.runtime.as_deref();
        if let Err(error) = self.groups.reconcile(runtime, &self.watch) {
            self.groups.note(error.to_string());
        }
        self.looked = Some(Instant::now());
    }

    /// Whether the runtime has said something, and whether groups have changed.
    fn wait(&self, most: Duration, wake: Option<&dyn AsFd>) -> (bool, bool) {
        let link = self.link.as_ref().map(|link| link.stream.as_fd());
        let files = [Some(self.watch.as_fd()), link, wake.map(AsFd::as_fd)];
        let files = files.into_iter().flatten();
        let mut files: Vec<_> = files
            .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN))
            .collect();
        let most = Timespec::try_from(most).ok();
        // Interrupted by a signal, nothing has happened yet.
        let _ = poll(&mut files, most.as_ref());
        let has_asked = self.link.is_some() && !files[1].revents().is_empty();
        (has_asked, self.watch.has_seen())
    }

    /// Looks for a runtime, where there is none.
    fn connect(&mut self) {
        let is_soon = |then: &Instant| then.elapsed() < RETRY;
        if self.link.is_some() || self.tried.as_ref().is_some_and(is_soon) {
            return;
        }
        self.tried = Some(Instant::now());
        match self.register() {
            Ok(link) => self.link = Some(link),
            Err(error) => self.tell(format!(
                "no runtime at {}: {error}; pods have the priority of their class, and \
                 annotations are not seen",
                self.options.socket.display()
            )),
        }
    }

    fn register(&self) -> io::Result<Link> {
        let mut stream = UnixStream::connect(&self.options.socket)?;
        stream.set_write_timeout(Some(WRITE_MOST))?;
        let register = RegisterPluginRequest {
            plugin_name: NAME.into(),
            plugin_idx: format!("{:02}", self.options.index),
        };
        let request = Request {
            service: RUNTIME_SERVICE.into(),
            method: "RegisterPlugin".into(),
            payload: register.encode_to_vec(),
        };
        let message = Message {
            connection: wire::RUNTIME,
            stream: 1,
            kind: wire::REQUEST,
            data: request.encode_to_vec(),
        };
        stream.write_all(&message.encode())?;
        Ok(Link {
            stream,
            incoming: Incoming::default(),
        })
    }

    /// Says something of the runtime once.
    fn tell(&mut self, text: String) {
        if self.told != text {
            self.groups.note(text.clone());
            self.told = text;
        }
    }

    /// Takes what the runtime said and answers it.
    fn hear(&mut self) {
        let Some(mut link) = self.link.take() else {
            return;
        };
        match self.converse(&mut link) {
            Ok(()) => self.link = Some(link),
            Err(error) => {
                self.tried = Some(Instant::now());
                let was_there = self.plugin.runtime.take();
                let who = was_there.unwrap_or_else(|| "the runtime".into());
                self.tell(format!(
                    "{who} is gone: {error}; groups are watched until it comes"
                ));
            }
        }
    }

    fn converse(&mut self, link: &mut Link) -> std::result::Result<(), String> {
        let mut bytes = vec![0; 1 << 16];
        let count = match link.stream.read(&mut bytes) {
            Ok(0) => return Err("it closed the connection".into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            read => read.map_err(|error| error.to_string())?,
        };
        let messages = link.incoming.add(&bytes[..count]);
        for message in messages.map_err(|error| format!("it doesn't speak NRI: {error}"))? {
            if let Some(answer) = self.answer(&message)? {
                let sent = link.stream.write_all(&answer.encode());
                sent.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, message: &Message) -> std::result::Result<Option<Message>, String> {
        match (message.connection, message.kind) {
            (wire::PLUGIN, wire::REQUEST) => {
                let plugin = &mut self.plugin;
                let response = plugin.answer(&mut self.groups, &self.watch, &message.data);
                if self.plugin.runtime.is_some() {
                    self.told.clear();
                }
                Ok(Some(Message {
                    kind: wire::RESPONSE,
                    data: response.encode_to_vec(),
                    ..message.clone()
                }))
            }
            (wire::RUNTIME, wire::RESPONSE) => {
                let response = Response::decode(message.data.as_slice());
                let response =
                    response.map_err(|error| format!("it doesn't speak NRI: {error}"))?;
                match response.status {
                    Some(status) if status.code != 0 => {
                        Err(format!("it refused: {}", shown(&status.message)))
                    }
                    _ => Ok(None),
                }
            }
            _ => Err("it doesn't speak NRI: an answer without a question".into()),
        }
    }

    /// Puts all back.
    pub fn restore(&mut self, why: &str) -> Result<usize> {
        self.groups.restore(why)
    }

    fn reload(&mut self) {
        match Config::read(&self.options.config) {
            Ok(config) => self.groups.reload(config),
            Err(error) => {
                let text = format!("{error}; the configuration from before holds");
                self.groups.note(text);
            }
        }
        self.looked = None;
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP has the configuration read again. `warn` has a line
/// for the operator.
pub fn run(root: &Root, options: Options, warn: impl Fn(&str)) -> Result<()> {
    let _lock = NRI.lock(root)?;
    let refused = |source| Error::refused("watch for", "signals", source, "");
    let mut signals = Signals::new().map_err(refused)?;
    let mut service = Service::new(root.clone(), options)?;
    while !signals.is_end() {
        if signals.take_reload() {
            service.reload();
        }
        service.step(RETRY, Some(&signals));
        signals.heard();
        service.notes().iter().for_each(|note| warn(note));
    }
    service.restore("vmfirst nri ends").map(drop)
}

/// Puts back what a killed one left; returns how much that was.
pub fn restore(root: &Root, options: Options) -> Result<usize> {
    let _lock = NRI.lock(root)?;
    Service::new(root.clone(), options)?.restore("asked for by --restore")
}

/// What the one that runs has told, as it wrote it.
///
/// # Errors
/// [`Error::Unavailable`] when none runs.
pub fn status(root: &Root) -> Result<serde_json::Value> {
    NRI.status(root)
}
