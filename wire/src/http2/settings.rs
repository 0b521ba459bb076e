//! What peers tell each other (RFC 9113, section 6.5), and what an operator may set.

use super::budget::Allowance;
use super::error::Code;
use super::flow::{DEFAULT_WINDOW, MAX_WINDOW};
use super::frame::{DEFAULT_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, Parameters};
use super::hpack::DEFAULT_TABLE_BYTES;
use evenkeel_core::time::Duration;

pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(super) const ENABLE_PUSH: u16 = 0x2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
/// RFC 8441, section 3.
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
/// RFC 9218, section 2.1.
pub(super) const NO_RFC7540_PRIORITIES: u16 = 0x9;

/// Which side of a connection we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// We open streams.
    Client,
    /// The peer does.
    Server,
}

/// How we treat a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Streams that a client may have open at once.
    pub streams: u32,
    /// Bytes that a peer may send on a stream before somebody takes them.
    pub stream_window: u32,
    /// The same for all streams together; at least 65,535. To be twice `stream_window` or more, so that a
    /// stream whose bytes nobody takes leaves something for the others.
    pub connection_window: u32,
    /// Bytes of each HPACK table.
    pub table_bytes: u32,
    /// Bytes of a head or trailers, with 32 for each field.
    pub header_bytes: u32,
    /// Fields of a head or trailers.
    pub header_fields: u32,
    /// May CONNECT name a protocol (RFC 8441)? Servers only.
    pub extended_connect: bool,
    /// From the beginning to the peer's SETTINGS, and from ours to its acknowledgement.
    pub settings_timeout: Duration,
    /// From the first fragment of a block to its last.
    pub block_timeout: Duration,
    /// How long a stream may have something to send that the peer's windows do not let go.
    pub stall_timeout: Duration,
    /// How long a peer that was told to open no more streams may go on doing so, if it does not say that it heard.
    pub farewell: Duration,
    /// From a PING to its answer.
    pub ping_timeout: Duration,
    /// What a peer may do without getting on.
    pub allowance: Allowance,
}

impl Default for Config {
    /// What a service without any configuration has.
    fn default() -> Self {
        Self {
            streams: 128,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            table_bytes: DEFAULT_TABLE_BYTES,
            header_bytes: 64 * 1024,
            header_fields: 100,
            extended_connect: true,
            settings_timeout: Duration::from_secs(10),
            block_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(60),
            farewell: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(10),
            allowance: Allowance::default(),
        }
    }
}

impl Config {
    /// What the peer is told. Its table is as large as ours.
    pub(super) fn parameters(&self, role: Role) -> [(u16, u32); 6] {
        let by_role = match role {
            Role::Client => [(ENABLE_PUSH, 0), (NO_RFC7540_PRIORITIES, 1)],
            Role::Server => {
                [(MAX_CONCURRENT_STREAMS, self.streams), (ENABLE_CONNECT_PROTOCOL, self.extended_connect.into())]
            }
        };
        [
            by_role[0],
            by_role[1],
            (HEADER_TABLE_SIZE, self.table_bytes),
            (INITIAL_WINDOW_SIZE, self.stream_window),
            (MAX_FRAME_SIZE, DEFAULT_PAYLOAD_BYTES as u32),
            (MAX_HEADER_LIST_SIZE, self.header_bytes),
        ]
    }
}

/// What a peer told us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Bytes of its HPACK table.
    pub table_bytes: u32,
    /// Streams that we may have open at once.
    pub streams: u32,
    /// Bytes that we may send on a new stream.
    pub stream_window: u32,
    /// Bytes of a head that it takes, as far as it says.
    pub header_bytes: u32,
    /// CONNECT may name a protocol (RFC 8441).
    pub extended_connect: bool,
}

impl Default for Remote {
    /// Before it has told anything (section 6.5.2).
    fn default() -> Self {
        Self {
            table_bytes: DEFAULT_TABLE_BYTES,
            streams: u32::MAX,
            stream_window: DEFAULT_WINDOW,
            header_bytes: u32::MAX,
            extended_connect: false,
        }
    }
}

