//! WebSocket sessions (RFC 6455): frames are relayed as they are, and followed, so that a session can be
//! ended between two messages with a Close frame that its client understands.
//!
//! A farewell: the message that is being sent to the client is finished, then comes our Close. From
//! there on the client gets nothing more; what it still says reaches the endpoint, up to the Close that
//! answers ours and ends the session for the endpoint, too. Whoever takes too long is cut.

mod frames;

use self::frames::{Frames, MAX_HEADER, Until, put_close};
use crate::engine::Outputs;
use crate::session::{Context, Io, Leave, LinkError, LinkFate, Reason, Settings, TurnEnd};
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::time::{Duration, Instant};

/// How long a message under way may take to end before our Close goes between two of its fragments.
const MESSAGE: Duration = Duration::from_secs(2);
/// How long a client may take to answer our Close, and a frame under way to end.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an endpoint may take to close its connection once both sides have said Close.
const LINK_CLOSE: Duration = Duration::from_secs(1);

/// A relay that knows frames. The whole session is one turn.
#[derive(Debug)]
pub(crate) struct WebSocket {
    /// The last byte in either direction, or the last step of a farewell.
    since: Instant,
    /// From the client.
    up: Frames,
    /// From the endpoint.
    down: Frames,
    client_eof: bool,
    link_eof: bool,
    /// The turn is over; its link is gone.
    unlinked: bool,
    farewell: Option<Farewell>,
}

/// A session that is being ended by us.
#[derive(Clone, Copy, Debug)]
struct Farewell {
    cause: Cause,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Our Close waits for the end of a message.
    Message,
    /// Our Close waits for the end of a frame.
    Frame,
    /// Our Close was sent; its answer is awaited.
    Answer,
    /// The client answered; the endpoint closes its connection.
    Link,
}

impl WebSocket {
    pub(crate) fn new(client_eof: bool, now: Instant) -> Self {
        Self {
            since: now,
            up: Frames::default(),
            down: Frames::default(),
            client_eof,
            link_eof: false,
            unlinked: false,
            farewell: None,
        }
    }

    /// Ends the session as gently as it can be.
    pub(crate) fn leave(&mut self, leave: Leave, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        let cause = match leave {
            Leave::Shutdown => Cause::Shutdown,
            Leave::Move => Cause::Moved,
            Leave::EndpointDrained => Cause::EndpointDrained,
        };
        self.farewell(cause, io, outputs, context);
    }

    fn farewell(&mut self, cause: Cause, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        // Once the endpoint said Close there is nothing left to say.
        if self.farewell.is_none() && !self.down.is_closed() {
            self.since = context.now;
            self.farewell = Some(Farewell { cause, step: Step::Message });
            self.say_close(io, outputs);
        }
    }

    /// Says Close to the client if this is the moment.
    fn say_close(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs) {
        let Some(farewell) = &mut self.farewell else { return };
        let now = match farewell.step {
            Step::Message => self.down.between_messages(),
            Step::Frame => self.down.between_frames(),
            Step::Answer | Step::Link => false,
        };
        if !now {
            return;
        }
        let (code, reason) = match farewell.cause {
            Cause::Shutdown => (1001, "evenkeel leaves"),
            Cause::Idle => (1001, "idle"),
            Cause::ClientProtocol => (1002, "frame length"),
            Cause::EndpointProtocol => (1011, "the endpoint broke the protocol"),
            Cause::Moved => (1012, "come back, to another endpoint"),
            Cause::EndpointDrained => (1012, "the endpoint leaves"),
            _ => (1012, "the endpoint is gone"),
        };
        put_close(io.client.spill(), code, reason, None);
        farewell.step = Step::Answer;
        if self.up.is_closed() || self.client_eof {
            self.answered(outputs);
        }
    }

    /// The client will say no more.
    fn answered(&mut self, outputs: &mut Outputs) {
        let Some(farewell) = &mut self.farewell else { return };
        if farewell.step != Step::Answer {
            return;
        }
        farewell.step = Step::Link;
        if self.unlinked || self.link_eof {
            return self.end(outputs);
        }
        // The client has the last word to it: FIN says that there is no more.
        outputs.finish_client();
        outputs.finish_link();
    }

