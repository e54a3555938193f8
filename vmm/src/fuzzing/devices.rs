//! The virtio devices.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::driver::drive;
use crate::config::{Disk, Net};
use crate::devices::{block, net, rng, vsock};

const SECTORS: u64 = 8;

thread_local! {
    static IMAGE: File = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a file").into();
}

/// A disk of eight sectors; the input's first byte says whether it is read-only.
pub fn block(input: &[u8]) {
    let Some((&first, steps)) = input.split_first() else {
        return;
    };
    let file = IMAGE.with(|image| {
        let _ = image.write_all_at(&[7; 512 * SECTORS as usize], 0);
        image.as_fd().try_clone_to_owned().expect("a file").into()
    });
    let disk = Disk {
        index: 0,
        file,
        sectors: SECTORS,
        read_only: first & 1 == 1,
    };
    drive(
        steps,
        |_| (),
        |harness| {
            let [queue] = harness.attach(block::identity(&disk), [block::QUEUE_SIZE]);
            harness.serve(block::Worker { disk, queue });
        },
    );
    let length = IMAGE.with(|image| image.metadata().expect("a file").len());
    assert_eq!(length, 512 * SECTORS, "a guest wrote past its disk's end");
}

/// A network device on a wire.
pub fn net(input: &[u8]) {
    let (tap, wire) = UnixDatagram::pair().expect("a wire");
    for end in [&tap, &wire] {
        end.set_nonblocking(true).expect("a wire");
    }
    let net = Net {
        tap: net::Tap::mock(OwnedFd::from(tap).into()),
        mac: Some([2, 0, 0, 0, 0, 1]),
    };
    let world = |bytes: &[u8]| {
        let _ = wire.send(bytes);
        // The rest of a frame is dropped.
        while wire.recv(&mut [0]).is_ok() {}
    };
    drive(input, world, |harness| {
        let [to_guest, from_guest] = harness.attach(net::identity(&net), net::QUEUE_SIZES);
        harness.serve(net::Worker::new(net.tap, to_guest, from_guest));
    });
}

/// The source of random bytes.
pub fn rng(input: &[u8]) {
    drive(
        input,
        |_| (),
        |harness| {
            let [queue] = harness.attach(rng::identity(), [rng::QUEUE_SIZE]);
            harness.serve(rng::Worker { queue });
        },
    );
}

/// Sockets, with a program of the host at port 9, and one that comes and goes.
pub fn vsock(input: &[u8]) {
    HOST.with(|host| {
        let mut host = host.borrow_mut();
        let muxer = host.muxer();
        drive(
            input,
            |bytes| host.step(bytes),
            |harness| {
                let queues = harness.attach(vsock::identity(3), vsock::QUEUE_SIZES);
                harness.serve(vsock::Worker::new(muxer, queues));
            },
        );
        host.streams.clear();
    });
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

/// The host's programs.
struct Host {
    folder: PathBuf,
    path: PathBuf,
    listener: UnixListener,
    port_9: UnixListener,
    streams: Vec<UnixStream>,
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
        }
    }

    fn muxer(&self) -> vsock::Muxer {
        // What an earlier input left.
        while self.listener.accept().is_ok() || self.port_9.accept().is_ok() {}
        let listener = self.listener.try_clone().expect("a listener");
        vsock::Muxer::new(3, &self.path, listener).expect("streams")
    }

    /// The first byte says what happens, and to which stream; the others may be sent.
    fn step(&mut self, bytes: &[u8]) {
        while let Ok((stream, _)) = self.port_9.accept() {
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
                let _ = match what {
                    2 => stream.shutdown(Shutdown::Write),
                    3 => stream.shutdown(Shutdown::Read),
                    4 => stream.read(&mut [0; 1 << 16]).map(drop),
                    _ => stream.write(bytes).map(drop),
                };
            }
        }
    }

    fn keep(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).expect("a stream");
        self.streams.push(stream);
    }
}
