//! HTTP/1.1 (RFC 9110, RFC 9112): one client connection, one request after the other, each to the
//! endpoint that was picked for it.
//!
//! In come bytes of both sides; out go the same messages in our own framing. Nothing of a client's
//! or endpoint's framing is ever passed on, so both sides read the same message boundaries as we do;
//! a message whose boundaries two readers could see differently is refused ([`head::Flaw`]).
//!
//! States: `Head` (waiting for a request), `Turn` (one is being answered), `Closed`. A request that
//! arrives during a turn stays unread until the turn is over.

mod body;
pub mod exchange;
mod grammar;
pub mod head;
mod request;
mod response;
mod upload;

pub use self::upload::{Opened, Upload};

use self::body::{Body, Encode, put_last_chunk};
use self::grammar::Stop;
use self::head::{Flaw, Framing, Scan, find_end};
use self::request::{Request, Whole};
use self::response::{Response, put_own};
use crate::answer::Own;
use crate::engine::Outputs;
use crate::http2::connection::Part;
use crate::http2::forward::Answer;
use crate::http2::frame::PREFACE;
use crate::http2::hpack::Fields;
use crate::session::{Context, Io, LinkError, LinkFate, Protocol, Reason, Settings, TurnEnd, TurnLog, Want};
use alloc::boxed::Box;
use alloc::vec::Vec;
use evenkeel_core::end::{Cause, End, Limit, Phase};
use evenkeel_core::picker::Scope;
use evenkeel_core::time::{Duration, Instant};

/// How HTTP/2 begins: a request that HTTP/1.1 does not have (RFC 9113, section 3.4), up to the end of its head.
const HTTP2: &[u8] = PREFACE.first_chunk::<18>().expect("it is longer");

/// Empty lines that a client may send before a request line.
const MAX_BLANK_LINES: u8 = 4;
/// Informational responses to one request; more is not information.
const MAX_INFORMATIONAL: u8 = 16;

/// The process leaves, and a client was not told so with its last answer, whose head had gone out before. If
/// it asks again within this, which busy clients do at once, the next answer tells it.
const PARTING: Duration = Duration::from_secs(2);

/// A request body must keep its pace over this long, so that a hiccup of a network is none of a client.
const PACE_WINDOW: Duration = Duration::from_secs(10);

/// The engine for one client connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    state: State,
    /// When the present wait began: for a request, a response, more of either.
    since: Instant,
    /// How far an incomplete request head was searched.
    scan: Scan,
    blank_lines: u8,
    /// Some bytes of a request head have arrived.
    begun: bool,
    /// The client has not asked for anything yet.
    silent: bool,
    /// The client sent FIN: this turn is its last.
    client_eof: bool,
    /// The process leaves: this turn is the last.
    draining: bool,
    /// The endpoint authenticates the connection: the link stays with the session.
    pinned: bool,
}

#[derive(Debug)]
enum State {
    Head,
    /// In a box, for most sessions are between two turns.
    Turn(Box<Turn>),
    /// Switched to another protocol; the session takes over.
    Upgraded {
        /// To WebSocket.
        websocket: bool,
    },
    Closed,
}

/// A connection that switched protocols.
pub(crate) struct Upgraded {
    /// To WebSocket.
    pub(crate) websocket: bool,
    /// The client will say no more.
    pub(crate) client_eof: bool,
}

/// What became of a response head.
#[derive(PartialEq, Eq)]
enum Head {
    /// It was used, whatever it was, and had so many bytes.
    Taken(usize),
    /// The endpoint did not run the request: it is to be run elsewhere.
    Refused,
}

#[derive(Debug)]
struct Turn {
    request: Request,
    /// What is left of the request.
    upload: Body,
    /// How that is sent on: as it came, but in chunks of ours.
    encode: Encode,
    /// Content bytes of it that have arrived.
    uploaded: u64,
    /// Since when, and from how many bytes on, the pace of the upload is measured.
    pace: (Instant, u64),
    /// How far an incomplete response head was searched.
    scan: Scan,
    informational: u8,
    /// Once its head was passed on.
    response: Option<Response>,
    /// What is left of the response.
    download: Body,
}

const _: () = assert!(size_of::<Turn>() <= 128, "what the allocator hands out and takes back fastest");

/// What a response head means for its turn.
enum Next {
    Informational,
    Tunnel { websocket: bool },
    Retry,
    Body(Response),
}

