//! Answers that evenkeel gives by itself, whatever the version of HTTP.

use crate::grpc::{status, status_of};
use crate::session::LinkError;
use evenkeel_core::end::{Cause, End, Phase};
use evenkeel_core::picker::NoPick;

/// A response of our own.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its status in HTTP.
    pub status: u16,
    /// Whose doing it is that there is no other.
    pub end: End,
    /// For people.
    pub sentence: &'a str,
    /// When to try again, in seconds; only 503 says it.
    pub retry_after: u32,
    /// When a call of gRPC is to be tried again, in milliseconds; `None`: that is not said.
    pub pushback: Option<u32>,
}

impl Own<'_> {
    /// There is no link, and nothing of a response was passed on.
    pub fn of(error: LinkError) -> Own<'static> {
        let (status, phase, sentence) = match error {
            LinkError::NoEndpoint(none) => {
                let sentence = match none {
                    NoPick::Empty => "no endpoint of this service is known",
                    NoPick::NoneReady => "no endpoint of this service is ready",
                };
                (503, Phase::Connect, sentence)
            }
            LinkError::Overload => (503, Phase::Connect, "too many requests wait for this service"),
            LinkError::Refused => (503, Phase::Wait, "the endpoint refused the request"),
            LinkError::Later(_) => (503, Phase::Connect, "too many clients connect at once; come back later"),
            LinkError::Failed(Cause::ConnectFailed) => (502, Phase::Connect, "no endpoint could be connected to"),
            LinkError::Failed(Cause::ConnectTimeout) => {
                (504, Phase::Connect, "connecting to an endpoint took too long")
            }
            LinkError::Failed(Cause::EndpointTls) => (502, Phase::Connect, "TLS with the endpoint failed"),
            LinkError::Failed(Cause::EndpointTimeout) => (504, Phase::Wait, "the endpoint did not answer in time"),
            LinkError::Failed(Cause::Deadline) => {
                (504, Phase::Wait, "the deadline of the call passed before it was answered")
            }
            LinkError::Failed(Cause::Aged) => (503, Phase::Wait, "the call is as old as calls may become"),
            LinkError::Failed(Cause::Shutdown) => (503, Phase::Wait, "evenkeel is shutting down"),
            LinkError::Failed(Cause::EndpointProtocol) => {
                (502, Phase::Wait, "the endpoint's answer was not valid HTTP")
            }
            LinkError::Failed(Cause::EndpointClosed) => {
                (502, Phase::Wait, "the endpoint closed its connection before it answered")
            }
            LinkError::Failed(_) => (502, Phase::Connect, "evenkeel could not open a connection"),
        };
        let retry_after = match error {
            LinkError::Later(seconds) => seconds,
            _ => 1,
        };
        Own { status, end: End { cause: error.cause(), phase }, sentence, retry_after, pushback: None }
    }

    /// The link is gone, or the turn is to end, in the middle of a response: how it ends, if it can say so.
    pub fn amid(error: LinkError) -> Own<'static> {
        let own = Own::of(error);
        let sentence = match error {
            LinkError::Failed(Cause::Deadline) => "the deadline of the call passed before its answer was complete",
            LinkError::Failed(Cause::EndpointTimeout) => "the endpoint said nothing for too long",
            LinkError::Failed(Cause::EndpointClosed) => "the endpoint broke off its answer",
            _ => own.sentence,
        };
        Own { end: End { phase: Phase::Response, ..own.end }, sentence, ..own }
    }

    /// The request did not arrive in time.
    pub fn too_slow(end: End) -> Own<'static> {
        Own { status: 408, end, sentence: "the request took too long to arrive", retry_after: 1, pushback: None }
    }

    /// What is asked for is larger than allowed.
    pub fn limit(status: u16, sentence: &'static str) -> Own<'static> {
        let end = End { cause: Cause::ClientLimit, phase: Phase::Request };
        Own { status, end, sentence, retry_after: 1, pushback: None }
    }

    /// The same in gRPC: the status of a call (<https://grpc.io/docs/guides/status-codes>).
    pub fn grpc_status(&self) -> u8 {
        // Nobody does what is asked for.
        if self.status == 501 { status::UNIMPLEMENTED } else { status_of(self.end.cause) }
    }
}
