//! Runs a machine: its threads, the terminal, signals, and its end.
//!
//! The main thread only waits for signals and for the end. `vmm-io` serves the
//! virtio devices and the console's input, and each vCPU has a thread of its own.

pub mod control;
mod crew;
pub mod gate;
pub mod live;
mod signals;
pub mod terminal;
mod vcpu;
mod watches;

use std::os::unix::net::UnixListener;
use std::path::Path;

use event_manager::SubscriberOps;

use crate::Result;
use crate::api::server::Server;
use crate::builder::Machine;
use crate::config::VmName;
use crate::exit::End;
use crate::notify::Manager;
use crate::observe::Observer;
use crate::sandbox::{Role, Use};
use crate::sched::{Group, Placement};

pub use terminal::RawTerminal;

use crew::Crew;
use live::Live;
use watches::{ChangeWatch, Loop, SignalWatch, StartWatch, event_loop};

/// Runs the machine until it ends, and tells why it did. With a name it has an API.
pub fn run(mut machine: Machine, named: Option<(VmName, UnixListener)>) -> Result<End> {
    let ender = machine.ender.clone();
    let signals = signals::prepare()?;
    // Threads that start later are in it from their first moment.
    let group = machine.sched.cgroup.as_ref();
    let group = group.map(|(path, layout)| Group::new(path, *layout));
    let mut group = group.transpose()?;
    if let (Some(group), true) = (&mut group, machine.sandbox.becomes_user()) {
        // Who is no longer root can't remove it.
        group.leave();
    }
    for (path, how) in group.iter().flat_map(Group::left_by) {
        machine.sandbox.allow(path, how);
    }
    let live = Live::new(
        ender.clone(),
        machine.power_button,
        Placement::new(group),
        machine.stop_timeout,
    )?;
    let mut events = event_loop(&ender)?;
    for signal in signals {
        events.add_subscriber(Box::new(SignalWatch::new(signal, &live)?));
    }
    events.add_subscriber(Box::new(ChangeWatch(live.clone())));
    let started = machine.started;
    let start_watch = StartWatch {
        started,
        live: live.clone(),
    };
    events.add_subscriber(Box::new(start_watch));
    let terminal = machine.on_stdio.then(RawTerminal::new);
    let _terminal = terminal.transpose()?;
    let sockets = [&machine.vsock_socket, &machine.console_socket];
    for socket in sockets.into_iter().flatten() {
        machine.sandbox.allow(socket.parent(), Use::Change);
    }
    if let Some((_, listener)) = &named {
        let address = listener.local_addr().ok();
        let path = address.as_ref().and_then(|address| address.as_pathname());
        if let Some(folder) = path.and_then(Path::parent) {
            machine.sandbox.allow(folder, Use::Change);
        }
    }

    // Who moves threads at the launch's end and removes files later may do more.
    let sched = &machine.sched;
    let steers = named.is_some() || sched.cgroup.is_some() || sched.launch.is_some();
    let role = if steers { Role::Steer } else { Role::Main };
    let io_role = match machine.vsock_socket {
        Some(_) => Role::IoStreams,
        None => Role::Io,
    };
    let server = named.map(|(name, listener)| {
        let observer = Observer::new(live.clone(), name, machine.pv, machine.mem, &machine.vcpus);
        Server::new(listener, observer.counting(machine.counted))
    });
    let server = server.transpose()?;
    let manager = Manager::find();
    let mut crew = Crew::new(live.clone(), machine.sandbox.filters());
    let done = crew
        .start_io(machine.workers, machine.console, io_role)
        .and_then(|()| crew.start_vcpus(machine.vcpus, &machine.buses))
        .and_then(|()| server.map_or(Ok(()), |server| crew.start_api(server)))
        .and_then(|()| live.place(crew.threads(), &machine.sched))
        .and_then(|()| machine.sandbox.enter())
        .and_then(|filters| crew.confine(&filters, role))
        .map(|()| manager.ready());
    if done.is_ok() {
        // The guest's first instruction finds nobody with more rights than in the end.
        crew.gate.work();
        give_back_heap();
        log::info!("the guest runs");
        wait_for_end(&mut events, &live);
    }
    let end = crew.stop();
    log::info!("the machine has ended: {end:?}");
    done.map(|()| end)
}

/// What the start took of the heap for options, tables and filters and needs no more goes back
/// to the host: a machine idles far longer than it starts.
fn give_back_heap() {
    // SAFETY: it takes a number, and gives back only pages without anything allocated in them.
    unsafe { libc::malloc_trim(0) };
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
