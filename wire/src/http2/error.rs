//! What can go wrong, and what the peer is told.

use core::fmt;

/// An error code (RFC 9113, section 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

#[rustfmt::skip]
#[allow(missing_docs)]
impl Code {
    pub const NO_ERROR: Self = Self(0x0);
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    pub const INTERNAL_ERROR: Self = Self(0x2);
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    pub const STREAM_CLOSED: Self = Self(0x5);
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    pub const REFUSED_STREAM: Self = Self(0x7);
    pub const CANCEL: Self = Self(0x8);
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    pub const CONNECT_ERROR: Self = Self(0xA);
    pub const ENHANCE_YOUR_CALM: Self = Self(0xB);
    pub const INADEQUATE_SECURITY: Self = Self(0xC);
    pub const HTTP_1_1_REQUIRED: Self = Self(0xD);
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// How much of a connection an error takes with it (section 5.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// All of it.
    Connection,
    /// One stream.
    Stream(u32),
}

/// An error and its scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error {
    /// How much it takes with it.
    pub scope: Scope,
    /// What the peer is told.
    pub code: Code,
}

impl Error {
    /// The connection is over.
    pub const fn connection(code: Code) -> Self {
        Self { scope: Scope::Connection, code }
    }

    /// A stream is over.
    pub const fn stream(id: u32, code: Code) -> Self {
        Self { scope: Scope::Stream(id), code }
    }
}
