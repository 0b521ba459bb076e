//! Why a session or a turn ended: a closed list that logs, metrics and `evenkeel why` share.

use core::fmt;

/// How one session, or one failed turn, ended: whose doing, and how far it had come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct End {
    /// Whose doing, and what.
    pub cause: Cause,
    /// How far things had come.
    pub phase: Phase,
}

macro_rules! closed_list {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }
        impl $name {
            /// Every value, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The name in logs, metric labels and response headers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

closed_list! {
    /// Whose doing, and what.
    Cause {
        /// Both sides finished; nothing went wrong.
        Done = "done",
        /// The client closed or reset its connection before the turn was over.
        ClientClosed = "client-closed",
        /// The client broke its protocol.
        ClientProtocol = "client-protocol",
        /// The TLS handshake with the client failed.
        ClientTls = "client-tls",
        /// The client exceeded a limit.
        ClientLimit = "client-limit",
        /// The client sent or read nothing for too long.
        ClientTimeout = "client-timeout",
        /// No endpoint could take the turn.
        NoEndpoint = "no-endpoint",
        /// Connecting to the endpoint failed (refused, unreachable, reset).
        ConnectFailed = "connect-failed",
        /// Connecting to the endpoint took too long.
        ConnectTimeout = "connect-timeout",
        /// The endpoint closed or reset its connection before the turn was over.
        EndpointClosed = "endpoint-closed",
        /// The endpoint broke its protocol.
        EndpointProtocol = "endpoint-protocol",
        /// The TLS handshake with the endpoint failed: it does not speak TLS, or is not who it should be.
        EndpointTls = "endpoint-tls",
        /// The endpoint did not answer in time.
        EndpointTimeout = "endpoint-timeout",
        /// The time that the client gave its call was over (`grpc-timeout`).
        Deadline = "deadline",
        /// The endpoint left; the session was asked to go, or its drain grace ended.
        EndpointDrained = "endpoint-drained",
        /// The client was asked to come back and go to another endpoint, for balance.
        Moved = "moved",
        /// Nothing was said on an open connection for the idle timeout.
        Idle = "idle",
        /// The connection, or the stream, was as old as its kind may become.
        Aged = "aged",
        /// evenkeel refused or ended it to stay within its own limits.
        Overload = "overload",
        /// evenkeel is shutting down.
        Shutdown = "shutdown",
        /// Something on this machine failed (out of descriptors, out of ports).
        Local = "local",
        /// A fault in evenkeel itself; please report it.
        Bug = "bug",
    }
}

closed_list! {
    /// A limit that somebody ran into. Each has a key of this name, but for `descriptors`, which is the
    /// system's.
    Limit {
        /// Sessions of a service.
        Sessions = "sessions",
        /// Sessions of a service from one client address.
        SessionsPerSource = "sessions_per_source",
        /// Upgraded sessions of a service.
        Upgrades = "upgrades",
        /// Upgrades per second.
        UpgradeRate = "upgrade_rate",
        /// Time to the first byte of a session.
        FirstByte = "first_byte",
        /// Time to the end of a request head.
        HeaderTime = "header",
        /// Bytes of a head.
        HeaderBytes = "header_bytes",
        /// Fields of a head.
        HeaderFields = "header_fields",
        /// Bytes of a request target.
        UriBytes = "uri_bytes",
        /// Requests at once of an HTTP/2 session.
        Streams = "streams",
        /// Age of a call of gRPC.
        StreamAge = "max_stream_age",
        /// Bytes of a request body.
        BodyBytes = "body_bytes",
        /// Bytes per second of a request body.
        BodyRate = "body_rate",
        /// Turns that wait for a connection to an endpoint.
        Queue = "queue",
        /// Time that they wait.
        QueueTime = "queue_timeout",
        /// Retries as a part of all turns.
        RetryBudget = "retry_budget",
        /// Open files of the process.
        Descriptors = "descriptors",
    }
}

closed_list! {
    /// How far a session had come when it ended.
    Phase {
        /// Accepted; a PROXY header or TLS comes before anything else.
        Handshake = "handshake",
        /// Accepted, protocol not yet known.
        Detect = "detect",
        /// Between turns.
        Idle = "idle",
        /// Receiving the head of a request.
        Request = "request",
        /// Choosing an endpoint or connecting to it.
        Connect = "connect",
        /// The request was (being) sent, nothing of the response seen.
        Wait = "wait",
        /// Part of the response was passed on.
        Response = "response",
        /// Relaying opaque bytes.
        Relay = "relay",
    }
}
