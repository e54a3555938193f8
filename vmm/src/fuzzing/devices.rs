//! The virtio devices.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;

use rustix::fs::{MemfdFlags, memfd_create};

use super::driver::drive;
use crate::config::{Disk, Net};
use crate::devices::{block, net, rng};

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
        tap: File::from(OwnedFd::from(tap)),
        mac: Some([2, 0, 0, 0, 0, 1]),
    };
    let mut frame = [0; 1 << 17];
    let world = |bytes: &[u8]| {
        let _ = wire.send(bytes);
        while wire.recv(&mut frame).is_ok() {}
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
