//! One side of an HTTP/2 connection, for clients and Pods: evenkeel's own engine, and a socket.

use evenkeel_core::time::Instant;
use evenkeel_wire::http2::connection::{Connection, Event};
use evenkeel_wire::http2::error::Code;
use evenkeel_wire::http2::hpack::Form;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::out::Out;
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use evenkeel_wire::http2::connection::Part;
pub(crate) use evenkeel_wire::http2::streams::StreamKey;

/// Whether a message of gRPC is compressed, and its length.
const GRPC_PREFIX_BYTES: usize = 5;

/// What the other side said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A head, or trailers; and whether that is all.
    Fields(StreamKey, Part, Vec<(String, String)>, bool),
    /// A piece of a body, and whether that is all.
    Data(StreamKey, Vec<u8>, bool),
    /// The stream is over before its time.
    Reset(StreamKey),
    /// There will be no more streams.
    Goaway,
    /// The connection is over.
    Over,
}

/// A connection as one side has it.
#[derive(Debug)]
pub(crate) struct Side {
    stream: TcpStream,
    connection: Connection,
    began: std::time::Instant,
    /// Read, not yet understood.
    input: Vec<u8>,
    /// To be written.
    output: Vec<u8>,
    /// Understood, not yet told.
    heard: VecDeque<Heard>,
    /// Bytes that were read and written since somebody took these figures.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Side {
    pub(crate) fn new(stream: TcpStream, role: Role) -> Self {
        let mut output = Vec::new();
        let connection = Connection::new(role, &Config::default(), &mut Out::new(&mut output), Instant::ZERO);
        Self {
            stream,
            connection,
            began: std::time::Instant::now(),
            input: Vec::new(),
            output,
            heard: VecDeque::new(),
            received: 0,
            sent: 0,
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.began.elapsed().as_nanos() as u64)
    }

    /// Opens a stream; `None`: the other side takes no more.
    pub(crate) fn request(&mut self, fields: &[(&str, &str)], end: bool) -> Option<StreamKey> {
        self.connection.request(end, &mut Out::new(&mut self.output), |writer| {
            fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        })
    }

    /// A head or trailers of an answer.
    pub(crate) fn fields(&mut self, stream: StreamKey, part: Part, fields: &[(&str, &str)], end: bool) {
        self.connection.fields(stream, part, end, &mut Out::new(&mut self.output), |writer| {
            fields.iter().for_each(|(name, value)| writer.put(name, value.as_bytes(), Form::Indexed));
        });
    }

    /// Sends all of this, as the windows let it go; false: nobody wants it any more.
    pub(crate) async fn data(&mut self, stream: StreamKey, mut data: &[u8], end: bool) -> io::Result<bool> {
        loop {
            let now = self.now();
            let mut out = Out::new(&mut self.output);
            let sent = self.connection.data(stream, data, end, &mut out, now);
            out.spill();
            data = &data[sent..];
            self.flush().await?;
            if data.is_empty() {
                return Ok(true);
            }
            if !self.connection.is_open(stream) || !self.read().await? {
                return Ok(false);
            }
        }
    }

    /// Ends the connection: what was not heard of yet is not looked at.
    pub(crate) fn close(&mut self) {
        self.connection.close(Code::NO_ERROR, &mut Out::new(&mut self.output));
    }

    /// Is there nothing that came and was not told?
    pub(crate) fn is_quiet(&self) -> bool {
        self.heard.is_empty()
    }

    /// Closing it will reset it.
    pub(crate) fn will_reset(&self) {
        // A failure leaves a plain close.
        let _ = self.stream.set_zero_linger();
    }

    /// Waits for the next thing that the other side says. Cancelling it loses nothing.
    pub(crate) async fn hear(&mut self) -> io::Result<Heard> {
        loop {
            self.flush().await?;
            if let Some(heard) = self.heard.pop_front() {
                return Ok(heard);
            }
            if !self.read().await? {
                return Ok(Heard::Over);
            }
        }
    }

    /// Writes what is to be written. Cancelling it loses nothing.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let written = self.stream.write(&self.output).await?;
            self.sent += written as u64;
            self.output.drain(..written);
        }
        Ok(())
    }

    /// Reads once; false: there is nothing more.
    async fn read(&mut self) -> io::Result<bool> {
        let read = self.stream.read_buf(&mut self.input).await?;
        self.received += read as u64;
        self.understand();
        Ok(read > 0)
    }

    fn understand(&mut self) {
        let (now, mut taken) = (self.now(), Vec::new());
        let mut input = &self.input[..];
        while let Some(event) = self.connection.recv(&mut input, &mut Out::new(&mut self.output), now) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.heard.push_back(match event {
                Event::Fields { stream, part, fields, end, .. } => {
                    let fields = fields.iter().map(|field| (text(field.name()), text(field.value()))).collect();
                    Heard::Fields(stream, part, fields, end)
                }
                Event::Data { stream, data, end } => {
                    taken.push((stream, data.len()));
                    Heard::Data(stream, data.to_vec(), end)
                }
                Event::Reset { stream, .. } => Heard::Reset(stream),
                Event::Goaway(_) => Heard::Goaway,
                Event::Over(_) => Heard::Over,
                Event::Ready | Event::Pong | Event::TooLarge { .. } | Event::Refused(_) => continue,
            });
        }
        let used = self.input.len() - input.len();
        self.input.drain(..used);
        for (stream, length) in taken {
            self.connection.release(stream, length, &mut Out::new(&mut self.output));
        }
    }
}

/// The value of a field; empty if it is not there.
pub(crate) fn value<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), message].concat()
}

/// The one message of a body, if that is what it is.
pub(crate) fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(GRPC_PREFIX_BYTES)?;
    (framed(message)[..GRPC_PREFIX_BYTES] == *prefix).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_five_bytes_before_it() {
        assert_eq!(framed(b"ab"), [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(message(&framed(b"ab")), Some(&b"ab"[..]));
        assert_eq!(message(&framed(b"")), Some(&b""[..]));
        for wrong in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x01", b"\0\0\0\0\0x"] {
            assert_eq!(message(wrong), None, "{wrong:?}");
        }
    }
}
