//! gRPC, as far as somebody between two ends has to know it: its statuses, its times.
//!
//! A call is a request of HTTP/2 whose outcome stands in the trailers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

pub mod health;

use alloc::format;
use alloc::string::String;
use core::time::Duration;
use evenkeel_core::end::Cause;

/// Statuses of calls (<https://grpc.io/docs/guides/status-codes>).
pub mod status {
    /// It went well.
    pub const OK: u8 = 0;
    /// The client gave it up.
    pub const CANCELLED: u8 = 1;
    /// Nobody knows, or applications do not say.
    pub const UNKNOWN: u8 = 2;
    /// What was asked cannot be understood.
    pub const INVALID_ARGUMENT: u8 = 3;
    /// Its time was over.
    pub const DEADLINE_EXCEEDED: u8 = 4;
    /// What was asked for is not there.
    pub const NOT_FOUND: u8 = 5;
    /// The client may not do that.
    pub const PERMISSION_DENIED: u8 = 7;
    /// Something is used up, or too large.
    pub const RESOURCE_EXHAUSTED: u8 = 8;
    /// Nobody does that.
    pub const UNIMPLEMENTED: u8 = 12;
    /// Something is broken.
    pub const INTERNAL: u8 = 13;
    /// It may be tried again.
    pub const UNAVAILABLE: u8 = 14;
    /// The client does not say who it is.
    pub const UNAUTHENTICATED: u8 = 16;
    /// How many there are.
    pub const COUNT: usize = 17;
}

/// The status of a call that ended for this cause.
pub fn status_of(cause: Cause) -> u8 {
    match cause {
        Cause::Done => status::OK,
        Cause::ClientClosed => status::CANCELLED,
        Cause::Deadline | Cause::EndpointTimeout | Cause::ClientTimeout => status::DEADLINE_EXCEEDED,
        Cause::Overload | Cause::ClientLimit => status::RESOURCE_EXHAUSTED,
        Cause::ClientProtocol | Cause::EndpointProtocol | Cause::Bug => status::INTERNAL,
        Cause::ClientTls
        | Cause::NoEndpoint
        | Cause::ConnectFailed
        | Cause::ConnectTimeout
        | Cause::EndpointClosed
        | Cause::EndpointTls
        | Cause::EndpointDrained
        | Cause::Moved
        | Cause::Idle
        | Cause::Aged
        | Cause::Shutdown
        | Cause::Local => status::UNAVAILABLE,
    }
}

/// What clients make of an answer of HTTP that is none of gRPC
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
pub fn status_of_http(status: u16) -> u8 {
    match status {
        400 => status::INTERNAL,
        401 => status::UNAUTHENTICATED,
        403 => status::PERMISSION_DENIED,
        404 => status::UNIMPLEMENTED,
        429 | 502..=504 => status::UNAVAILABLE,
        _ => status::UNKNOWN,
    }
}

/// The value of `grpc-retry-pushback-ms`: how long a retry is to wait. `None`: there is to be none.
pub fn pushback(value: &[u8]) -> Option<Duration> {
    // Digits alone: a sign means no, as does whatever is no number.
    let digits = core::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse::<u32>().ok().map(|millis| Duration::from_millis(millis.into()))
}

