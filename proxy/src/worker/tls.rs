//! A stream socket with TLS on it, which reads and writes like one without.
//!
//! The worker's rule that a short read has drained the socket and a short write has filled it holds here
//! for plain bytes: [`TlsStream::read`] goes on until the buffer is full or the socket is empty. Encrypted
//! bytes that the socket did not take stay here; [`TlsStream::holds_output`] says so.

use super::socket::Plain;
use rustls::Connection;
use std::io::{self, Read, Write};

/// Plain bytes taken for encryption before the socket must have taken their cipher text.
const MOST_HELD: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct TlsStream {
    pub(super) socket: Plain,
    connection: Connection,
    /// The socket's end, with or without a goodbye.
    ended: bool,
    /// The peer said goodbye (`close_notify`) before its end.
    goodbye: bool,
    /// Send FIN once everything is written.
    finishing: bool,
    /// An end without a goodbye is an error: what came before it may be a part only.
    strict: bool,
}

impl TlsStream {
    /// A client's connection; `first`: bytes of it that were read already.
    ///
    /// # Errors
    /// They are no TLS.
    pub(super) fn server(socket: Plain, connection: rustls::ServerConnection, first: &[u8]) -> io::Result<Self> {
        let mut stream = Self::new(socket, connection.into(), false);
        let mut first = first;
        while !first.is_empty() {
            stream.connection.read_tls(&mut first)?;
            stream.process()?;
        }
        Ok(stream)
    }

    /// Our connection to an endpoint.
    pub(super) fn client(socket: Plain, connection: rustls::ClientConnection) -> Self {
        Self::new(socket, connection.into(), true)
    }

    fn new(socket: Plain, mut connection: Connection, strict: bool) -> Self {
        connection.set_buffer_limit(Some(MOST_HELD));
        Self { socket, connection, ended: false, goodbye: false, finishing: false, strict }
    }

    /// The peer's certificate, if it showed one.
    pub(super) fn peer_certificate(&self) -> Option<&rustls::pki_types::CertificateDer<'static>> {
        self.connection.peer_certificates()?.first()
    }

    /// The protocol that was agreed on (ALPN), if any.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Goes on with the handshake; true: it is done.
    ///
    /// # Errors
    /// The peer does not speak TLS, is not who it should be, or went away.
    pub(super) fn handshake(&mut self) -> io::Result<bool> {
        loop {
            self.flush()?;
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            match self.fill() {
                Ok(_) if self.ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Decrypts what was read from the socket.
    fn process(&mut self) -> io::Result<()> {
        match self.connection.process_new_packets() {
            Ok(state) => {
                self.goodbye |= state.peer_has_closed();
                Ok(())
            }
            Err(error) => {
                // The alert that tells the peer; it may be gone.
                let _gone = self.flush();
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Reads once from the socket; true: that emptied it.
    fn fill(&mut self) -> io::Result<bool> {
        let mut reader = Short { socket: &mut self.socket, drained: false };
        let n = self.connection.read_tls(&mut reader)?;
        let drained = reader.drained;
        self.ended |= n == 0;
        self.process()?;
        Ok(drained)
    }

    /// Reads plain bytes; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock`: there are none. Anything else: the connection is broken.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (mut filled, mut drained) = (0, false);
        loop {
            match self.connection.reader().read(&mut buf[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if drained && !self.ended {
                        break;
                    }
                    match self.fill() {
                        Ok(empty) => drained = empty,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(_) if filled > 0 => return Ok(filled),
                        Err(error) => return Err(error),
                    }
                }
                // An end without a goodbye.
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) if self.strict => return Err(error),
                Err(_) => return Ok(0),
            }
            if filled == buf.len() {
                break;
            }
        }
        // Answers of TLS itself: tickets, key updates.
        if self.connection.wants_write() {
            self.flush()?;
        }
        if filled == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }

    /// Encrypts and writes; how many plain bytes were taken. What is taken but not written is held.
    ///
    /// # Errors
    /// `WouldBlock`: none, for the socket has not taken what is held.
    pub(super) fn write(&mut self, head: &[u8], tail: &[u8]) -> io::Result<usize> {
        self.flush()?;
        if self.holds_output() && !(head.is_empty() && tail.is_empty()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut taken = 0;
        for mut part in [head, tail] {
            while !part.is_empty() {
                let n = self.connection.writer().write(part)?;
                (taken, part) = (taken + n, &part[n..]);
                // Small answers are one record and one system call.
                if !part.is_empty() || taken >= MOST_HELD {
                    self.flush()?;
                    if self.holds_output() {
                        return Ok(taken);
                    }
                }
            }
        }
        self.flush()?;
        Ok(taken)
    }

    /// Writes what is held, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if std::mem::take(&mut self.finishing) {
            self.socket.finish();
        }
        Ok(())
    }

    /// Is there something that the socket has not taken?
    pub(super) fn holds_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Says goodbye, then FIN as soon as that is written.
    pub(super) fn finish(&mut self) {
        self.connection.send_close_notify();
        self.finishing = true;
        // A peer that is gone is seen by the next read.
        let _gone = self.flush();
    }
}

/// A socket of which it is known whether the last read emptied it.
struct Short<'a> {
    socket: &'a mut Plain,
    drained: bool,
}

impl Read for Short<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.socket.read(buf)?;
        self.drained = n < buf.len();
        Ok(n)
    }
}