impl Turn {
    /// The request is complete, and its response has not begun.
    fn awaits_response(&self) -> bool {
        self.response.is_none() && self.upload.is_done()
    }

    /// Reads a response head and writes it for the client. `ends`: the connection ends with it.
    fn read_head(
        &self,
        input: &[u8],
        out: &mut Vec<u8>,
        ends: bool,
        context: &Context<'_>,
    ) -> Result<(Next, usize), Stop> {
        let (request, settings) = (&self.request, context.settings);
        response::parse(input, settings, |parsed| match parsed.status {
            101 => {
                let protocol = parsed.switched(request).ok_or(Flaw::Informational)?;
                parsed.put(out, request, None, settings);
                Ok(Next::Tunnel { websocket: protocol.eq_ignore_ascii_case(b"websocket") })
            }
            100..200 if self.informational >= MAX_INFORMATIONAL => Err(Flaw::Informational),
            100..200 => {
                // HTTP/1.0 clients do not know them (RFC 9110, section 15.2).
                if request.minor == 1 {
                    parsed.put(out, request, None, settings);
                }
                Ok(Next::Informational)
            }
            503 if context.may_retry => Ok(Next::Retry),
            _ => {
                let response = parsed.decide(request, ends || !self.upload.is_done());
                parsed.put(out, request, Some(&response), settings);
                Ok(Next::Body(response))
            }
        })
    }
}

/// Tells a client that there is no room for its session.
pub(crate) fn refuse_session(out: &mut Vec<u8>, end: End, settings: &Settings) {
    let own = Own {
        status: 503,
        end,
        sentence: "this service has as many clients as it may",
        retry_after: 1,
        pushback: None,
    };
    put_own(out, &own, false, true, settings);
}

