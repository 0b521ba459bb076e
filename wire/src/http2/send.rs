//! What we send.

use super::budget::Flood;
use super::connection::{Connection, Leaving, Part, Phase};
use super::error::Code;
use super::flow::Window;
use super::frame::{self, DEFAULT_PAYLOAD_BYTES, HEADER_BYTES, MAX_STREAM};
use super::hpack::{Encoder, Field, Form, Name};
use super::recent::EndedBy;
use super::settings::Role;
use super::streams::{Side, StreamKey, Wait};
use crate::out::Out;
use alloc::vec::Vec;
use evenkeel_core::time::Instant;

/// A stream that sends less than this between two waits does not get on: its peer opens the window a few bytes at
/// a time to keep it, and what it holds, for ever.
const PROGRESS_BYTES: usize = 1024;

/// Writes the fields of one block, straight into the buffer of the connection.
#[derive(Debug)]
pub struct FieldWriter<'a> {
    encoder: &'a mut Encoder,
    out: &'a mut Vec<u8>,
    is_head: bool,
    connect: bool,
}

impl FieldWriter<'_> {
    /// Passes on a field of another connection.
    #[inline]
    pub fn forward(&mut self, field: &Field<'_>) {
        self.note(field.known(), field.value());
        self.encoder.forward(field, self.out);
    }

    /// Writes a field of our own. The name is to be in lower case.
    pub fn put(&mut self, name: &str, value: &[u8], form: Form) {
        if name == ":method" {
            self.note(Name::METHOD, value);
        }
        self.encoder.put(name.as_bytes(), value, form, self.out);
    }

    #[inline]
    fn note(&mut self, name: Name, value: &[u8]) {
        if name == Name::METHOD {
            (self.is_head, self.connect) = (value == b"HEAD", value == b"CONNECT");
        }
    }
}

impl Connection {
    /// How many streams may be opened now; clients only. Before the peer's SETTINGS have come
    /// ([`Connection::is_ready`]) this is a guess.
    pub fn room(&self) -> u32 {
        let open = self.role == Role::Client
            && self.phase != Phase::Over
            && self.goaway.is_none()
            && self.leaving == Leaving::No
            && self.next <= MAX_STREAM;
        if open { self.remote.streams.saturating_sub(self.streams.len()) } else { 0 }
    }

