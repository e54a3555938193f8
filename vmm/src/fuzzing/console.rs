//! The console: a guest that prints, and clients that come, type, read and go.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arbitrary::{Arbitrary, Unstructured};

use super::reuse::{Event, Parts};
use super::seen::Seen;
use crate::bus::Device;
use crate::devices::counters::{Counted, Counters};
use crate::devices::serial::{Console, Line, Place, SerialPort};

/// Rounds of the event loop that a step may cause: one that always has more is a hang.
const ROUNDS: usize = 64;
/// What a client may be sent though the guest has just printed nothing: the history.
const HISTORY: u64 = 64 * 1024;

/// Bytes that a step prints: less than this many.
const MOST: u16 = 2048;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The guest prints a byte so often.
    Print { value: u8, count: u16 },
    /// The guest accesses a register.
    Access { offset: u8, value: u8, write: bool },
    /// A client comes; the one before may be replaced.
    Connect,
    /// The client types.
    Type { value: u8, count: u8 },
    /// The client reads.
    Read { most: u16 },
    /// The client goes.
    Leave,
}

thread_local! {
    static HOST: Host = Host::new();
}

/// Where clients come.
struct Host {
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Host {
    fn new() -> Self {
        let name = format!(
            "vmm-console-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        Self { path, listener }
    }
}

/// A console at a socket.
pub fn console(input: &[u8], seen: &mut Seen) {
    HOST.with(|host| {
        // An earlier input's.
        while host.listener.accept().is_ok() {}
        Parts::with(|parts| run(host, parts, &mut Unstructured::new(input), seen));
    });
}

fn run(host: &Host, parts: &mut Parts, input: &mut Unstructured, seen: &mut Seen) {
    let counters = Arc::<Counters>::default();
    let (irq, drained, stuck) = (Event::default(), Event::default(), Event::default());
    let place = Place::at(host.listener.try_clone().expect("a listener"), None);
    let line = Line::new(place.sink, None, stuck.share(), counters.clone());
    let line = Arc::new(Mutex::new(line));
    let port = SerialPort::new(irq.share(), &drained.0, line.clone()).expect("a port");
    let port = Arc::new(Mutex::new(port));
    let console = Console::new((port.clone(), drained.share()), line, place.input);
    parts.serve(Box::new(console.expect("a console")));

    let mut client: Option<UnixStream> = None;
    let (mut printed, mut sent, mut clients) = (0u64, 0u64, 0u64);
    let mut buffer = vec![0; 1 << 16];
    while let Ok(step) = input.arbitrary::<Step>() {
        let port = || port.lock().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::Print { value, count } => {
                for _ in 0..count % MOST {
                    port().write(0, &[value]);
                }
                printed += u64::from(count % MOST);
            }
            Step::Access {
                offset,
                value,
                write,
            } => {
                let mut byte = [value];
                match write {
                    // May print, as well.
                    true => port().write(u64::from(offset % 8), &byte),
                    false => port().read(u64::from(offset % 8), &mut byte),
                }
                printed += u64::from(write && offset % 8 == 0);
                seen.note(byte);
            }
            Step::Connect => {
                let stream = UnixStream::connect(&host.path).expect("a stream");
                stream.set_nonblocking(true).expect("a stream");
                client = Some(stream);
                clients += 1;
            }
            Step::Type { value, count } => {
                let typed = client
                    .as_mut()
                    .map(|c| c.write(&vec![value; count.into()]).ok());
                seen.note(typed);
            }
            Step::Read { most } => {
                let read = client
                    .as_mut()
                    .map(|c| c.read(&mut buffer[..most.into()]).ok());
                let size = read.flatten().unwrap_or(0);
                sent += size as u64;
                seen.note(&buffer[..size]);
            }
            Step::Leave => client = None,
        }
        let rested = (0..ROUNDS).any(|_| !parts.turn());
        assert!(rested, "the console never comes to rest");
        if input.is_empty() {
            break;
        }
    }
    let name = "console".into();
    let stat = Counted { name, counters }.look();
    // In loopback nothing is printed.
    assert!(stat.from_guest_bytes <= printed, "{stat:?} {printed}");
    assert!(stat.dropped <= stat.from_guest_bytes, "{stat:?}");
    // "another client" for each that was replaced.
    let told = clients * (HISTORY + 64);
    assert!(sent <= stat.from_guest_bytes + told, "{sent} {stat:?}");
    seen.note((stat.from_guest_bytes, stat.to_guest_bytes, stat.dropped));
}
