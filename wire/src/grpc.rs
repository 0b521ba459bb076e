//! gRPC, as far as somebody between two ends has to know it: its statuses, its deadlines.
//!
//! A call is a request of HTTP/2 whose outcome stands in the trailers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// Statuses of calls (<https://grpc.io/docs/guides/status-codes>).
pub mod status {
    /// It went well.
    pub const OK: u8 = 0;
    /// The client gave it up.
    pub const CANCELLED: u8 = 1;
    /// Nobody knows, or applications do not say.
    pub const UNKNOWN: u8 = 2;
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
