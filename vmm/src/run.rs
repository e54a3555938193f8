//! Runs a machine: its threads, the terminal, signals, and its end.
//!
//! The main thread only waits for signals and for the end. `vmm-io` serves the
//! virtio devices and the console's input, and each vCPU has a thread of its own.

use std::fs::File;
use std::io::{Read, stdin};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::VcpuFd;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::api::server::Server;
use crate::builder::{Machine, Worker};
use crate::config::VmName;
use crate::devices::serial::Console;
use crate::exit::End;
use crate::gate::{Gate, own_tid};
use crate::live::Live;
use crate::observe::Observer;
use crate::sandbox::{Filters, Role};
use crate::sched::{Group, Placement, Threads};
use crate::vcpu::{self, Buses};
use crate::{Error, Result};

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

/// A signal that ends the machine, or has the guest asked to power off.
struct SignalWatch {
    signal: i32,
    pipe: File,
    live: Arc<Live>,
}

impl SignalWatch {
    fn new(signal: i32, live: &Arc<Live>) -> Result<Self> {
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
            SIGINT | SIGTERM => self.live.stop(self.live.stop_timeout, end),
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
struct StartWatch {
    started: EventFd,
    live: Arc<Live>,
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
struct ChangeWatch(Arc<Live>);

impl MutEventSubscriber for ChangeWatch {
    fn init(&mut self, ops: &mut EventOps) {
        let _ = ops.add(Events::new(&self.0.changed, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.0.due();
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

/// Runs the machine until it ends, and tells why it did. With a name it has an API.
pub fn run(machine: Machine, named: Option<(VmName, UnixListener)>) -> Result<End> {
    let ender = machine.ender.clone();
    register_signal_handler(SIGRTMIN(), kicked).map_err(Error::system("watch signals"))?;
    // Threads that start later are in it from their first moment.
    let group = machine.sched.cgroup.as_ref();
    let group = group.map(|(path, layout)| Group::new(path, *layout));
    let mut group = group.transpose()?;
    if let (Some(group), true) = (&mut group, machine.sandbox.becomes_user()) {
        // Who is no longer root can't remove it.
        group.leave();
    }
    let live = Live::new(
        ender.clone(),
        machine.power_button,
        Placement::new(group),
        machine.stop_timeout,
    )?;
    let mut events = event_loop(&ender)?;
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        events.add_subscriber(Box::new(SignalWatch::new(signal, &live)?));
    }
    events.add_subscriber(Box::new(ChangeWatch(live.clone())));
    let started = machine.started;
    let start_watch = StartWatch {
        started,
        live: live.clone(),
    };
    events.add_subscriber(Box::new(start_watch));
    let _terminal = RawTerminal::new()?;

    // Who moves threads and removes files later may do more.
    let sched = &machine.sched;
    let steers = named.is_some() || sched.cgroup.is_some() || sched.launch.is_some();
    let role = if steers { Role::Steer } else { Role::Main };
    let io_role = match machine.vsock_socket {
        Some(_) => Role::IoStreams,
        None => Role::Io,
    };
    let server = named.map(|(name, listener)| {
        let memory = (machine.mem, machine.memory.clone());
        let observer = Observer::new(live.clone(), name, machine.pv, memory, &machine.vcpus);
        observer.map(|observer| Server { listener, observer })
    });
    let server = server.transpose()?;
    let mut crew = Crew::new(live.clone(), machine.sandbox.filters());
    let done = crew
        .start_io(machine.workers, machine.console, io_role)
        .and_then(|()| crew.start_vcpus(machine.vcpus, &machine.buses))
        .and_then(|()| server.map_or(Ok(()), |server| crew.start_api(server)))
        .and_then(|()| live.place(crew.threads(), &machine.sched))
        .and_then(|()| machine.sandbox.enter())
        .and_then(|filters| filters.confine(role));
    if done.is_ok() {
        // The guest's first instruction finds nobody with more rights than in the end.
        crew.gate.open(true);
        log::info!("the guest runs");
        wait_for_end(&mut events, &live);
    }
    let end = crew.stop();
    log::info!("the machine has ended: {end:?}");
    done.map(|()| end)
}

fn wait_for_end(events: &mut Loop, live: &Live) {
    while live.ender.ended().is_none() {
        // Rounded up: what is due must be past when the wait is over.
        let wait = live.next().map(|next| next.as_millis() + 1);
        let wait = wait.map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        match events.run_with_timeout(wait) {
            Ok(_) => live.due(),
            Err(_) => live.ender.end(End::Crash),
        }
    }
}

/// The threads of a machine. They wait at a gate, and confine themselves behind it.
struct Crew {
    live: Arc<Live>,
    gate: Arc<Gate>,
    filters: Filters,
    /// The first is `vmm-io`, then come the vCPUs', then `vmm-api` if there is one.
    threads: Vec<JoinHandle<()>>,
    has_api: bool,
}

impl Crew {
    fn new(live: Arc<Live>, filters: Filters) -> Self {
        Self {
            live,
            gate: Arc::default(),
            filters,
            threads: Vec::new(),
            has_api: false,
        }
    }

    fn start_io(&mut self, workers: Vec<Worker>, console: Console, role: Role) -> Result<()> {
        let mut events = event_loop(&self.live.ender)?;
        events.add_subscriber(Box::new(console));
        for worker in workers {
            events.add_subscriber(worker);
        }
        self.start_loop("vmm-io", role, events)
    }

    fn start_api(&mut self, server: Server) -> Result<()> {
        let mut events = event_loop(&self.live.ender)?;
        events.add_subscriber(Box::new(server));
        self.has_api = true;
        self.start_loop("vmm-api", Role::Steer, events)
    }

    fn start_loop(&mut self, name: &str, role: Role, mut events: Loop) -> Result<()> {
        self.start(name.into(), role, move |ender| {
            while ender.ended().is_none() {
                if events.run().is_err() {
                    ender.end(End::Crash);
                }
            }
        })
    }

    fn start_vcpus(&mut self, vcpus: Vec<VcpuFd>, buses: &Arc<Buses>) -> Result<()> {
        for (id, fd) in (0..).zip(vcpus) {
            let (buses, live) = (buses.clone(), self.live.clone());
            self.start(format!("vcpu{id}"), Role::Vcpu, move |ender| {
                vcpu::run(fd, id, &buses, &live.control, ender);
            })?;
        }
        Ok(())
    }

    fn start(
        &mut self,
        name: String,
        role: Role,
        body: impl FnOnce(&Ender) + Send + 'static,
    ) -> Result<()> {
        let number = self.threads.len();
        let (gate, filters) = (self.gate.clone(), self.filters.clone());
        let at_exit = EndAtExit(self.live.ender.clone());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || {
                if !gate.pass(number) {
                    return;
                }
                match filters.confine(role) {
                    Ok(()) => body(&at_exit.0),
                    Err(error) => log::error!("{error}"),
                }
            })
            .map_err(Error::system("start a thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    /// All threads' ids, once they are at the gate.
    fn threads(&self) -> Threads {
        let mut tids = self.gate.threads(self.threads.len());
        Threads {
            api: self.has_api.then(|| tids.pop()).flatten(),
            io: tids.remove(0),
            vcpus: tids,
            main: own_tid(),
        }
    }

    /// Ends all threads; that is a crash if there is no other reason yet.
    fn stop(self) -> End {
        let ender = &self.live.ender;
        let end = ender.ended().unwrap_or(End::Crash);
        ender.end(end);
        self.gate.open(false);
        self.live.control.wake();
        // A kick can come just before a thread enters the guest or a system call:
        // it is repeated until all have ended.
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
                let _ = thread.kill(SIGRTMIN());
            }
            thread::sleep(KICK_INTERVAL);
        }
        for thread in self.threads {
            let _ = thread.join();
        }
        end
    }
}

/// The signal's only work is to bring a vCPU's thread out of the guest.
extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