impl Remote {
    /// What it is behind a SETTINGS frame of a peer whose role is not `role`.
    pub(super) fn after(mut self, parameters: Parameters<'_>, role: Role) -> Result<Self, Code> {
        for (identifier, value) in parameters.iter() {
            match identifier {
                HEADER_TABLE_SIZE => self.table_bytes = value,
                // Servers push, so only clients may ask for it.
                ENABLE_PUSH if value > u32::from(role == Role::Server) => return Err(Code::PROTOCOL_ERROR),
                MAX_CONCURRENT_STREAMS => self.streams = value,
                INITIAL_WINDOW_SIZE if value > MAX_WINDOW => return Err(Code::FLOW_CONTROL_ERROR),
                INITIAL_WINDOW_SIZE => self.stream_window = value,
                // All that we send fits the smallest.
                MAX_FRAME_SIZE if !(DEFAULT_PAYLOAD_BYTES..=MAX_PAYLOAD_BYTES).contains(&(value as usize)) => {
                    return Err(Code::PROTOCOL_ERROR);
                }
                MAX_HEADER_LIST_SIZE => self.header_bytes = value,
                // It cannot be taken back.
                ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.extended_connect) => {
                    return Err(Code::PROTOCOL_ERROR);
                }
                ENABLE_CONNECT_PROTOCOL => self.extended_connect = value == 1,
                NO_RFC7540_PRIORITIES if value > 1 => return Err(Code::PROTOCOL_ERROR),
                _ => {}
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Frame, parse, put_settings};
    use super::*;
    use alloc::vec::Vec;

    fn told(parameters: &[(u16, u32)], role: Role) -> Result<Remote, Code> {
        let mut out = Vec::new();
        put_settings(&mut out, parameters);
        match parse(&out, DEFAULT_PAYLOAD_BYTES) {
            Ok(Some((Ok(Frame::Settings(parameters)), _))) => Remote::default().after(parameters, role),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_word_counts_and_the_unknown_does_not() {
        let remote = told(&[(MAX_CONCURRENT_STREAMS, 1), (0xABCD, 7), (MAX_CONCURRENT_STREAMS, 2)], Role::Client);
        assert_eq!(remote, Ok(Remote { streams: 2, ..Remote::default() }));
    }

    #[test]
    fn our_own_are_valid() {
        for (ours, theirs) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
            let config = Config::default();
            let remote = told(&config.parameters(ours), theirs).unwrap();
            assert_eq!((remote.stream_window, remote.header_bytes), (config.stream_window, config.header_bytes));
        }
    }

    #[test]
    fn values_out_of_range_have_their_error() {
        for (identifier, value, role, code) in [
            (ENABLE_PUSH, 2, Role::Server, Code::PROTOCOL_ERROR),
            (ENABLE_PUSH, 1, Role::Client, Code::PROTOCOL_ERROR),
            (INITIAL_WINDOW_SIZE, 1 << 31, Role::Server, Code::FLOW_CONTROL_ERROR),
            (MAX_FRAME_SIZE, 16_383, Role::Server, Code::PROTOCOL_ERROR),
            (MAX_FRAME_SIZE, 1 << 24, Role::Server, Code::PROTOCOL_ERROR),
            (ENABLE_CONNECT_PROTOCOL, 2, Role::Client, Code::PROTOCOL_ERROR),
            (NO_RFC7540_PRIORITIES, 2, Role::Server, Code::PROTOCOL_ERROR),
        ] {
            assert_eq!(told(&[(identifier, value)], role), Err(code), "{identifier} {value}");
        }
        let taken_back = [(ENABLE_CONNECT_PROTOCOL, 1), (ENABLE_CONNECT_PROTOCOL, 0)];
        assert_eq!(told(&taken_back, Role::Client), Err(Code::PROTOCOL_ERROR));
    }
}
