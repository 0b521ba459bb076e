//! Opaque bytes both ways: TCP services, and HTTP connections after an upgrade.

use crate::engine::Outputs;
use crate::session::{Context, Io, LinkError, LinkFate, Reason, Settings, TurnEnd};
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::time::Instant;

/// A relay. The whole connection is one turn; each direction may end on its own.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The last byte in either direction.
    since: Instant,
    client_eof: bool,
    link_eof: bool,
    /// The endpoint said something (or, after an upgrade, its answer was the first byte).
    answered: bool,
    /// The status that opened it, for the books.
    status: Option<u16>,
}

impl Tunnel {
    pub(crate) fn new(status: Option<u16>, client_eof: bool, now: Instant) -> Self {
        Self { since: now, client_eof, link_eof: false, answered: status.is_some(), status }
    }

    pub(crate) fn client_data<'i>(&mut self, input: &'i [u8], io: &mut Io<'_, 'i>, context: &Context<'_>) -> usize {
        self.client_passed(context);
        io.link.payload(input);
        input.len()
    }

    pub(crate) fn client_passed(&mut self, context: &Context<'_>) {
        self.since = context.now;
    }

    pub(crate) fn link_data<'i>(
        &mut self,
        input: &'i [u8],
        io: &mut Io<'_, 'i>,
        outputs: &mut Outputs,
        context: &Context<'_>,
    ) -> usize {
        self.link_passed(outputs, context);
        io.client.payload(input);
        input.len()
    }

    pub(crate) fn link_passed(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        self.since = context.now;
        if !core::mem::replace(&mut self.answered, true) {
            outputs.answered(None);
        }
    }

    pub(crate) fn client_eof(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        self.since = context.now;
        self.client_eof = true;
        outputs.finish_link();
        self.end_if_both(outputs);
    }

    pub(crate) fn link_eof(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        self.since = context.now;
        self.link_eof = true;
        outputs.finish_client();
        self.end_if_both(outputs);
    }

    fn end_if_both(&mut self, outputs: &mut Outputs) {
        if self.client_eof && self.link_eof {
            outputs.turn(TurnEnd { fate: LinkFate::Close, status: self.status, failure: None, log: None });
            outputs.end(End { cause: Cause::Done, phase: Phase::Relay }, false, false);
        }
    }

    pub(crate) fn link_failed(&mut self, error: LinkError, outputs: &mut Outputs) {
        let phase = if self.answered { Phase::Relay } else { Phase::Connect };
        self.fail(End { cause: error.cause(), phase }, true, outputs);
    }

    fn fail(&mut self, end: End, abort: bool, outputs: &mut Outputs) {
        (self.client_eof, self.link_eof) = (true, true);
        outputs.turn(TurnEnd { fate: LinkFate::Close, status: self.status, failure: Some(end), log: None });
        outputs.end(end, abort, false);
    }

    pub(crate) fn handle_timeout(&mut self, outputs: &mut Outputs, context: &Context<'_>) {
        if self.timeout(context.settings).0 <= context.now && !(self.client_eof && self.link_eof) {
            self.fail(End { cause: Cause::Idle, phase: Phase::Relay }, false, outputs);
        }
    }

    pub(crate) fn timeout(&self, settings: &Settings) -> (Instant, Reason) {
        (self.since + settings.idle_timeout, Reason::Idle)
    }

    pub(crate) fn wants_client(&self) -> bool {
        !self.client_eof
    }

    pub(crate) fn wants_link(&self) -> bool {
        !self.link_eof
    }
}
