//! The threads of a machine.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use event_manager::SubscriberOps;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::gate::{Gate, own_tid};
use super::live::Live;
use super::vcpu;
use super::watches::{Loop, PauseWatch, event_loop};
use crate::api::server::Server;
use crate::builder::Worker;
use crate::bus::Buses;
use crate::devices::serial::Console;
use crate::exit::{End, Ender};
use crate::sandbox::{Filters, Role};
use crate::sched::Threads;
use crate::{Error, Result};

/// How long to wait before vCPUs that still run are kicked again.
const KICK_INTERVAL: Duration = Duration::from_millis(1);

/// How long a thread may take to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends the machine when a thread ends, whatever the reason.
struct EndAtExit(Ender);

impl Drop for EndAtExit {
    fn drop(&mut self) {
        self.0.end(End::Crash);
    }
}

/// The threads of a machine. They confine themselves between two gates.
pub struct Crew {
    live: Arc<Live>,
    /// Where they wait.
    pub gate: Arc<Gate>,
    filters: Filters,
    /// The first is `vmm-io`, then come the vCPUs', then `vmm-api` if there is one.
    threads: Vec<JoinHandle<()>>,
    has_api: bool,
}

impl Crew {
    pub fn new(live: Arc<Live>, filters: Filters) -> Self {
        Self {
            live,
            gate: Arc::default(),
            filters,
            threads: Vec::new(),
            has_api: false,
        }
    }

    pub fn start_io(&mut self, workers: Vec<Worker>, console: Console, role: Role) -> Result<()> {
        let mut events = event_loop(&self.live.ender)?;
        events.add_subscriber(Box::new(PauseWatch(self.live.clone())));
        events.add_subscriber(Box::new(console));
        for worker in workers {
            events.add_subscriber(worker);
        }
        self.start_loop("vmm-io", role, events)
    }

    pub fn start_api(&mut self, server: Server) -> Result<()> {
        let mut events = event_loop(&self.live.ender)?;
        events.add_subscriber(Box::new(server));
        self.has_api = true;
        self.start_loop("vmm-api", Role::Api, events)
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

    pub fn start_vcpus(&mut self, vcpus: Vec<VcpuFd>, buses: &Arc<Buses>) -> Result<()> {
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
                if gate.pass(number, || filters.confine(role)) {
                    body(&at_exit.0);
                }
            })
            .map_err(Error::system("start a thread"))?;
        self.threads.push(thread);
        Ok(())
    }

    /// All threads' ids, once they are at the gate.
    pub fn threads(&self) -> Threads {
        let mut tids = self.gate.threads(self.threads.len());
        Threads {
            api: self.has_api.then(|| tids.pop()).flatten(),
            io: tids.remove(0),
            vcpus: tids,
            main: own_tid(),
        }
    }

    /// Has all threads confine themselves, this one too.
    pub fn confine(&self, filters: &Filters, role: Role) -> Result<()> {
        filters.confine(role)?;
        self.gate.confine(self.threads.len())
    }

    /// Ends all threads; that is a crash if there is no other reason yet. One that does not
    /// end in time is left to the end of the process.
    pub fn stop(self) -> End {
        let ender = &self.live.ender;
        let end = ender.ended().unwrap_or(End::Crash);
        ender.end(end);
        self.gate.end();
        self.live.control.wake();
        let limit = Instant::now() + PATIENCE;
        // A kick can come just before a thread enters the guest or a system call:
        // it is repeated until all have ended.
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > limit {
                log::error!("a disk, tap or terminal does not answer: its thread is left behind");
                return end;
            }
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