/// A content type of gRPC: `application/grpc`, alone or with something behind it. (gRPC-Web is something else.)
pub fn is_content_type(value: &[u8]) -> bool {
    value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The digits that a timeout may have.
const DIGITS: usize = 8;

/// The value of `grpc-timeout`: up to eight digits and a unit. `None`: it is none.
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=DIGITS).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A value for `grpc-timeout`, in the smallest unit that has room for it: never more than was meant.
pub fn timeout_value(timeout: Duration) -> String {
    const MOST: u128 = 10u128.pow(DIGITS as u32) - 1;
    let nanos = timeout.as_nanos();
    for (unit, length) in [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000), ('M', 60_000_000_000)] {
        if nanos / length <= MOST {
            return format!("{}{unit}", nanos / length);
        }
    }
    format!("{}H", (nanos / 3_600_000_000_000).min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_strictly() {
        for (value, nanos) in [
            (&b"1H"[..], 3_600_000_000_000),
            (b"2M", 120_000_000_000),
            (b"15S", 15_000_000_000),
            (b"250m", 250_000_000),
            (b"999874u", 999_874_000),
            (b"0n", 0),
            (b"00000007n", 7),
            (b"99999999H", 359_999_996_400_000_000_000),
        ] {
            assert_eq!(timeout(value).map(|timeout| timeout.as_nanos()), Some(nanos), "{value:?}");
        }
        for value in
            [&b""[..], b"S", b"1", b"1s", b"1h", b"+1S", b"-1S", b"1.5S", b" 1S", b"1S ", b"1 S", b"123456789n"]
        {
            assert_eq!(timeout(value), None, "{value:?}");
        }
    }

    #[test]
    fn timeouts_are_written_in_eight_digits_and_never_longer_than_they_are() {
        for (nanos, value) in [
            (0, "0n"),
            (99_999_999, "99999999n"),
            (100_000_000, "100000u"),
            (1_234_567_891, "1234567u"),
            (100_000_000_000, "100000m"),
            (99_999_999_999_999_999, "99999999S"),
            (100_000_000_000_000_000, "1666666M"),
        ] {
            let timeout = Duration::from_nanos(nanos);
            assert_eq!(timeout_value(timeout), value);
            assert!(super::timeout(value.as_bytes()).is_some_and(|read| read <= timeout));
        }
        assert_eq!(timeout_value(Duration::MAX), "99999999H");
    }

    #[test]
    fn every_cause_has_a_status() {
        let of = |status| Cause::ALL.iter().copied().filter(move |&cause| status_of(cause) == status);
        let named = |status| of(status).map(Cause::as_str).collect::<alloc::vec::Vec<_>>();
        assert_eq!(named(status::OK), ["done"]);
        assert_eq!(named(status::CANCELLED), ["client-closed"]);
        assert_eq!(named(status::DEADLINE_EXCEEDED), ["client-timeout", "endpoint-timeout", "deadline"]);
        assert_eq!(named(status::RESOURCE_EXHAUSTED), ["client-limit", "overload"]);
        assert_eq!(named(status::INTERNAL), ["client-protocol", "endpoint-protocol", "bug"]);
        let unavailable = [
            "client-tls",
            "no-endpoint",
            "connect-failed",
            "connect-timeout",
            "endpoint-closed",
            "endpoint-tls",
            "endpoint-drained",
            "moved",
            "idle",
            "aged",
            "shutdown",
            "local",
        ];
        assert_eq!(named(status::UNAVAILABLE), unavailable);
    }

    #[test]
    fn answers_of_http_are_what_clients_make_of_them() {
        for (http, grpc) in [
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (502, 14),
            (503, 14),
            (504, 14),
            (200, 2),
            (302, 2),
            (418, 2),
            (500, 2),
            (505, 2),
        ] {
            assert_eq!(status_of_http(http), grpc, "{http}");
        }
    }

    #[test]
    fn whoever_asks_for_no_retry_gets_none() {
        for (value, millis) in [
            (&b"0"[..], Some(0)),
            (b"250", Some(250)),
            (b"-1", None),
            (b"+1", None),
            (b"", None),
            (b"soon", None),
            (b"99999999999", None),
        ] {
            assert_eq!(pushback(value).map(|wait| wait.as_millis()), millis, "{value:?}");
        }
    }

    #[test]
    fn content_types_are_told_apart() {
        let all = [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=x",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grp",
            "text/html",
        ];
        assert_eq!(all.map(|value| is_content_type(value.as_bytes())), [true, true, true, false, false, false, false]);
    }
}