    pub(crate) fn client_data<'i>(
        &mut self,
        input: &'i [u8],
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> usize {
        if self.unlinked || self.up.is_closed() {
            // Nobody to tell. But an answer to our Close is heard, and so is what can have none any more:
            // behind a frame without boundaries there is no other.
            let (n, result) = self.up.follow(input, Until::Input);
            if !self.up.is_closed() && result.is_ok() {
                return n;
            }
            self.answered(outputs);
            return input.len();
        }
        let (n, result) = self.up.follow(input, Until::Input);
        if n > 0 {
            io.link.payload(&input[..n]);
            self.moved(context);
        }
        if result.is_err() {
            self.refuse(io, outputs, context);
            return input.len();
        }
        self.hear_answer(outputs, context);
        n
    }

    /// Something was said; a farewell has clocks of its own.
    fn moved(&mut self, context: &Context<'_>) {
        if self.farewell.is_none() {
            self.since = context.now;
        }
    }

    /// Was that the client's answer to our Close?
    fn hear_answer(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        if self.up.is_closed() && self.farewell.is_some_and(|f| f.step == Step::Answer) {
            self.since = context.now;
            self.answered(outputs);
        }
    }

    /// See [`crate::session::Session::may_pass_client`].
    pub(crate) fn may_pass_client(&self) -> u64 {
        if self.unlinked { 0 } else { self.up.passes() }
    }

    pub(crate) fn client_passed(&mut self, n: u64, outputs: &mut Outputs, context: &Context<'_>) {
        self.up.pass(n);
        self.moved(context);
        self.hear_answer(outputs, context);
    }

    /// The client's next frame has no boundaries: both sides are told, and that is the end.
    fn refuse(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        // What went to the endpoint ended with a frame.
        let key = (context.now.as_nanos() as u32 | 1).to_be_bytes();
        put_close(io.link.spill(), 1002, "", Some(key));
        let cause = Cause::ClientProtocol;
        if self.farewell.is_none_or(|f| matches!(f.step, Step::Message | Step::Frame)) && self.down.between_frames() {
            self.farewell = Some(Farewell { cause, step: Step::Frame });
            self.say_close(io, outputs);
        }
        let end = End { cause, phase: Phase::Relay };
        self.unlink(Some(end), outputs);
        outputs.end(end, false, true);
    }

    pub(crate) fn client_eof(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        self.client_eof = true;
        if self.farewell.is_some_and(|f| f.step == Step::Answer) {
            self.since = context.now;
            return self.answered(outputs);
        }
        if self.farewell.is_none() {
            self.since = context.now;
            outputs.finish_link();
            self.end_if_both(outputs);
        }
    }

    pub(crate) fn link_data<'i>(
        &mut self,
        input: &'i [u8],
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> usize {
        let until = match self.farewell {
            None => Until::Input,
            Some(Farewell { step: Step::Message, .. }) => Until::Message,
            Some(Farewell { step: Step::Frame, .. }) => Until::Frame,
            // Said behind our Close, or behind its own: nobody may hear that.
            Some(_) => return input.len(),
        };
        let (n, result) = self.down.follow(input, until);
        if n > 0 {
            io.client.payload(&input[..n]);
            self.moved(context);
        }
        if result.is_err() {
            let end = End { cause: Cause::EndpointProtocol, phase: Phase::Relay };
            self.unlink(Some(end), outputs);
            self.farewell = Some(Farewell { cause: end.cause, step: Step::Frame });
            self.since = context.now;
            self.say_close(io, outputs);
            return input.len();
        }
        if self.hear_close(io, outputs) { input.len() } else { n }
    }

    /// The endpoint's own Close? Whatever stands behind it is nothing. If not, ours may be due.
    fn hear_close(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs) -> bool {
        let closed = self.down.is_closed();
        if closed {
            self.farewell = None;
        } else {
            self.say_close(io, outputs);
        }
        closed
    }

    /// See [`crate::session::Session::may_pass_link`].
    pub(crate) fn may_pass_link(&self) -> u64 {
        match self.farewell.map(|f| f.step) {
            None | Some(Step::Message | Step::Frame) => self.down.passes(),
            Some(Step::Answer | Step::Link) => 0,
        }
    }

    pub(crate) fn link_passed(&mut self, n: u64, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        self.down.pass(n);
        self.moved(context);
        self.hear_close(io, outputs);
    }

