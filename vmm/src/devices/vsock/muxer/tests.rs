use std::io::Write;
use std::net::Shutdown;

use tempfile::TempDir;

use super::*;
use crate::devices::vsock::connection::BUF_ALLOC;
use crate::devices::vsock::packet::{
    VIRTIO_VSOCK_OP_CREDIT_REQUEST, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_SHUTDOWN, VIRTIO_VSOCK_SHUTDOWN_RCV, VIRTIO_VSOCK_SHUTDOWN_SEND,
};

const CID: u64 = 3;
const PORTS: Ports = Ports {
    host: 9,
    guest: 1000,
};

/// A guest that has a listener of the host's at port 9.
struct Guest {
    muxer: Muxer,
    listener: UnixListener,
    folder: TempDir,
}

fn guest() -> Guest {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v");
    let own = UnixListener::bind(&path).unwrap();
    own.set_nonblocking(true).unwrap();
    let listener = UnixListener::bind(folder.path().join("v_9")).unwrap();
    Guest {
        muxer: Muxer::new(CID, &path, own).unwrap(),
        listener,
        folder,
    }
}

impl Guest {
    /// Sends a packet with room for 1,000 bytes.
    fn send(&mut self, ports: Ports, operation: u16, bytes: &[u8]) {
        self.send_with(ports, operation, bytes, |_| ());
    }

    fn send_with(
        &mut self,
        ports: Ports,
        operation: u16,
        bytes: &[u8],
        change: impl FnOnce(&mut Header),
    ) {
        let mut header = Header {
            src_cid: CID.into(),
            dst_cid: VMADDR_CID_HOST.into(),
            src_port: ports.guest.into(),
            dst_port: ports.host.into(),
            len: (bytes.len() as u32).into(),
            r#type: VIRTIO_VSOCK_TYPE_STREAM.into(),
            op: operation.into(),
            buf_alloc: 1000.into(),
            ..Header::default()
        };
        change(&mut header);
        self.muxer.take(&header, bytes);
    }

    /// The next packet with its bytes, if there is one.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.muxer.host_events();
        if !self.muxer.fetch() {
            return None;
        }
        let (header, bytes) = self.muxer.deliver(4096).unwrap();
        Some((header, bytes.to_vec()))
    }

    #[track_caller]
    fn expect(&mut self, operation: u16) -> Header {
        let (header, _) = self.receive().expect("a packet");
        assert_eq!(header.op.get(), operation);
        header
    }

    /// A stream that the guest has opened to port 9.
    fn connected(&mut self) -> UnixStream {
        self.send(PORTS, VIRTIO_VSOCK_OP_REQUEST, &[]);
        let (stream, _) = self.listener.accept().unwrap();
        self.expect(VIRTIO_VSOCK_OP_RESPONSE);
        stream
    }

    /// A program of the host that has said this.
    fn host_says(&mut self, line: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.folder.path().join("v")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        // One event accepts, the next reads.
        self.muxer.host_events();
        self.muxer.host_events();
        stream
    }
}

