//! How messages travel between runtime and plugin: ttrpc (containerd/ttrpc, PROTOCOL.md) in
//! both directions over one socket, in NRI's frames (containerd/nri, pkg/net/multiplex).
//!
//! A frame is the number of a connection and a length, each 32 bits with the highest byte
//! first, and so many bytes of that connection. A message of a connection is a length, the
//! number of a stream, a kind, a byte of flags, and so many bytes. The crate ttrpc serves
//! sockets of its own only, so it can't be used within frames.

/// The connection in which the runtime asks the plugin.
pub const PLUGIN: u32 = 1;
/// The connection in which the plugin asks the runtime.
pub const RUNTIME: u32 = 2;

/// A message that asks.
pub const REQUEST: u8 = 1;
/// A message that answers.
pub const RESPONSE: u8 = 2;

const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;
/// The most that a message has, in bytes, and its header not counted: ttrpc's own bound.
const MESSAGE_MOST: usize = 4 << 20;
/// The most that is sent in one frame: the runtime reads into a buffer of this size, and a
/// frame that doesn't fit is an error to it.
const FRAME_SENT: usize = 4096;

/// The other end doesn't keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A frame is longer than any message.
    #[error("a frame of {0} bytes")]
    Frame(usize),
    /// A message is longer than ttrpc allows.
    #[error("a message of {0} bytes")]
    Message(usize),
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// [`PLUGIN`] or [`RUNTIME`].
    pub connection: u32,
    /// Answers have that of their question.
    pub stream: u32,
    /// [`REQUEST`], [`RESPONSE`], or what this plugin doesn't know.
    pub kind: u8,
    /// A request or response as protobuf has it.
    pub data: Vec<u8>,
}

impl Message {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(MESSAGE_HEADER + self.data.len());
        message.extend(length(self.data.len()));
        message.extend(self.stream.to_be_bytes());
        message.extend([self.kind, 0]);
        message.extend(&self.data);
        let mut sent = Vec::with_capacity(message.len() + FRAME_HEADER);
        for part in message.chunks(FRAME_SENT) {
            sent.extend(self.connection.to_be_bytes());
            sent.extend(length(part.len()));
            sent.extend(part);
        }
        sent
    }
}

/// A length that is below 4 GiB, which all are that are sent.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

/// Puts messages together from what was received.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The beginning of a frame.
    received: Vec<u8>,
    plugin: Vec<u8>,
    runtime: Vec<u8>,
}

impl Incoming {
    /// Takes bytes as they come; returns the messages that they complete.
    ///
    /// # Errors
    /// When the other end doesn't keep to the protocol: what follows makes no sense.
    pub fn add(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Broken> {
        self.received.extend(bytes);
        let received = std::mem::take(&mut self.received);
        let mut messages = Vec::new();
        let mut rest = received.as_slice();
        while let Some((header, after)) = rest.split_at_checked(FRAME_HEADER) {
            let (connection, most) = (number(header, 0), MESSAGE_MOST + MESSAGE_HEADER);
            let size = number(header, 4) as usize;
            if size > most {
                return Err(Broken::Frame(size));
            }
            let Some((part, after)) = after.split_at_checked(size) else {
                break;
            };
            rest = after;
            let buffer = match connection {
                PLUGIN => &mut self.plugin,
                RUNTIME => &mut self.runtime,
                // Of a later version: nobody listens there.
                _ => continue,
            };
            buffer.extend(part);
            take(connection, buffer, &mut messages)?;
        }
        self.received = rest.to_vec();
        Ok(messages)
    }
}

/// Takes the complete messages off a connection's bytes.
fn take(connection: u32, buffer: &mut Vec<u8>, messages: &mut Vec<Message>) -> Result<(), Broken> {
    let mut rest = buffer.as_slice();
    while let Some((header, after)) = rest.split_at_checked(MESSAGE_HEADER) {
        let size = number(header, 0) as usize;
        if size > MESSAGE_MOST {
            return Err(Broken::Message(size));
        }
        let Some((data, after)) = after.split_at_checked(size) else {
            break;
        };
        rest = after;
        messages.push(Message {
            connection,
            stream: number(header, 4),
            kind: header[8],
            data: data.to_vec(),
        });
    }
    let taken = buffer.len() - rest.len();
    buffer.drain(..taken);
    Ok(())
}

/// The number in four bytes of a header.
fn number(header: &[u8], at: usize) -> u32 {
    let bytes = header[at..].first_chunk().copied();
    u32::from_be_bytes(bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(connection: u32, stream: u32, data: &[u8]) -> Message {
        Message {
            connection,
            stream,
            kind: REQUEST,
            data: data.into(),
        }
    }

    /// The bytes as the protocol's documents have them.
    #[test]
    fn a_message_has_two_headers() {
        let sent = message(RUNTIME, 3, b"ab").encode();
        let frame = [0, 0, 0, 2, 0, 0, 0, 12];
        let header = [0, 0, 0, 2, 0, 0, 0, 3, 1, 0];
        assert_eq!(sent, [&frame[..], &header, b"ab"].concat());
    }

    #[test]
    fn a_long_message_is_sent_in_frames_that_the_runtime_takes() {
        let long = message(PLUGIN, 1, &vec![7; 10_000]);
        let sent = long.encode();
        assert_eq!(number(&sent, 4), 4096);
        assert_eq!(sent.len(), 10_000 + MESSAGE_HEADER + 3 * FRAME_HEADER);
        assert_eq!(Incoming::default().add(&sent), Ok(vec![long]));
    }

    /// Go writes headers and bodies apart, and both directions' frames are mixed.
    #[test]
    fn messages_come_in_any_pieces() {
        let all = [
            message(PLUGIN, 1, b"one"),
            message(9, 1, b"nobody's"),
            message(RUNTIME, 1, b""),
            message(PLUGIN, 3, &[1; 300]),
        ];
        let bytes: Vec<u8> = all.iter().flat_map(Message::encode).collect();
        for size in [1, 2, 7, 8, 9, 100, bytes.len()] {
            let mut incoming = Incoming::default();
            let came = bytes
                .chunks(size)
                .flat_map(|part| incoming.add(part).unwrap());
            let came: Vec<_> = came.collect();
            assert_eq!(
                came,
                [all[0].clone(), all[2].clone(), all[3].clone()],
                "{size}"
            );
        }
    }

    /// Nothing is kept for what can't be a message.
    #[test]
    fn lengths_have_a_bound() {
        let frame = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(
            Incoming::default().add(&frame),
            Err(Broken::Frame(u32::MAX as usize))
        );
        let mut long = message(PLUGIN, 1, b"").encode();
        long[8..12].copy_from_slice(&[0, 0x40, 0, 1]);
        let broken = Err(Broken::Message(MESSAGE_MOST + 1));
        assert_eq!(Incoming::default().add(&long), broken);
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_broken(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut incoming = Incoming::default();
            for part in parts {
                if incoming.add(&part).is_err() {
                    break;
                }
            }
        }
    }
}