    /// Opens a stream with a request whose fields `write` writes, pseudo-header fields first. `end`: it has no body.
    /// `None`: there is no room.
    pub fn request(
        &mut self,
        end: bool,
        out: &mut Out<'_, '_>,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Option<StreamKey> {
        if self.room() == 0 {
            return None;
        }
        let id = self.next;
        self.next += 2;
        // It may be told to go on, and be given hints.
        self.budget.earn(Flood::Empty, 2);
        let (is_head, connect) = self.put_block(id, end, out, write);
        let key = self.streams.insert(id, self.new_receive(), Window::new(self.remote.stream_window));
        if let Some(stream) = self.streams.get_mut(key) {
            stream.sending = if end { Side::Ended } else { Side::Body };
            (stream.is_head, stream.connect) = (is_head, connect);
        }
        Some(key)
    }

    /// Sends a part of a message on a stream, whose fields `write` writes; trailers always end it. False, and nothing
    /// is sent: the stream is gone, or the part is not the next one.
    pub fn fields(
        &mut self,
        key: StreamKey,
        part: Part,
        end: bool,
        out: &mut Out<'_, '_>,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> bool {
        let end = end || part == Part::Trailers;
        let Some(stream) = self.streams.get_mut(key) else { return false };
        let fits = match part {
            Part::Informational => stream.sending == Side::Head && !end,
            Part::Head => stream.sending == Side::Head,
            Part::Trailers => stream.sending == Side::Body,
        };
        if !fits || self.phase == Phase::Over {
            return false;
        }
        if part != Part::Informational {
            stream.sending = if end { Side::Ended } else { Side::Body };
        }
        self.put_block(key.id(), end, out, write);
        if end {
            self.streams.wait(key, Wait::Nothing);
            self.forget_if_done(key, out);
        }
        true
    }

    /// Sends data on a stream; returns how much of it the windows let go. `end`: it is the last. What did not go
    /// is to be offered again when [`Connection::writable`] says so, with the same `end`.
    ///
    /// Nobody reads what is for a stream that is gone or ended: it counts as sent.
    pub fn data<'i>(
        &mut self,
        key: StreamKey,
        data: &'i [u8],
        end: bool,
        out: &mut Out<'_, 'i>,
        now: Instant,
    ) -> usize {
        let open = self.phase != Phase::Over;
        let Some(stream) = self.streams.get_mut(key).filter(|stream| open && stream.sending == Side::Body) else {
            return data.len();
        };
        let sent = data.len().min(stream.send.room()).min(self.send.room());
        let complete = sent == data.len();
        stream.send.take(sent);
        self.send.take(sent);
        if sent == 0 && complete && end {
            frame::put_data(out.spill(), key.id(), 0, true);
        }
        let mut left = sent;
        for piece in data[..sent].chunks(DEFAULT_PAYLOAD_BYTES) {
            left -= piece.len();
            frame::put_data(out.spill(), key.id(), piece.len(), end && complete && left == 0);
            out.payload(piece);
            self.budget.earn(Flood::WindowUpdates, 2);
            self.budget.earn(Flood::Pings, 1);
        }
        if !complete {
            if stream.since == Instant::ZERO || sent >= PROGRESS_BYTES {
                stream.since = now;
            }
            let wait = if stream.send.room() == 0 { Wait::Stream } else { Wait::Connection };
            // At the end of the line, behind those that have had less.
            self.streams.wait(key, Wait::Nothing);
            self.streams.wait(key, wait);
            return sent;
        }
        stream.since = Instant::ZERO;
        if end {
            stream.sending = Side::Ended;
        }
        self.streams.wait(key, Wait::Nothing);
        if end {
            self.forget_if_done(key, out);
        }
        sent
    }

    /// A stream that had more to send than its windows let go, and can send now. Each call names another, until there
    /// is none.
    pub fn writable(&mut self) -> Option<StreamKey> {
        while self.send.room() > 0 {
            let key = self.streams.first(Wait::Connection)?;
            // Its own window may have become smaller meanwhile.
            if self.streams.get(key).is_some_and(|stream| stream.send.room() == 0) {
                self.streams.wait(key, Wait::Stream);
                continue;
            }
            self.streams.wait(key, Wait::Nothing);
            return Some(key);
        }
        None
    }

    /// Somebody has taken this much of what came on a stream: the peer may send as much again. Nothing happens for a
    /// stream that is gone; it was given credit for everything then.
    pub fn release(&mut self, key: StreamKey, bytes: usize, out: &mut Out<'_, '_>) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        let bytes = (bytes as u32).min(stream.receive.held());
        stream.receive.taken(bytes);
        self.receive.taken(bytes);
        if self.phase == Phase::Over {
            return;
        }
        if stream.receiving != Side::Ended
            && let Some(increment) = stream.receive.update(self.config.stream_window)
        {
            frame::put_window_update(out.spill(), key.id(), increment);
        }
        self.credit(out);
    }

    /// Ends a stream now. Whatever still comes for it is not heard of.
    pub fn reset(&mut self, key: StreamKey, code: Code, out: &mut Out<'_, '_>) {
        let Some(stream) = self.streams.get(key) else { return };
        let by = if stream.receiving == Side::Ended { EndedBy::Peer } else { EndedBy::Us };
        if self.phase != Phase::Over {
            frame::put_reset(out.spill(), key.id(), code);
        }
        self.forget(key, by, out);
    }

    fn put_block(
        &mut self,
        id: u32,
        end: bool,
        out: &mut Out<'_, '_>,
        write: impl FnOnce(&mut FieldWriter<'_>),
    ) -> (bool, bool) {
        let out = out.spill();
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        self.encoder.begin(out);
        let mut writer = FieldWriter { encoder: &mut self.encoder, out, is_head: false, connect: false };
        write(&mut writer);
        let kind = (writer.is_head, writer.connect);
        frame::finish_headers(out, start, id, end, DEFAULT_PAYLOAD_BYTES);
        self.budget.earn(Flood::Pings, 1);
        kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::settings::Config;

    #[test]
    fn identifiers_are_used_once_and_come_to_an_end() {
        let mut buffer = Vec::new();
        let mut out = Out::new(&mut buffer);
        let mut engine = Connection::new(Role::Client, &Config::default(), &mut out, Instant::ZERO);
        engine.next = MAX_STREAM - 2;
        let ids = [(); 3].map(|()| engine.request(true, &mut out, |_| {}).map(StreamKey::id));
        assert_eq!(ids, [Some(MAX_STREAM - 2), Some(MAX_STREAM), None]);
        assert_eq!(engine.room(), 0);
    }
}
