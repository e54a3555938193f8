//! Runs a machine: its threads, the terminal, signals, and its end.

use std::io::{IsTerminal, stdin};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use signal_hook::consts::{SIGINT, SIGTERM};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};
use vmm_sys_util::terminal::Terminal;

use crate::builder::Machine;
use crate::devices::block;
use crate::exit::End;
use crate::{Error, Result, vcpu};

/// How long to wait before a vCPU that is still in the guest is kicked again.
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
struct RawTerminal;

impl RawTerminal {
    fn new() -> Result<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        stdin()
            .lock()
            .set_raw_mode()
            .map_err(Error::system("set up the terminal"))?;
        Ok(Some(Self))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = stdin().lock().set_canon_mode();
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
    for signal in [SIGINT, SIGTERM] {
        events.add_subscriber(Box::new(SignalWatch::new(signal, &ender)?));
    }
    events.add_subscriber(Box::new(machine.console));
    let _terminal = RawTerminal::new()?;

    let io = start_io(machine.workers, &ender)?;
    let mut vcpus = Vec::new();
    for (id, fd) in (0..).zip(machine.vcpus) {
        let (buses, told) = (machine.buses.clone(), ender.clone());
        let name = format!("vcpu{id}");
        let started = start_thread(name, move || vcpu::run(fd, id, &buses, &told));
        match started {
            Ok(thread) => vcpus.push(thread),
            Err(error) => {
                stop(&ender, End::Crash, vcpus, io);
                return Err(error);
            }
        }
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
    for thread in vcpus {
        // A kick can come just before the thread enters the guest: repeat it.
        while !thread.is_finished() {
            let _ = thread.kill(SIGRTMIN());
            thread::sleep(KICK_INTERVAL);
        }
        let _ = thread.join();
    }
    let _ = io.join();
    end
}

fn start_io(workers: Vec<block::Worker>, ender: &Ender) -> Result<JoinHandle<()>> {
    let mut events = event_loop(ender)?;
    for worker in workers {
        events.add_subscriber(Box::new(worker));
    }
    let ender = ender.clone();
    start_thread("vmm-io".into(), move || {
        while ender.ended().is_none() {
            if events.run().is_err() {
                ender.end(End::Crash);
            }
        }
    })
}

fn start_thread(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(Error::system("start a thread"))
}

/// The signal's only work is to bring a vCPU's thread out of the guest.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
