//! The virtio devices.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

use super::driver::drive;
use super::seen::Seen;
use crate::devices::{balloon, block, net, rng, vsock};

const SECTORS: u64 = 8;

thread_local! {
    static IMAGE: File = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file").into();
    static WIRE: [UnixDatagram; 2] = wire();
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

/// A disk of eight sectors; the input's first byte says whether it is read-only.
pub fn block(input: &[u8], seen: &mut Seen) {
    let Some((&first, steps)) = input.split_first() else {
        return;
    };
    let file = IMAGE.with(|image| {
        let _ = image.write_all_at(&[7; 512 * SECTORS as usize], 0);
        image.as_fd().try_clone_to_owned().expect("a file").into()
    });
    let disk = block::Disk {
        read_only: first & 1 == 1,
        discard: first & 2 == 0,
        ..block::Disk::mock(file, SECTORS)
    };
    drive(
        steps,
        seen,
        |_, _| (),
        |harness| {
            let [queue] = harness.attach(block::identity(&disk), [block::QUEUE_SIZE]);
            harness.serve(block::Worker { disk, queue });
        },
    );
    IMAGE.with(|image| {
        let length = image.metadata().expect("a file").len();
        assert_eq!(length, 512 * SECTORS, "a guest wrote past its disk's end");
        seen.note_with(|| {
            let mut bytes = vec![0; length as usize];
            image.read_exact_at(&mut bytes, 0).expect("a file");
            bytes
        });
    });
}

fn wire() -> [UnixDatagram; 2] {
    let (tap, wire) = UnixDatagram::pair().expect("a wire");
    for end in [&tap, &wire] {
        end.set_nonblocking(true).expect("a wire");
    }
    [tap, wire]
}

/// A network device on a wire.
pub fn net(input: &[u8], seen: &mut Seen) {
    WIRE.with(|[tap, wire]| {
        // The rest of a frame is dropped.
        let drain = |end: &UnixDatagram, seen: &mut Seen| {
            let mut byte = [0];
            while end.recv(&mut byte).is_ok() {
                seen.note(byte);
            }
        };
        let file = OwnedFd::from(tap.try_clone().expect("a wire")).into();
        let net = net::Net {
            tap: net::Tap::mock(file),
            mac: Some([2, 0, 0, 0, 0, 1]),
        };
        let world = |bytes: &[u8], seen: &mut Seen| {
            let _ = wire.send(bytes);
            drain(wire, seen);
        };
        drive(input, seen, world, |harness| {
            let [to_guest, from_guest] = harness.attach(net::identity(&net), net::QUEUE_SIZES);
            harness.serve(net::Worker::new(net.tap, to_guest, from_guest));
        });
        // The next input finds nothing under way.
        for end in [tap, wire] {
            drain(end, seen);
        }
    });
}

/// The source of random bytes, which are the same each time.
pub fn rng(input: &[u8], seen: &mut Seen) {
    let source = |bytes: &mut [u8]| {
        bytes.fill(0x5a);
        Some(bytes.len())
    };
    drive(
        input,
        seen,
        |_, _| (),
        |harness| {
            let [queue] = harness.attach(rng::identity(), [rng::QUEUE_SIZE]);
            harness.serve(rng::Worker { queue, source });
        },
    );
}

/// The balloon. What the guest reports as free reads as zeros, and nothing else does.
pub fn balloon(input: &[u8], seen: &mut Seen) {
    drive(
        input,
        seen,
        |_, _| (),
        |harness| {
            let queues = harness.attach(balloon::identity(), balloon::QUEUE_SIZES);
            harness.serve(balloon::Worker::new(queues));
        },
    );
}

/// Sockets, with a program of the host at port 9, and one that comes and goes.
pub fn vsock(input: &[u8], seen: &mut Seen) {
    HOST.with(|host| {
        let mut host = host.borrow_mut();
        let muxer = host.muxer();
        drive(
            input,
            seen,
            |bytes, seen| host.step(bytes, seen),
            |harness| {
                let queues = harness.attach(vsock::identity(3), vsock::QUEUE_SIZES);
                harness.serve(vsock::Worker::new(muxer, queues));
            },
        );
        host.streams.clear();
    });
}

/// The host's programs.
struct Host {
    folder: PathBuf,
    path: PathBuf,
    listener: UnixListener,
    port_9: UnixListener,
    streams: Vec<UnixStream>,
    buffer: Vec<u8>,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Host {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!(
            "vmm-fuzzing-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("v");
        let listener = |path: PathBuf| {
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(path).expect("a listener");
            listener.set_nonblocking(true).expect("a listener");
            listener
        };
        Self {
            listener: listener(path.clone()),
            port_9: listener(folder.join("v_9")),
            path,
            folder,
            streams: Vec::new(),
            buffer: vec![0; 1 << 16],
        }
    }

    fn muxer(&self) -> vsock::Muxer {
        // What an earlier input left.
        for listener in [&self.listener, &self.port_9] {
            while accept(listener).is_some() {}
        }
        let listener = self.listener.try_clone().expect("a listener");
        vsock::Muxer::new(3, &self.path, listener).expect("streams")
    }

    /// The first byte says what happens, and to which stream; the others may be sent.
    fn step(&mut self, bytes: &[u8], seen: &mut Seen) {
        while let Some(stream) = accept(&self.port_9) {
            self.keep(stream);
        }
        let Some((&first, bytes)) = bytes.split_first() else {
            return;
        };
        let index = usize::from(first >> 3);
        match first & 7 {
            0 => {
                if let Ok(mut stream) = UnixStream::connect(&self.path) {
                    let _ = stream.write_all(format!("CONNECT {index}\n").as_bytes());
                    self.keep(stream);
                }
            }
            1 if index < self.streams.len() => drop(self.streams.swap_remove(index)),
            what => {
                let Some(stream) = self.streams.get_mut(index) else {
                    return;
                };
                let done = match what {
                    2 => stream.shutdown(Shutdown::Write).map(|()| 0),
                    3 => stream.shutdown(Shutdown::Read).map(|()| 0),
                    4 => stream.read(&mut self.buffer).inspect(|&size| {
                        seen.note(&self.buffer[..size]);
                    }),
                    _ => stream.write(bytes),
                };
                seen.note(done.ok());
            }
        }
    }

    fn keep(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).expect("a stream");
        self.streams.push(stream);
    }
}

/// A stream that waits, if one does. Accepting none is dear, asking is cheap.
fn accept(listener: &UnixListener) -> Option<UnixStream> {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    match poll(&mut waiting, Some(&Timespec::default())) {
        Ok(1) => Some(listener.accept().ok()?.0),
        _ => None,
    }
}
