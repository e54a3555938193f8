//! Loops that wait for events, and what the main thread waits for.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::live::Live;
use crate::exit::{End, Ender};
use crate::{Error, Result};

/// Waits for events of any kind.
pub type Loop = EventManager<Box<dyn MutEventSubscriber + Send>>;

/// A loop that hears of the machine's end.
pub fn event_loop(ender: &Ender) -> Result<Loop> {
    let mut manager = Loop::new().map_err(|_| no_events())?;
    manager.add_subscriber(Box::new(EndWatch(ender.clone())));
    Ok(manager)
}

fn no_events() -> Error {
    Error::system("wait for events")(std::io::Error::last_os_error())
}

/// Ends the loops that wait for events when the machine ends.
pub struct EndWatch(pub Ender);

impl MutEventSubscriber for EndWatch {
    fn init(&mut self, ops: &mut EventOps) {
        // Stays readable: every loop sees it.
        let _ = ops.add(Events::new(self.0.event(), EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
}

/// Has the devices stand still while the machine is paused.
pub struct PauseWatch(pub Arc<Live>);

impl MutEventSubscriber for PauseWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(self.0.control.io_attention(), EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.control.attend_io();
    }
}

/// A signal that ends the machine, or has the guest asked to power off.
pub struct SignalWatch {
    signal: i32,
    pipe: File,
    live: Arc<Live>,
}

impl SignalWatch {
    /// For `signal`, from now on.
    pub fn new(signal: i32, live: &Arc<Live>) -> Result<Self> {
        let pipe = UnixStream::pair().and_then(|(pipe, write)| {
            pipe.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(signal, write)?;
            Ok(File::from(OwnedFd::from(pipe)))
        });
        Ok(Self {
            signal,
            pipe: pipe.map_err(Error::system("watch signals"))?,
            live: live.clone(),
        })
    }

    /// The second time that the user asks it is urgent.
    fn arrived(&self) {
        let end = End::Signal(self.signal);
        match self.signal {
            SIGINT if self.live.stopping() => self.live.ender.end(end),
            // A terminal that goes away is no power cut.
            SIGINT | SIGTERM | SIGHUP => self.live.stop(self.live.stop_timeout, end),
            _ => self.live.ender.end(end),
        }
    }
}

impl MutEventSubscriber for SignalWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.pipe, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // A byte for each signal.
        let mut bytes = [0; 64];
        let count = self.pipe.read(&mut bytes).unwrap_or(0);
        (0..count).for_each(|_| self.arrived());
    }
}

/// Takes the guest's word that it has started.
pub struct StartWatch {
    /// Written when the guest says so.
    pub started: EventFd,
    /// The machine.
    pub live: Arc<Live>,
}

impl MutEventSubscriber for StartWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.started, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.started.read();
        self.live.started();
    }
}

/// Wakes the main thread when something is due earlier than it knows.
pub struct ChangeWatch(pub Arc<Live>);

impl MutEventSubscriber for ChangeWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.0.changed, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.due();
    }
}
