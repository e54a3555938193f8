//! Runs a machine: its threads, the terminal, signals, and its end.
//!
//! The main thread only waits for signals and for the end. `vmm-io` serves the
//! virtio devices and the console's input, and each vCPU has a thread of its own.

use std::io::stdin;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::builder::{Machine, Worker};
use crate::devices::serial::Console;
use crate::exit::End;
use crate::sandbox::{Filters, Role};
use crate::{Error, Result, vcpu};

/// How long to wait before vCPUs that still run are kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// Where everybody says, and asks, that the machine has ended. The first word counts.
#[derive(Clone)]
pub struct Ender {
    end: Arc<Mutex<Option<End>>>,
    event: Arc<EventFd>,
}

impl Ender {
    /// For a machine that runs.
    pub fn new() -> Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(Error::system("create an event"))?;
        Ok(Self {
            end: Arc::default(),
            event: Arc::new(event),
        })
    }

    /// Ends the machine.
    pub fn end(&self, end: End) {
        self.lock().get_or_insert(end);
        // Fails only when 2^64 - 1 of them wait already.
        let _ = self.event.write(1);
    }

    /// Why it ended; none while it runs.
    pub fn ended(&self) -> Option<End> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the loops that wait for events when the machine ends.
struct EndWatch(Ender);

impl MutEventSubscriber for EndWatch {
    fn init(&mut self, ops: &mut EventOps) {
        // Stays readable: every loop sees it.
        let _ = ops.add(Events::new(&*self.0.event, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
}

/// A signal that ends the machine.
struct SignalWatch {
    signal: i32,
    pipe: UnixStream,
    ender: Ender,
}

impl SignalWatch {
    fn new(signal: i32, ender: &Ender) -> Result<Self> {
        let (pipe, write) = UnixStream::pair().map_err(Error::system("watch signals"))?;
        signal_hook::low_level::pipe::register(signal, write)
            .map_err(Error::system("watch signals"))?;
        Ok(Self {
            signal,
            pipe,
            ender: ender.clone(),
        })
    }
}

impl MutEventSubscriber for SignalWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.pipe, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.ender.end(End::Signal(self.signal));
        let _ = ops.remove(events);
    }
}

/// A terminal that passes every key on; as it was before when this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    fn new() -> Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).map_err(Error::system("set up the terminal"))?;
        let mut raw = before.clone();
        raw.local_modes -=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::IXON;
        tcsetattr(stdin(), OptionalActions::Now, &raw)
            .map_err(Error::system("set up the terminal"))?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// Ends the machine when a thread ends, whatever the reason.
struct EndAtExit(Ender);

impl Drop for EndAtExit {
    fn drop(&mut self) {
        self.0.end(End::Crash);
    }
}

type Loop = EventManager<Box<dyn MutEventSubscriber + Send>>;

fn event_loop(ender: &Ender) -> Result<Loop> {
    let mut manager = Loop::new().map_err(|_| no_events())?;
    manager.add_subscriber(Box::new(EndWatch(ender.clone())));
    Ok(manager)
}

fn no_events() -> Error {
    Error::system("wait for events")(std::io::Error::last_os_error())
}

/// Runs the machine until it ends, and tells why it did.
pub fn run(machine: Machine) -> Result<End> {
    let ender = machine.ender.clone();
    register_signal_handler(SIGRTMIN(), kicked).map_err(Error::system("watch signals"))?;
    let mut events = event_loop(&ender)?;
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        events.add_subscriber(Box::new(SignalWatch::new(signal, &ender)?));
    }
    let _terminal = RawTerminal::new()?;
    let filters = machine.sandbox.enter()?;
    let starter = Starter {
        ender: &ender,
        filters: &filters,
    };

    let io = start_io(machine.workers, machine.console, &starter)?;
    let mut vcpus = Vec::new();
    for (id, fd) in (0..).zip(machine.vcpus) {
        let buses = machine.buses.clone();
        let name = format!("vcpu{id}");
        let run = move |ender: &Ender| vcpu::run(fd, id, &buses, ender);
        match starter.start(name, Role::Vcpu, run) {
            Ok(thread) => vcpus.push(thread),
            Err(error) => {
                stop(&ender, End::Crash, vcpus, io);
                return Err(error);
            }
        }
    }
    if let Err(error) = filters.confine(Role::Main) {
        stop(&ender, End::Crash, vcpus, io);
        return Err(error);
    }
    while ender.ended().is_none() {
        if events.run().is_err() {
            ender.end(End::Crash);
        }
    }
    Ok(stop(&ender, End::Crash, vcpus, io))
}

/// Ends all threads; `end` is the reason if there is none yet.
fn stop(ender: &Ender, end: End, vcpus: Vec<JoinHandle<()>>, io: JoinHandle<()>) -> End {
    let end = ender.ended().unwrap_or(end);
    ender.end(end);
    // A kick can come just before a thread enters the guest or a system call:
    // it is repeated until all have ended.
    while vcpus.iter().any(|thread| !thread.is_finished()) {
        for thread in vcpus.iter().filter(|thread| !thread.is_finished()) {
            let _ = thread.kill(SIGRTMIN());
        }
        thread::sleep(KICK_INTERVAL);
    }
    for thread in vcpus.into_iter().chain([io]) {
        let _ = thread.join();
    }
    end
}

fn start_io(workers: Vec<Worker>, console: Console, starter: &Starter) -> Result<JoinHandle<()>> {
    let mut events = event_loop(starter.ender)?;
    events.add_subscriber(Box::new(console));
    for worker in workers {
        events.add_subscriber(worker);
    }
    starter.start("vmm-io".into(), Role::Io, move |ender| {
        while ender.ended().is_none() {
            if events.run().is_err() {
                ender.end(End::Crash);
            }
        }
    })
}

/// Starts threads, each confined to what its role needs.
struct Starter<'a> {
    ender: &'a Ender,
    filters: &'a Filters,
}

impl Starter<'_> {
    fn start(
        &self,
        name: String,
        role: Role,
        body: impl FnOnce(&Ender) + Send + 'static,
    ) -> Result<JoinHandle<()>> {
        let ender = self.ender.clone();
        let filters = self.filters.clone();
        thread::Builder::new()
            .name(name)
            .spawn(move || {
                let at_exit = EndAtExit(ender);
                match filters.confine(role) {
                    Ok(()) => body(&at_exit.0),
                    Err(error) => log::error!("{error}"),
                }
            })
            .map_err(Error::system("start a thread"))
    }
}

/// The signal's only work is to bring a vCPU's thread out of the guest.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
