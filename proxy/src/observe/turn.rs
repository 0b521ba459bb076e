//! A turn that is over, as access log and traces tell of it.

use evenkeel_core::end::End;
use evenkeel_core::time::Duration;
use evenkeel_wire::session::TurnLog;
use std::net::SocketAddr;
use std::time::SystemTime;

/// One turn.
#[derive(Debug)]
pub(crate) struct TurnRecord {
    pub(crate) service: String,
    /// The endpoint that had it last.
    pub(crate) endpoint: Option<String>,
    pub(crate) client: SocketAddr,
    /// Did the client come over TLS?
    pub(crate) tls: bool,
    pub(crate) status: Option<u16>,
    pub(crate) end: Option<End>,
    /// From its beginning to the connection that it was answered on.
    pub(crate) waited: Option<Duration>,
    /// From its beginning to the first byte of its answer.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) duration: Duration,
    pub(crate) tries: u32,
    /// When it was over.
    pub(crate) ended: SystemTime,
    pub(crate) log: Box<TurnLog>,
}
