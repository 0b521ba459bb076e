//! What a peer sends.

use super::budget::Flood;
use super::connection::{Assembly, Connection, Event, FAREWELL, Failure, Fault, KEEP_ALIVE, Leaving, Part, Phase};
use super::error::{Code, Error, Scope};
use super::flow::{Receive, Window};
use super::frame::{self, DEFAULT_PAYLOAD_BYTES, Frame, PREFACE, Parameters};
use super::hpack::Capacity;
use super::message::{self, Flaw};
use super::recent::EndedBy;
use super::settings::Role;
use super::streams::{Side, StreamKey, Wait};
use crate::out::Out;
use evenkeel_core::time::Instant;

/// An [`Event`] without the fields, which are borrowed at the very end.
enum Step<'i> {
    Event(Event<'static, 'i>),
    Fields { stream: StreamKey, part: Part, status: u16, end: bool },
}

type Result<T> = core::result::Result<T, Failure>;

const NOTHING: Result<Option<Step<'static>>> = Ok(None);

fn event<'i>(event: Event<'static, 'i>) -> Result<Option<Step<'i>>> {
    Ok(Some(Step::Event(event)))
}

impl Connection {
    /// Reads the input as far as it consists of whole frames, or until one of them means something to the caller.
    /// To be called until there is nothing more; what is left of the input then is the beginning of a frame, to be
    /// offered again with more behind it.
    pub fn recv<'s, 'i>(
        &'s mut self,
        input: &mut &'i [u8],
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Option<Event<'s, 'i>> {
        match self.step(input, out, now) {
            Ok(step) => Some(match step? {
                Step::Event(event) => event,
                Step::Fields { stream, part, status, end } => {
                    Event::Fields { stream, part, status, fields: &self.fields, end }
                }
            }),
            Err(failure) => {
                *input = &[];
                Some(Event::Over(self.fail(failure, out)))
            }
        }
    }

    fn step<'i>(&mut self, input: &mut &'i [u8], out: &mut Out<'_, '_>, now: Instant) -> Result<Option<Step<'i>>> {
        if self.phase == Phase::Over {
            *input = &[];
            return Ok(None);
        }
        if self.sweep.is_some()
            && let Some(step) = self.sweep(out)
        {
            return Ok(Some(step));
        }
        if self.phase == Phase::Preface {
            let part = input.len().min(PREFACE.len());
            if input[..part] != PREFACE[..part] {
                return Err(Failure::protocol("the connection does not begin like one of HTTP/2"));
            }
            if part < PREFACE.len() {
                return Ok(None);
            }
            *input = &input[part..];
            self.phase = Phase::Settings;
        }
        while let Some((parsed, end)) = frame::parse(input, DEFAULT_PAYLOAD_BYTES)? {
            *input = &input[end..];
            let step = match parsed {
                Ok(frame) => {
                    if self.phase == Phase::Settings || self.block.is_some() {
                        self.expect(&frame)?;
                    }
                    self.frame(frame, out, now)?
                }
                Err(Error { scope: Scope::Stream(id), code }) => self.bad_stream(id, code, out, now)?,
                Err(error) => return Err(error.into()),
            };
            if step.is_some() {
                return Ok(step);
            }
        }
        Ok(None)
    }

    /// Checks the order of frames where only one may come.
    #[cold]
    fn expect(&self, frame: &Frame<'_>) -> Result<()> {
        match (self.block, frame) {
            (Some(block), Frame::Continuation { stream, .. }) if block.stream == *stream => Ok(()),
            (Some(_), _) => Err(Failure::protocol("something stands between the fragments of a block")),
            (None, Frame::Settings(_)) => Ok(()),
            (None, _) => Err(Failure::protocol("the first frame is not SETTINGS")),
        }
    }

    #[inline]
    fn frame<'i>(&mut self, frame: Frame<'i>, out: &mut Out<'_, '_>, now: Instant) -> Result<Option<Step<'i>>> {
        match frame {
            Frame::Data { stream, data, padding, end } => self.data_frame(stream, data, padding, end, out, now),
            Frame::Headers { stream, fragment, end, whole: true } => self.block(stream, end, fragment, out, now),
            Frame::Headers { stream, fragment, end, whole: false } => {
                if fragment.is_empty() {
                    self.budget.spend(Flood::Empty, now)?;
                }
                self.fragments.clear();
                self.fragments.extend_from_slice(fragment);
                let due = now + self.config.block_timeout;
                self.block = Some(Assembly { stream, end, frames: 0, due });
                NOTHING
            }
            Frame::Continuation { fragment, whole, .. } => self.continuation(fragment, whole, out, now),
            Frame::WindowUpdate { stream, increment } => self.window_update(stream, increment, out, now),
            Frame::Reset { stream, code } => self.reset_frame(stream, code, out, now),
            Frame::Ping { data, ack: false } => {
                self.budget.spend(Flood::Pings, now)?;
                frame::put_ping(out.spill(), data, true);
                NOTHING
            }
            Frame::Ping { data, ack: true } => self.pong(data, out),
            Frame::Settings(parameters) => self.settings(parameters, out, now),
            Frame::SettingsAck => self.settings_ack(),
            Frame::Goaway { last, code } => {
                self.budget.spend(Flood::Settings, now)?;
                // The last word counts, but nothing that was excluded comes back (section 6.8).
                self.goaway = Some(self.goaway.unwrap_or(last).min(last));
                if self.role == Role::Client {
                    self.sweep = Some(0);
                }
                event(Event::Goaway(code))
            }
            Frame::Priority | Frame::Unknown => {
                self.budget.spend(Flood::Priorities, now)?;
                NOTHING
            }
            Frame::PushPromise => Err(Failure::protocol("nothing was to be pushed")),
        }
    }

    fn data_frame<'i>(
        &mut self,
        id: u32,
        data: &'i [u8],
        padding: u32,
        end: bool,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'i>>> {
        let size = data.len() as u32;
        if !self.receive.came(size, padding) {
            return Err(Failure::new(Code::FLOW_CONTROL_ERROR, "more data than the window of the connection"));
        }
        if data.is_empty() && !end {
            self.budget.spend(Flood::Empty, now)?;
        }
        let Some(key) = self.streams.find(id) else {
            // Nobody takes it, but it has used the window of the connection (section 5.2.2).
            self.receive.taken(size);
            self.credit(out);
            return self.late_data(id, end, out, now);
        };
        match self.stream_data(key, size, padding, end) {
            Ok(()) => {}
            Err((code, fault)) => {
                self.receive.taken(size);
                return self.abort(key, code, fault, out, now);
            }
        }
        if padding > 0 {
            self.release(key, 0, out);
        }
        if end {
            self.forget_if_done(key, out);
        } else if data.is_empty() {
            return Ok(None);
        }
        event(Event::Data { stream: key, data, end })
    }

    /// Takes data in on a stream, if they are what it waits for.
    fn stream_data(
        &mut self,
        key: StreamKey,
        size: u32,
        padding: u32,
        end: bool,
    ) -> core::result::Result<(), (Code, Fault)> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        match stream.receiving {
            Side::Body => {}
            Side::Head => return Err(malformed(Flaw::Pseudo)),
            Side::Ended => return Err((Code::STREAM_CLOSED, Fault::Ended)),
        }
        if !stream.receive.came(size, padding) {
            return Err((Code::FLOW_CONTROL_ERROR, Fault::Flow));
        }
        if let Some(promised) = &mut stream.promised {
            let left = promised.checked_sub(size.into()).filter(|&left| !end || left == 0);
            // What came is held, and let go with the stream.
            *promised = left.ok_or(malformed(Flaw::ContentLength)).inspect_err(|_| stream.receive.taken(size))?;
        }
        if end {
            stream.receiving = Side::Ended;
        }
        Ok(())
    }

    fn continuation(
        &mut self,
        fragment: &[u8],
        whole: bool,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        let Some(block) = &mut self.block else {
            return Err(Failure::protocol("a CONTINUATION continues nothing"));
        };
        block.frames += 1;
        let (stream, end, frames) = (block.stream, block.end, block.frames);
        if fragment.is_empty() && !whole {
            self.budget.spend(Flood::Empty, now)?;
        }
        // What is larger in its coded form can only be too large.
        let size = self.fragments.len() + fragment.len();
        if frames > self.config.allowance.continuations || size > self.config.header_bytes as usize {
            return Err(Flood::Continuations.into());
        }
        self.fragments.extend_from_slice(fragment);
        if !whole {
            return NOTHING;
        }
        self.block = None;
        // Blocks of several frames are rare: the memory is not kept.
        let fragments = core::mem::take(&mut self.fragments);
        self.block(stream, end, &fragments, out, now)
    }

    /// A whole block. It is decoded whatever becomes of it, for the next ones depend on it.
    fn block(
        &mut self,
        id: u32,
        end: bool,
        block: &[u8],
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        self.fields.clear();
        let capacity =
            Capacity { bytes: self.config.header_bytes as usize, fields: self.config.header_fields as usize };
        if self.decoder.decode(block, capacity, &mut self.fields).is_err() {
            return Err(Failure::new(Code::COMPRESSION_ERROR, "a block cannot be decoded"));
        }
        match self.streams.find(id) {
            Some(key) => match self.stream_fields(key, end, now)? {
                Ok((part, status)) => {
                    if end {
                        self.forget_if_done(key, out);
                    }
                    Ok(Some(Step::Fields { stream: key, part, status, end }))
                }
                Err((code, fault)) => self.abort(key, code, fault, out, now),
            },
            None if self.role == Role::Server && id % 2 == 1 && id > self.last => self.open(id, end, out, now),
            None => self.late_fields(id, end),
        }
    }

    /// A request that opens a stream.
    fn open(&mut self, id: u32, end: bool, out: &mut Out<'_, '_>, now: Instant) -> Result<Option<Step<'static>>> {
        if let Leaving::Said(_) = self.leaving {
            // It was told, and will try elsewhere (section 6.8).
            return NOTHING;
        }
        self.last = id;
        self.budget.earn(Flood::Priorities, 2);
        if self.streams.len() >= self.config.streams {
            return self.refuse(id, end, Code::REFUSED_STREAM, Fault::TooMany, out, now);
        }
        let too_large = self.fields.is_excess();
        let head = if too_large {
            message::Head::default()
        } else {
            let head = message::request(&self.fields, self.config.extended_connect);
            match head.and_then(|head| if end && has_body(head.length) { Err(Flaw::ContentLength) } else { Ok(head) }) {
                Ok(head) => head,
                Err(flaw) => {
                    let (code, fault) = malformed(flaw);
                    return self.refuse(id, end, code, fault, out, now);
                }
            }
        };
        let key = self.streams.insert(id, self.new_receive(), Window::new(self.remote.stream_window));
        if let Some(stream) = self.streams.get_mut(key) {
            stream.receiving = if end { Side::Ended } else { Side::Body };
            stream.promised = head.length.filter(|_| !head.connect);
            (stream.is_head, stream.connect) = (head.is_head, head.connect);
        }
        if too_large {
            return event(Event::TooLarge { stream: key, end });
        }
        Ok(Some(Step::Fields { stream: key, part: Part::Head, status: 0, end }))
    }

    /// Fields on a stream that is open: a response, or trailers.
    fn stream_fields(
        &mut self,
        key: StreamKey,
        end: bool,
        now: Instant,
    ) -> Result<core::result::Result<(Part, u16), (Code, Fault)>> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(Err(malformed(Flaw::End))) };
        if stream.receiving == Side::Ended {
            return Ok(Err((Code::STREAM_CLOSED, Fault::Ended)));
        }
        if self.fields.is_excess() {
            return Ok(Err((Code::ENHANCE_YOUR_CALM, Fault::TooLarge)));
        }
        if stream.receiving == Side::Body {
            let flaw = match message::trailers(&self.fields) {
                Err(flaw) => flaw,
                Ok(()) if !end || stream.connect => Flaw::End,
                Ok(()) if has_body(stream.promised) => Flaw::ContentLength,
                Ok(()) => {
                    stream.receiving = Side::Ended;
                    return Ok(Ok((Part::Trailers, 0)));
                }
            };
            return Ok(Err(malformed(flaw)));
        }
        let head = match message::response(&self.fields) {
            Ok(head) => head,
            Err(flaw) => return Ok(Err(malformed(flaw))),
        };
        if head.status < 200 {
            self.budget.spend(Flood::Empty, now)?;
            return Ok(if end { Err(malformed(Flaw::End)) } else { Ok((Part::Informational, head.status)) });
        }
        stream.connect &= head.status < 300;
        stream.promised = match head.status {
            _ if stream.connect => None,
            _ if stream.is_head => Some(0),
            204 | 304 => Some(0),
            _ => head.length,
        };
        if end && has_body(stream.promised) {
            return Ok(Err(malformed(Flaw::ContentLength)));
        }
        stream.receiving = if end { Side::Ended } else { Side::Body };
        Ok(Ok((Part::Head, head.status)))
    }

    fn window_update(
        &mut self,
        id: u32,
        increment: u32,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        self.budget.spend(Flood::WindowUpdates, now)?;
        if id == 0 {
            let overflow = Failure::new(Code::FLOW_CONTROL_ERROR, "the window of the connection is too large");
            return self.send.add(increment.into()).map(|()| None).map_err(|_| overflow);
        }
        let Some(key) = self.streams.find(id) else {
            return if self.is_idle(id) { Err(Failure::protocol("WINDOW_UPDATE on an idle stream")) } else { NOTHING };
        };
        let added = self.streams.get_mut(key).map_or(Ok(()), |stream| stream.send.add(increment.into()));
        if added.is_err() {
            return self.abort(key, Code::FLOW_CONTROL_ERROR, Fault::Flow, out, now);
        }
        self.unblock(key);
        NOTHING
    }

    fn reset_frame(
        &mut self,
        id: u32,
        code: Code,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        let Some(key) = self.streams.find(id) else {
            return if self.is_idle(id) { Err(Failure::protocol("RST_STREAM on an idle stream")) } else { NOTHING };
        };
        self.forget(key, EndedBy::Peer, out);
        if self.role == Role::Server {
            self.budget.spend(Flood::Resets, now)?;
        }
        let refused = self.role == Role::Client && code == Code::REFUSED_STREAM;
        let fault = if refused { Fault::Unprocessed } else { Fault::Peer };
        event(Event::Reset { stream: key, code, fault })
    }

    fn settings(
        &mut self,
        parameters: Parameters<'_>,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        let first = self.phase == Phase::Settings;
        if !first {
            self.budget.spend(Flood::Settings, now)?;
        }
        let before = self.remote;
        self.remote = before
            .after(parameters, self.role)
            .map_err(|code| Failure::new(code, "a parameter of SETTINGS is out of range"))?;
        self.encoder.allow(self.remote.table_bytes);
        let change = i64::from(self.remote.stream_window) - i64::from(before.stream_window);
        let mut slot = 0;
        while change != 0
            && let Some(key) = self.streams.next_from(slot)
        {
            slot = key.slot() + 1;
            let added = self.streams.get_mut(key).map_or(Ok(()), |stream| stream.send.add(change));
            if added.is_err() {
                return Err(Failure::new(Code::FLOW_CONTROL_ERROR, "the window of a stream is too large"));
            }
            self.unblock(key);
        }
        frame::put_settings_ack(out.spill());
        if first {
            (self.phase, self.settings_due) = (Phase::Open, None);
            return event(Event::Ready);
        }
        NOTHING
    }

    /// From now on the peer sends what our SETTINGS allow: everything before this frame was sent as if it had not
    /// heard of them.
    fn settings_ack(&mut self) -> Result<Option<Step<'static>>> {
        if self.ack_due.take().is_none() {
            return Err(Failure::protocol("SETTINGS were acknowledged that nobody sent"));
        }
        let before = core::mem::replace(&mut self.initial_window, self.config.stream_window);
        let mut slot = 0;
        while let Some(key) = self.streams.next_from(slot) {
            slot = key.slot() + 1;
            if let Some(stream) = self.streams.get_mut(key) {
                stream.receive.resize(before, self.initial_window);
            }
        }
        self.decoder.allow(self.config.table_bytes);
        NOTHING
    }

    fn pong(&mut self, data: [u8; 8], out: &mut Out<'_, '_>) -> Result<Option<Step<'static>>> {
        match (data, self.leaving) {
            (FAREWELL, Leaving::Announced(_)) => self.say_last(out),
            (KEEP_ALIVE, _) if self.ping_due.take().is_some() => return event(Event::Pong),
            _ => {}
        }
        NOTHING
    }

    /// The next stream that the peer has excluded by GOAWAY.
    fn sweep<'i>(&mut self, out: &mut Out<'_, '_>) -> Option<Step<'i>> {
        while let Some(slot) = self.sweep {
            let key = self.streams.next_from(slot);
            self.sweep = key.map(|key| key.slot() + 1);
            if let (Some(stream), Some(last)) = (key, self.goaway)
                && stream.id() > last
            {
                self.forget(stream, EndedBy::Us, out);
                let (code, fault) = (Code::REFUSED_STREAM, Fault::Unprocessed);
                return Some(Step::Event(Event::Reset { stream, code, fault }));
            }
        }
        None
    }

    /// Nobody has ever opened it.
    fn is_idle(&self, id: u32) -> bool {
        // Servers open none.
        id.is_multiple_of(2)
            || match self.role {
                Role::Server => id > self.last && !self.is_excluded(id),
                Role::Client => id >= self.next,
            }
    }

    /// Data on a stream that is not open. (Sections 5.1 and 5.4.2.)
    fn late_data(&mut self, id: u32, end: bool, out: &mut Out<'_, '_>, now: Instant) -> Result<Option<Step<'static>>> {
        if self.is_idle(id) {
            return Err(Failure::protocol("DATA on an idle stream"));
        }
        match self.recent.find(id) {
            Some(EndedBy::Us) if end => self.recent.ended(id),
            Some(EndedBy::Us) => {}
            None if self.role == Role::Client || self.is_excluded(id) => {}
            Some(EndedBy::Peer) | None => {
                frame::put_reset(out.spill(), id, Code::STREAM_CLOSED);
                self.budget.spend(Flood::Resets, now)?;
            }
        }
        NOTHING
    }

    /// A block on a stream that is not open, and does not open one.
    fn late_fields(&mut self, id: u32, end: bool) -> Result<Option<Step<'static>>> {
        if self.is_idle(id) {
            return Err(Failure::protocol("a peer opens a stream that is not its to open"));
        }
        match self.recent.find(id) {
            Some(EndedBy::Us) if end => self.recent.ended(id),
            Some(EndedBy::Us) => {}
            None if self.role == Role::Client || self.is_excluded(id) => {}
            Some(EndedBy::Peer) => return Err(Failure::new(Code::STREAM_CLOSED, "HEADERS on a stream that had ended")),
            // Section 5.1.1.
            None => return Err(Failure::protocol("a stream that is opened has a lower number than another")),
        }
        NOTHING
    }

    /// It came behind the last that we look at.
    fn is_excluded(&self, id: u32) -> bool {
        self.role == Role::Server && id % 2 == 1 && matches!(self.leaving, Leaving::Said(last) if id > last)
    }

    /// A frame broke a rule at the cost of its stream.
    fn bad_stream<'i>(&mut self, id: u32, code: Code, out: &mut Out<'_, '_>, now: Instant) -> Result<Option<Step<'i>>> {
        if self.phase == Phase::Settings || self.block.is_some() {
            return Err(Failure::protocol("a frame is malformed and out of place"));
        }
        match self.streams.find(id) {
            Some(key) => self.abort(key, code, Fault::Flow, out, now),
            None if self.is_idle(id) => Err(Failure::new(code, "a malformed frame on an idle stream")),
            None => Ok(None),
        }
    }

    /// Ends a stream for a fault of the peer.
    fn abort<'i>(
        &mut self,
        stream: StreamKey,
        code: Code,
        fault: Fault,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'i>>> {
        self.reset(stream, code, out);
        if self.role == Role::Server {
            self.budget.spend(Flood::Resets, now)?;
        }
        event(Event::Reset { stream, code, fault })
    }

    /// Turns a request away before it is a stream.
    fn refuse(
        &mut self,
        id: u32,
        end: bool,
        code: Code,
        fault: Fault,
        out: &mut Out<'_, '_>,
        now: Instant,
    ) -> Result<Option<Step<'static>>> {
        frame::put_reset(out.spill(), id, code);
        self.recent.push(id, if end { EndedBy::Peer } else { EndedBy::Us });
        // Until it has heard of our limit, it cannot know that there are too many.
        if fault != Fault::TooMany || self.ack_due.is_none() {
            self.budget.spend(Flood::Resets, now)?;
        }
        event(Event::Refused(fault))
    }

    /// A stream whose window was opened gets in line.
    fn unblock(&mut self, key: StreamKey) {
        if self.streams.get(key).is_some_and(|stream| stream.wait == Wait::Stream && stream.send.room() > 0) {
            self.streams.wait(key, Wait::Connection);
        }
    }

    pub(super) fn new_receive(&self) -> Receive {
        Receive::new(self.initial_window)
    }
}

fn malformed(flaw: Flaw) -> (Code, Fault) {
    (Code::PROTOCOL_ERROR, Fault::Malformed(flaw))
}

fn has_body(length: Option<u64>) -> bool {
    length.is_some_and(|length| length > 0)
}