fn read(mut stream: &UnixStream, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[track_caller]
fn assert_closed(mut stream: &UnixStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

/// Bytes that nobody has read turn the end into a reset.
#[track_caller]
fn assert_hung_up(mut stream: &UnixStream) {
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn a_guest_reaches_a_program_of_the_host() {
    let mut guest = guest();
    let mut stream = guest.connected();
    guest.send(PORTS, VIRTIO_VSOCK_OP_RW, b"question");
    assert_eq!(read(&stream, 8), b"question");
    stream.write_all(b"answer").unwrap();
    let (header, bytes) = guest.receive().unwrap();
    assert_eq!(header.op.get(), VIRTIO_VSOCK_OP_RW);
    assert_eq!(header.fwd_cnt.get(), 8);
    assert_eq!(
        (header.src_cid.get(), header.dst_cid.get()),
        (VMADDR_CID_HOST, CID)
    );
    assert_eq!((header.src_port.get(), header.dst_port.get()), (9, 1000));
    assert_eq!(bytes, b"answer");
}

#[test]
fn a_program_of_the_host_reaches_a_guest() {
    let mut guest = guest();
    let mut stream = guest.host_says("CONNECT 52\nearly");
    let request = guest.expect(VIRTIO_VSOCK_OP_REQUEST);
    assert_eq!(request.dst_port.get(), 52);
    let ports = Ports {
        host: request.src_port.get(),
        guest: 52,
    };
    assert!(guest.receive().is_none());
    guest.send(ports, VIRTIO_VSOCK_OP_RESPONSE, &[]);
    let line = format!("OK {}\n", ports.host);
    assert_eq!(read(&stream, line.len()), line.as_bytes());
    let (header, bytes) = guest.receive().unwrap();
    // What was said to the host's program is none of the guest's bytes.
    assert_eq!((&bytes[..], header.fwd_cnt.get()), (&b"early"[..], 0));
    guest.send(ports, VIRTIO_VSOCK_OP_RW, b"hello");
    assert_eq!(read(&stream, 5), b"hello");
    stream.write_all(b"x").unwrap();
    assert_eq!(guest.receive().unwrap().1, b"x");
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let mut guest = guest();
    let ports = Ports { host: 8, ..PORTS };
    guest.send(ports, VIRTIO_VSOCK_OP_REQUEST, &[]);
    assert_eq!(guest.expect(VIRTIO_VSOCK_OP_RST).dst_port.get(), 1000);
    assert_eq!(guest.muxer.streams(), 0);
    let stream = guest.host_says("CONNECT 52\n");
    let host = guest.expect(VIRTIO_VSOCK_OP_REQUEST).src_port.get();
    guest.send(Ports { host, guest: 52 }, VIRTIO_VSOCK_OP_RST, &[]);
    assert_closed(&stream);
    assert_eq!(guest.muxer.streams(), 0);
}

#[test]
fn lines_that_are_wrong_are_hung_up_on() {
    let mut guest = guest();
    let long = format!("CONNECT {}", "0".repeat(LINE));
    for line in [
        "\n",
        "CONNECT\n",
        "CONNECT x\n",
        "CONNECT -1\n",
        "connect 5\n",
        &long,
    ] {
        assert_hung_up(&guest.host_says(line));
        assert_eq!(guest.muxer.streams(), 0, "{line}");
    }
    drop(guest.host_says("CONN"));
    guest.muxer.host_events();
    assert_eq!(guest.muxer.streams(), 0);
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = guest();
    let mut stream = guest.connected();
    stream.write_all(&[7; 1500]).unwrap();
    assert_eq!(guest.receive().unwrap().1.len(), 1000);
    assert!(guest.receive().is_none());
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_CREDIT_UPDATE, &[], |header| {
        header.fwd_cnt = 200.into()
    });
    assert_eq!(guest.receive().unwrap().1.len(), 200);
    assert!(guest.receive().is_none());
    // Numbers that make no sense are no room.
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_CREDIT_UPDATE, &[], |header| {
        header.fwd_cnt = 5000.into()
    });
    assert!(guest.receive().is_none());
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_cut_off() {
    let mut guest = guest();
    let stream = guest.connected();
    // As long as the socket takes nothing more, and then some.
    let mut sent = 0;
    while guest.muxer.find(PORTS).is_some() && sent < 1 << 30 {
        guest.send(PORTS, VIRTIO_VSOCK_OP_RW, &[1; 4096]);
        sent += 4096;
        if let Some((header, _)) = guest.receive() {
            if header.op.get() == VIRTIO_VSOCK_OP_RST {
                break;
            }
            assert_eq!(header.op.get(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
        }
    }
    assert_eq!(guest.muxer.streams(), 0);
    drop(stream);
}

#[test]
fn what_waits_for_the_host_is_not_lost() {
    let mut guest = guest();
    let stream = guest.connected();
    // A good guest: never more under way than the room it knows of.
    let (mut sent, mut forwarded, mut received) = (0u32, 0u32, 0usize);
    let total = 4 << 20;
    while received < total {
        while sent - forwarded + 4096 <= BUF_ALLOC as u32 && (sent as usize) < total {
            guest.send(PORTS, VIRTIO_VSOCK_OP_RW, &[sent as u8; 4096]);
            sent += 4096;
        }
        let mut bytes = [0; 10_000];
        received += (&stream).read(&mut bytes).unwrap();
        while let Some((header, _)) = guest.receive() {
            assert_eq!(header.op.get(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
            forwarded = header.fwd_cnt.get();
        }
    }
    assert_eq!(received, sent as usize);
    guest.send(PORTS, VIRTIO_VSOCK_OP_CREDIT_REQUEST, &[]);
    assert_eq!(
        guest.expect(VIRTIO_VSOCK_OP_CREDIT_UPDATE).fwd_cnt.get(),
        sent
    );
}

#[test]
fn a_packet_may_be_handed_over_in_parts() {
    let mut guest = guest();
    let mut stream = guest.connected();
    stream.write_all(b"abcde").unwrap();
    guest.muxer.host_events();
    assert!(guest.muxer.fetch());
    assert!(guest.muxer.deliver(0).is_none());
    for expected in [&b"ab"[..], b"cd", b"e"] {
        assert!(guest.muxer.fetch());
        let (header, bytes) = guest.muxer.deliver(2).unwrap();
        assert_eq!(header.len.get() as usize, bytes.len());
        assert_eq!(bytes, expected);
    }
    assert!(!guest.muxer.fetch());
}

#[test]
fn each_side_may_stop_sending_first() {
    let mut guest = guest();
    let stream = guest.connected();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        guest.expect(VIRTIO_VSOCK_OP_SHUTDOWN).flags.get(),
        VIRTIO_VSOCK_SHUTDOWN_SEND
    );
    guest.send(PORTS, VIRTIO_VSOCK_OP_RW, b"still here");
    assert_eq!(read(&stream, 10), b"still here");
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_SHUTDOWN, &[], |header| {
        header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND.into()
    });
    assert_closed(&stream);
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_SHUTDOWN, &[], |header| {
        header.flags = VIRTIO_VSOCK_SHUTDOWN_RCV.into()
    });
    guest.expect(VIRTIO_VSOCK_OP_RST);
    assert_eq!(guest.muxer.streams(), 0);
}

#[test]
fn what_a_program_sent_before_it_went_arrives() {
    let mut guest = guest();
    let mut stream = guest.connected();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    guest.send(PORTS, VIRTIO_VSOCK_OP_RW, b"to nobody");
    assert_eq!(guest.receive().unwrap().1, b"bye");
    assert_eq!(
        guest.expect(VIRTIO_VSOCK_OP_SHUTDOWN).flags.get(),
        VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV
    );
    assert_eq!(guest.muxer.streams(), 0);
}

#[test]
fn strangers_are_refused_and_resets_are_not_answered() {
    let mut guest = guest();
    for operation in [
        VIRTIO_VSOCK_OP_RESPONSE,
        VIRTIO_VSOCK_OP_RW,
        VIRTIO_VSOCK_OP_CREDIT_UPDATE,
        VIRTIO_VSOCK_OP_SHUTDOWN,
        0,
        77,
    ] {
        guest.send(PORTS, operation, &[]);
        guest.expect(VIRTIO_VSOCK_OP_RST);
    }
    guest.send(PORTS, VIRTIO_VSOCK_OP_RST, &[]);
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_RW, &[], |header| {
        header.src_cid = 4.into()
    });
    assert!(guest.receive().is_none());
    // Another kind of socket, another receiver.
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_REQUEST, &[], |header| {
        header.r#type = 2.into()
    });
    assert_eq!(guest.expect(VIRTIO_VSOCK_OP_RST).r#type.get(), 2);
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_REQUEST, &[], |header| {
        header.dst_cid = 1.into()
    });
    assert_eq!(guest.expect(VIRTIO_VSOCK_OP_RST).src_cid.get(), 1);
}

#[test]
fn another_driver_knows_no_stream() {
    let mut guest = guest();
    let stream = guest.connected();
    let waits = guest.host_says("CONNECT 52\n");
    guest.muxer.forget_guest();
    assert_closed(&stream);
    // Who has just called is passed on.
    assert_eq!(guest.expect(VIRTIO_VSOCK_OP_REQUEST).dst_port.get(), 52);
    guest.muxer.forget_guest();
    assert_closed(&waits);
    assert_eq!(guest.muxer.streams(), 0);
}

#[test]
fn packets_out_of_turn_break_a_stream() {
    for operation in [VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, 0, 77] {
        let mut guest = guest();
        let stream = guest.connected();
        guest.send(PORTS, operation, &[]);
        guest.expect(VIRTIO_VSOCK_OP_RST);
        assert_closed(&stream);
    }
    let mut guest = guest();
    let _stream = guest.connected();
    guest.send_with(PORTS, VIRTIO_VSOCK_OP_SHUTDOWN, &[], |header| {
        header.flags = VIRTIO_VSOCK_SHUTDOWN_SEND.into()
    });
    guest.send(PORTS, VIRTIO_VSOCK_OP_RW, b"after all");
    guest.expect(VIRTIO_VSOCK_OP_RST);
}

#[test]
fn streams_and_answers_are_bounded() {
    let mut guest = guest();
    let mut streams = Vec::new();
    for port in 0..STREAMS as u32 {
        let ports = Ports {
            guest: port,
            ..PORTS
        };
        guest.send(ports, VIRTIO_VSOCK_OP_REQUEST, &[]);
        streams.push(guest.listener.accept().unwrap());
        guest.expect(VIRTIO_VSOCK_OP_RESPONSE);
    }
    guest.send(PORTS, VIRTIO_VSOCK_OP_REQUEST, &[]);
    guest.expect(VIRTIO_VSOCK_OP_RST);
    assert_eq!(guest.muxer.streams(), STREAMS);
    assert_hung_up(&guest.host_says("CONNECT 1\n"));
    let stranger = Ports { host: 7, guest: 7 };
    while guest.muxer.is_ready() {
        guest.send(stranger, VIRTIO_VSOCK_OP_RW, &[]);
    }
    assert_eq!(guest.muxer.answers.len(), ANSWERS);
}

#[test]
fn only_data_has_bytes_and_not_too_many() {
    let header = |operation: u16, length: usize| Header {
        op: operation.into(),
        len: (length as u32).into(),
        ..Header::default()
    };
    assert_eq!(payload_size(&header(VIRTIO_VSOCK_OP_RW, 5), 5), Some(5));
    assert_eq!(payload_size(&header(VIRTIO_VSOCK_OP_RW, 6), 5), None);
    assert_eq!(
        payload_size(&header(VIRTIO_VSOCK_OP_RW, PAYLOAD + 1), 1 << 20),
        None
    );
    assert_eq!(
        payload_size(&header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 1), 5),
        None
    );
    assert_eq!(
        payload_size(&header(VIRTIO_VSOCK_OP_CREDIT_UPDATE, 0), 0),
        Some(0)
    );
}