impl Http1 {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: State::Head,
            since: now,
            scan: Scan::default(),
            blank_lines: 0,
            begun: false,
            silent: true,
            client_eof: false,
            draining: false,
            pinned: false,
        }
    }

    pub(crate) fn client_data<'i>(
        &mut self,
        input: &'i [u8],
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> usize {
        let mut used = 0;
        if matches!(self.state, State::Head) {
            used += self.skip_blank_lines(input);
            let head = &input[used..];
            if head.is_empty() || head == b"\r" {
                return used;
            }
            if !core::mem::replace(&mut self.begun, true) {
                self.since = context.now;
            }
            match self.request_head(head, io, context) {
                Ok(whole) => {
                    used += whole.length;
                    self.begin_turn(whole, outputs, context);
                }
                Err(Stop::Incomplete) if !self.target_too_long(head, context.settings) => return used,
                Err(stop) => {
                    let flaw = match stop {
                        Stop::Incomplete => Flaw::TargetTooLong,
                        Stop::Flaw(flaw) => flaw,
                    };
                    if self.silent && context.settings.protocol == Protocol::Http && input.starts_with(HTTP2) {
                        self.state = State::Closed;
                        outputs.http2();
                        return 0;
                    }
                    self.refuse(flaw, io, outputs, context);
                    return input.len();
                }
            }
        }
        let State::Turn(turn) = &mut self.state else { return used };
        if !turn.upload.is_done() {
            let (encode, limit, mut content) = (turn.encode, context.settings.header_bytes, 0);
            let relayed = turn.upload.relay(&input[used..], encode, &mut io.link, limit, &mut content);
            if !self.uploaded(content, io, outputs, context) {
                return input.len();
            }
            match relayed {
                Ok(n) => used += n,
                Err(flaw) => {
                    self.refuse(flaw, io, outputs, context);
                    return input.len();
                }
            }
        }
        used
    }

    /// Reads a request head and writes it for the endpoint. Nearly every one comes in one piece and is well, so
    /// that is tried first; only one that is not is searched for its end, and its flaws judged once it is there.
    fn request_head(&mut self, input: &[u8], io: &mut Io<'_, '_>, context: &Context<'_>) -> Result<Whole, Stop> {
        let out = io.link.spill();
        if self.scan.is_fresh()
            && let Ok(whole) = request::forward(input, out, context)
        {
            return Ok(whole);
        }
        let end = find_end(input, &mut self.scan, context.settings.header_bytes)?.ok_or(Stop::Incomplete)?;
        request::forward(&input[..end], out, context).map_err(Stop::at_its_end)
    }

    /// So much more content of the request has come. False: that is too much, and the client is told.
    #[inline]
    fn uploaded(&mut self, content: u64, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) -> bool {
        let State::Turn(turn) = &mut self.state else { return true };
        self.since = context.now;
        turn.uploaded += content;
        if let Some(log) = &mut turn.request.log {
            log.received += content;
        }
        let fits = context.settings.body_bytes.is_none_or(|most| turn.uploaded <= most);
        if !fits {
            self.refuse(Flaw::BodyTooLarge, io, outputs, context);
        }
        fits
    }

    /// See [`crate::session::Session::may_pass_client`].
    pub(crate) fn may_pass_client(&self) -> u64 {
        match &self.state {
            State::Turn(turn) => turn.upload.passes(turn.encode),
            State::Head | State::Upgraded { .. } | State::Closed => 0,
        }
    }

    pub(crate) fn client_passed(&mut self, n: u64, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = &mut self.state else { return };
        turn.upload.pass(n);
        self.uploaded(n, io, outputs, context);
    }

    fn skip_blank_lines(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        while !self.begun && input[used..].starts_with(b"\r\n") && self.blank_lines < MAX_BLANK_LINES {
            self.blank_lines += 1;
            used += 2;
        }
        used
    }

    /// A request line that has not ended and is too long already.
    fn target_too_long(&self, head: &[u8], settings: &Settings) -> bool {
        // The longest method that is known, and `HTTP/1.1`.
        head.len() > settings.uri_bytes + 32 && memchr::memchr(b'\n', head).is_none()
    }

    fn begin_turn(&mut self, whole: Whole, outputs: &mut Outputs, context: &Context<'_>) {
        let Whole { request, framing, key, .. } = whole;
        // What becomes a session is placed like one.
        let upgrade = request.upgrade.is_some();
        let scope = if upgrade { Scope::Session } else { Scope::Turn };
        outputs.want(Want { scope, key, idempotent: request.idempotent, upgrade, fresh: false, listens: false });
        self.since = context.now;
        (self.scan, self.blank_lines, self.begun, self.silent) = (Scan::default(), 0, false, false);
        self.state = State::Turn(Box::new(Turn {
            upload: Body::new(framing),
            encode: if framing == Framing::Chunked { Encode::Chunked } else { Encode::Plain },
            uploaded: 0,
            pace: (context.now, 0),
            request,
            scan: Scan::default(),
            informational: 0,
            response: None,
            download: Body::Done,
        }));
    }

    pub(crate) fn client_eof(&mut self, outputs: &mut Outputs, _context: &Context<'_>) {
        self.client_eof = true;
        match &self.state {
            State::Head if self.begun => {
                self.close(End { cause: Cause::ClientClosed, phase: Phase::Request }, false, outputs);
            }
            State::Head => self.close(End { cause: Cause::Done, phase: Phase::Idle }, false, outputs),
            // A body that ends early must not reach the endpoint as a whole one: the link is cut.
            State::Turn(turn) if !turn.upload.is_done() => {
                self.fail(End { cause: Cause::ClientClosed, phase: self.phase() }, true, outputs);
            }
            // Half-closed: it waits for its answer.
            State::Turn(_) | State::Upgraded { .. } | State::Closed => {}
        }
    }

    pub(crate) fn link_opened(&mut self, context: &Context<'_>) {
        self.since = context.now;
    }

    pub(crate) fn link_data<'i>(
        &mut self,
        input: &'i [u8],
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> usize {
        let mut used = 0;
        while let State::Turn(turn) = &mut self.state {
            if turn.response.is_some() {
                self.relay_response(&input[used..], &mut used, io, outputs, context);
                break;
            }
            match self.response_head(&input[used..], io, outputs, context) {
                Ok(Head::Taken(end)) => used += end,
                // What else the endpoint says goes with its link.
                Ok(Head::Refused) => return input.len(),
                Err(Stop::Incomplete) => break,
                Err(Stop::Flaw(_)) => {
                    self.endpoint_flaw(io, outputs, context);
                    return input.len();
                }
            }
        }
        used
    }

    /// Passes on a response head.
    fn response_head(
        &mut self,
        input: &[u8],
        io: &mut Io<'_, '_>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> Result<Head, Stop> {
        let ends = self.client_eof || self.draining;
        let State::Turn(turn) = &mut self.state else { return Ok(Head::Taken(0)) };
        let out = io.client.spill();
        // As with requests.
        let first = if turn.scan.is_fresh() { turn.read_head(input, out, ends, context).ok() } else { None };
        let (next, end) = match first {
            Some(whole) => whole,
            None => {
                let end = find_end(input, &mut turn.scan, context.settings.header_bytes)?.ok_or(Stop::Incomplete)?;
                turn.read_head(&input[..end], out, ends, context).map_err(Stop::at_its_end)?
            }
        };
        turn.scan = Scan::default();
        match next {
            Next::Informational => turn.informational += 1,
            Next::Tunnel { websocket } => {
                outputs.answered(Some(101));
                outputs.tunnel(turn.request.log.take());
                self.state = State::Upgraded { websocket };
            }
            Next::Retry => {
                outputs.retry();
                return Ok(Head::Refused);
            }
            Next::Body(response) => {
                outputs.answered(Some(response.status));
                turn.download = Body::new(response.framing);
                turn.response = Some(response);
                self.pinned |= response.pins;
            }
        }
        Ok(Head::Taken(end))
    }

    fn relay_response<'i>(
        &mut self,
        input: &'i [u8],
        used: &mut usize,
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        let State::Turn(turn) = &mut self.state else { return };
        let Some(response) = turn.response else { return };
        let (limit, mut content) = (context.settings.header_bytes, 0);
        let relayed = turn.download.relay(input, response.encode, &mut io.client, limit, &mut content);
        self.downloaded(content, response, outputs, context);
        match relayed {
            Ok(n) => *used += n,
            Err(_) => self.fail(End { cause: Cause::EndpointProtocol, phase: Phase::Response }, true, outputs),
        }
    }

    /// So much more content of the response has gone to the client.
    #[inline]
    fn downloaded(&mut self, content: u64, response: Response, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = &mut self.state else { return };
        self.since = context.now;
        if let Some(log) = &mut turn.request.log {
            log.sent += content;
        }
        if turn.download.is_done() {
            self.end_turn(response, outputs, context);
        }
    }

    /// See [`crate::session::Session::may_pass_link`].
    pub(crate) fn may_pass_link(&self) -> u64 {
        match &self.state {
            State::Turn(turn) => turn.response.map_or(0, |response| turn.download.passes(response.encode)),
            State::Head | State::Upgraded { .. } | State::Closed => 0,
        }
    }

    pub(crate) fn link_passed(&mut self, n: u64, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = &mut self.state else { return };
        let Some(response) = turn.response else { return };
        turn.download.pass(n);
        self.downloaded(n, response, outputs, context);
    }

    /// The response is complete.
    fn end_turn(&mut self, response: Response, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = core::mem::replace(&mut self.state, State::Head) else { return };
        let uploaded = turn.upload.is_done();
        let fate = match (uploaded && !response.link_close, self.pinned) {
            (false, _) => LinkFate::Close,
            (true, false) => LinkFate::Reuse,
            (true, true) => LinkFate::Keep,
        };
        outputs.turn(TurnEnd { fate, status: Some(response.status), failure: None, log: turn.request.log });
        self.since = context.now;
        if response.client_close || self.client_eof || !uploaded {
            let cause = if self.draining { Cause::Shutdown } else { Cause::Done };
            // A client that did not ask for the end may have sent its next request already.
            let linger = !turn.request.close || !uploaded;
            self.state = State::Closed;
            outputs.end(End { cause, phase: Phase::Idle }, false, linger && !self.client_eof);
        }
    }

    pub(crate) fn link_eof(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = &mut self.state else { return };
        match (turn.response, turn.download) {
            // The end of the connection is the end of such a body.
            (Some(response), Body::Close) => {
                self.end_body(response, None, io, outputs, context);
            }
            _ => self.link_failed(LinkError::Failed(Cause::EndpointClosed), io, outputs, context),
        }
    }

    /// A body whose length the client was not told is over, and with it the response.
    fn end_body(
        &mut self,
        response: Response,
        trailers: Option<&Fields>,
        io: &mut Io<'_, '_>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        if response.encode == Encode::Chunked {
            put_last_chunk(trailers, io.client.spill());
        }
        self.end_turn(response, outputs, context);
    }

    /// See [`crate::session::Session::stream_fields`].
    pub(crate) fn stream_fields(
        &mut self,
        answer: &Answer<'_>,
        io: &mut Io<'_, '_>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        let ends = self.client_eof || self.draining;
        let State::Turn(turn) = &mut self.state else { return };
        let (request, out) = (&turn.request, io.client.spill());
        match (answer.part, turn.response) {
            (Part::Informational, _) if turn.informational < MAX_INFORMATIONAL => {
                turn.informational += 1;
                if request.minor == 1 {
                    response::put_fields(answer, None, request, out, context.settings);
                }
            }
            (Part::Head, _) if answer.status == 503 && context.may_retry => outputs.retry(),
            // Beyond that there are none in HTTP/1.1 (RFC 9110, section 15).
            (Part::Head, _) if answer.status < 600 => {
                let length = response::length_of(answer.fields);
                let response = Response::of_stream(answer, length, request, ends || !turn.upload.is_done());
                response::put_fields(answer, Some((&response, length)), request, out, context.settings);
                outputs.answered(Some(response.status));
                (turn.response, turn.download) = (Some(response), Body::Close);
                if answer.end {
                    self.end_turn(response, outputs, context);
                }
            }
            (Part::Trailers, Some(response)) => self.end_body(response, Some(answer.fields), io, outputs, context),
            _ => self.endpoint_flaw(io, outputs, context),
        }
    }

    /// See [`crate::session::Session::stream_data`].
    pub(crate) fn stream_data<'i>(
        &mut self,
        data: &'i [u8],
        end: bool,
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        let State::Turn(turn) = &mut self.state else { return };
        let Some(response) = turn.response else { return };
        self.relay_response(data, &mut 0, io, outputs, context);
        if end {
            self.end_body(response, None, io, outputs, context);
        }
    }

    pub(crate) fn link_failed(
        &mut self,
        error: LinkError,
        io: &mut Io<'_, '_>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        let State::Turn(turn) = &self.state else { return };
        if turn.response.is_some() {
            return self.fail(End { cause: error.cause(), phase: Phase::Response }, true, outputs);
        }
        self.answer(&Own::of(error), io, outputs, context);
    }

    /// The endpoint's bytes are not a response to this request.
    fn endpoint_flaw(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        self.link_failed(LinkError::Failed(Cause::EndpointProtocol), io, outputs, context);
    }

    /// Ends a turn, of whose response nothing was sent, with a response of ours.
    fn answer(&mut self, own: &Own<'_>, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = core::mem::replace(&mut self.state, State::Head) else { return };
        let close = turn.request.close || !turn.upload.is_done() || self.client_eof || self.draining;
        put_own(io.client.spill(), own, turn.request.head, close, context.settings);
        let (log, end) = (turn.request.log, own.end);
        outputs.turn(TurnEnd { fate: LinkFate::Close, status: Some(own.status), failure: Some(end), log });
        self.since = context.now;
        if close {
            self.state = State::Closed;
            outputs.end(end, false, !self.client_eof);
        }
    }

    /// Answers a malformed request and ends the session: its next byte could be anything.
    fn refuse(&mut self, flaw: Flaw, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let cause = if flaw.limit().is_some() { Cause::ClientLimit } else { Cause::ClientProtocol };
        if let Some(limit) = flaw.limit() {
            outputs.limit(limit);
        }
        let end = End { cause, phase: Phase::Request };
        let (begun, head, log) = match core::mem::replace(&mut self.state, State::Closed) {
            State::Turn(turn) => (turn.response.is_some(), turn.request.head, turn.request.log),
            _ => (false, false, None),
        };
        outputs.turn(TurnEnd { fate: LinkFate::Close, status: Some(flaw.status()), failure: Some(end), log });
        if !begun {
            let own = Own { status: flaw.status(), end, sentence: flaw.explain(), retry_after: 1, pushback: None };
            put_own(io.client.spill(), &own, head, true, context.settings);
        }
        outputs.end(end, begun, true);
    }

    /// Ends a turn that cannot be answered any more, and the session with it.
    fn fail(&mut self, end: End, abort: bool, outputs: &mut Outputs) {
        if let State::Turn(turn) = core::mem::replace(&mut self.state, State::Closed) {
            let status = turn.response.map(|r| r.status);
            outputs.turn(TurnEnd { fate: LinkFate::Close, status, failure: Some(end), log: turn.request.log });
        }
        outputs.end(end, abort, false);
    }

    /// What there is to log of the present turn.
    pub(crate) fn take_log(&mut self) -> Option<Box<TurnLog>> {
        match &mut self.state {
            State::Turn(turn) => turn.request.log.take(),
            _ => None,
        }
    }

    fn close(&mut self, end: End, linger: bool, outputs: &mut Outputs) {
        self.state = State::Closed;
        outputs.end(end, false, linger);
    }

    pub(crate) fn drain(&mut self, outputs: &mut Outputs) {
        self.draining = true;
        if matches!(self.state, State::Head) && !self.begun {
            self.close(End { cause: Cause::Shutdown, phase: Phase::Idle }, true, outputs);
        }
    }

    pub(crate) fn handle_timeout(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        match self.timeout(context.settings) {
            Some((due, _)) if due > context.now => {}
            None => {}
            Some((_, Reason::Response)) => {
                self.link_failed(LinkError::Failed(Cause::EndpointTimeout), io, outputs, context);
            }
            Some((_, Reason::Head)) => {
                let end = End { cause: Cause::ClientTimeout, phase: Phase::Request };
                outputs.limit(Limit::HeaderTime);
                put_own(io.client.spill(), &Own::too_slow(end), false, true, context.settings);
                self.close(end, true, outputs);
            }
            Some((_, Reason::Body)) => self.check_pace(io, outputs, context),
            Some((_, Reason::Farewell)) => {
                self.close(End { cause: Cause::Shutdown, phase: Phase::Idle }, true, outputs);
            }
            Some((_, Reason::Idle | Reason::Detect)) => match &self.state {
                State::Turn(turn) => {
                    // Nobody moved for the idle timeout; whose turn it was to move is to blame.
                    let cause = if turn.upload.is_done() { Cause::EndpointTimeout } else { Cause::ClientTimeout };
                    self.fail(End { cause, phase: self.phase() }, true, outputs);
                }
                _ => {
                    if self.silent {
                        outputs.limit(Limit::FirstByte);
                    }
                    self.close(End { cause: Cause::Idle, phase: Phase::Idle }, true, outputs);
                }
            },
        }
    }

    /// The body should have come a good way since it was last looked at. If not, that may be due to an
    /// endpoint that does not take it, or has not yet told a client that asks first to go on.
    fn check_pace(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let State::Turn(turn) = &mut self.state else { return };
        let waits = turn.request.expects && turn.informational == 0 && turn.uploaded == 0;
        let came = turn.uploaded - turn.pace.1;
        let least = context.settings.body_rate.unwrap_or_default().saturating_mul(PACE_WINDOW.as_secs());
        if waits || context.link_backlog || came >= least {
            turn.pace = (context.now, turn.uploaded);
            return;
        }
        let begun = turn.response.is_some();
        outputs.limit(Limit::BodyRate);
        let end = End { cause: Cause::ClientTimeout, phase: self.phase() };
        if begun { self.fail(end, true, outputs) } else { self.answer(&Own::too_slow(end), io, outputs, context) }
    }

    pub(crate) fn timeout(&self, settings: &Settings) -> Option<(Instant, Reason)> {
        let idle = || (self.since + settings.idle_timeout, Reason::Idle);
        match &self.state {
            State::Head if self.begun => Some((self.since + settings.header_timeout, Reason::Head)),
            State::Turn(turn) if turn.awaits_response() && settings.request_timeout.is_some() => {
                Some((self.since + settings.request_timeout?, Reason::Response))
            }
            State::Head if self.draining => Some((self.since + PARTING, Reason::Farewell)),
            State::Head if self.silent => Some((self.since + settings.first_byte_timeout, Reason::Idle)),
            State::Turn(turn) if settings.body_rate.is_some() && !turn.upload.is_done() => {
                Some(core::cmp::min_by_key(idle(), (turn.pace.0 + PACE_WINDOW, Reason::Body), |&(at, _)| at))
            }
            State::Head | State::Turn(_) => Some(idle()),
            State::Upgraded { .. } | State::Closed => None,
        }
    }

    /// After a switch of protocols: to what.
    pub(crate) fn upgraded(&self) -> Option<Upgraded> {
        match self.state {
            State::Upgraded { websocket } => Some(Upgraded { websocket, client_eof: self.client_eof }),
            _ => None,
        }
    }

    pub(crate) fn wants_client(&self) -> bool {
        match &self.state {
            State::Head => true,
            State::Turn(turn) => !turn.upload.is_done(),
            State::Upgraded { .. } | State::Closed => false,
        }
    }

    pub(crate) fn wants_link(&self) -> bool {
        matches!(self.state, State::Turn(_))
    }

    pub(crate) fn phase(&self) -> Phase {
        match &self.state {
            State::Head if self.begun => Phase::Request,
            State::Head | State::Closed => Phase::Idle,
            State::Turn(turn) if turn.response.is_some() => Phase::Response,
            State::Turn(_) => Phase::Wait,
            State::Upgraded { .. } => Phase::Relay,
        }
    }
}