    pub(crate) fn link_eof(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        self.link_eof = true;
        match self.farewell {
            Some(Farewell { step: Step::Link, .. }) => self.end(outputs),
            Some(Farewell { step: Step::Answer, .. }) => {}
            _ if self.down.is_closed() => {
                self.since = context.now;
                outputs.finish_client();
                self.end_if_both(outputs);
            }
            _ => self.link_failed(LinkError::Failed(Cause::EndpointClosed), io, outputs, context),
        }
    }

    /// The endpoint is gone without a word: the client gets one, if it is between two frames.
    pub(crate) fn link_failed(
        &mut self,
        error: LinkError,
        io: &mut Io<'_, '_>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) {
        let end = End { cause: error.cause(), phase: Phase::Relay };
        if self.farewell.is_some_and(|f| f.step == Step::Link) {
            return self.end(outputs);
        }
        let said = self.farewell.is_some_and(|f| f.step == Step::Answer) || self.down.is_closed();
        self.unlink(if said { None } else { Some(end) }, outputs);
        if said {
            return;
        }
        if !self.down.between_frames() || self.client_eof {
            return outputs.end(end, true, false);
        }
        self.since = context.now;
        self.farewell = Some(Farewell { cause: end.cause, step: Step::Frame });
        self.say_close(io, outputs);
    }

    /// The turn is over, the session not yet.
    fn unlink(&mut self, failure: Option<End>, outputs: &mut Outputs) {
        if !core::mem::replace(&mut self.unlinked, true) {
            outputs.turn(TurnEnd { fate: LinkFate::Close, status: Some(101), failure, log: None });
        }
    }

    fn end(&mut self, outputs: &mut Outputs) {
        let cause = self.farewell.map_or(Cause::Done, |f| f.cause);
        self.unlink(None, outputs);
        outputs.end(End { cause, phase: Phase::Relay }, false, !self.client_eof && !self.up.is_closed());
    }

    fn end_if_both(&mut self, outputs: &mut Outputs) {
        if self.client_eof && self.link_eof {
            self.end(outputs);
        }
    }

    pub(crate) fn handle_timeout(&mut self, io: &mut Io<'_, '_>, outputs: &mut Outputs, context: &Context<'_>) {
        if self.timeout(context.settings).0 > context.now {
            return;
        }
        match &mut self.farewell {
            None => self.farewell(Cause::Idle, io, outputs, context),
            Some(farewell) => match farewell.step {
                Step::Message => {
                    (farewell.step, self.since) = (Step::Frame, context.now);
                    self.say_close(io, outputs);
                }
                // Cut in the middle of a frame: the client must not take it for whole.
                Step::Frame => {
                    let end = End { cause: farewell.cause, phase: Phase::Relay };
                    self.unlink(None, outputs);
                    outputs.end(end, true, false);
                }
                Step::Answer | Step::Link => self.end(outputs),
            },
        }
    }

    pub(crate) fn timeout(&self, settings: &Settings) -> (Instant, Reason) {
        match self.farewell.map(|f| f.step) {
            None => (self.since + settings.idle_timeout, Reason::Idle),
            Some(Step::Message) => (self.since + MESSAGE, Reason::Farewell),
            Some(Step::Frame | Step::Answer) => (self.since + ANSWER, Reason::Farewell),
            Some(Step::Link) => (self.since + LINK_CLOSE, Reason::Farewell),
        }
    }

    pub(crate) fn wants_client(&self) -> bool {
        !self.client_eof
    }

    pub(crate) fn wants_link(&self) -> bool {
        !self.link_eof && !self.unlinked
    }

    /// Is it ending, whoever began to?
    pub(crate) fn is_leaving(&self) -> bool {
        self.farewell.is_some() || self.down.is_closed() || self.up.is_closed()
    }

    /// When the last byte was seen, unless it is ending.
    pub(crate) fn quiet_since(&self) -> Instant {
        self.since
    }

    /// Is no message under way?
    pub(crate) fn is_between_messages(&self) -> bool {
        self.down.between_messages() && self.up.between_messages()
    }
}

/// A header that is not complete waits in the worker's buffer, and is all that waits there.
const _: () = assert!(MAX_HEADER < 64);
