//! What can go wrong, and what the peer is told.

use core::fmt;

/// An error code (RFC 9113, section 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

macro_rules! codes {
    ($($name:ident = $number:literal, $what:literal;)+) => {
        impl Code {
            $(
                #[doc = $what]
                pub const $name: Self = Self($number);
            )+
        }

        impl fmt::Debug for Code {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    $($number => f.write_str(stringify!($name)),)+
                    other => write!(f, "{other:#x}"),
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0x0, "It ends well.";
    PROTOCOL_ERROR = 0x1, "Something was sent that may not be, and no other code says it better.";
    INTERNAL_ERROR = 0x2, "The fault is the sender's of this code.";
    FLOW_CONTROL_ERROR = 0x3, "More data than the window allowed.";
    SETTINGS_TIMEOUT = 0x4, "SETTINGS were not acknowledged in time.";
    STREAM_CLOSED = 0x5, "A frame for a stream that its sender had ended.";
    FRAME_SIZE_ERROR = 0x6, "A frame of a length that it may not have.";
    REFUSED_STREAM = 0x7, "Nothing was done for this stream: it may be tried again.";
    CANCEL = 0x8, "The stream is not needed any more.";
    COMPRESSION_ERROR = 0x9, "A header block could not be decoded; no later one can be.";
    CONNECT_ERROR = 0xA, "The connection behind a CONNECT broke.";
    ENHANCE_YOUR_CALM = 0xB, "Too much work for too little.";
    INADEQUATE_SECURITY = 0xC, "TLS is weaker than HTTP/2 wants it.";
    HTTP_1_1_REQUIRED = 0xD, "To be asked over HTTP/1.1.";
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
