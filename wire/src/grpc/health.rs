//! The health of a service as gRPC asks for it: `grpc.health.v1`
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
//!
//! Its two messages have one field each, so they are written and read here by hand.

use alloc::vec::Vec;

/// The path that asks once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The path that asks to be told, now and whenever it changes.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Bytes in front of each message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `service` of a request: field 1, a string.
const SERVICE: u64 = 1 << 3 | LENGTH;
/// `status` of a response: field 1, a number.
const STATUS: u64 = 1 << 3 | NUMBER;
/// Kinds of fields.
const NUMBER: u64 = 0;
const EIGHT: u64 = 1;
const LENGTH: u64 = 2;
const FOUR: u64 = 5;

/// What is said of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Nobody knows.
    Unknown,
    /// It serves.
    Serving,
    /// It does not.
    NotServing,
    /// There is none of this name; only those who watch are told so.
    ServiceUnknown,
}

impl Health {
    /// Its name in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

/// The body of a request.
pub fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(SERVICE as u8);
        put_number(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = Vec::with_capacity(PREFIX + message.len());
    body.push(0);
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    body
}

/// One message of a response.
pub fn response(health: Health) -> [u8; PREFIX + 2] {
    let status = match health {
        Health::Unknown => 0,
        Health::Serving => 1,
        Health::NotServing => 2,
        Health::ServiceUnknown => 3,
    };
    [0, 0, 0, 0, 2, STATUS as u8, status]
}

/// The service that a request's body asks for; `None`: it is none.
pub fn asked(body: &[u8]) -> Option<&[u8]> {
    let (_, text) = field(body, SERVICE)?;
    Some(text)
}

/// What a response's body says; `None`: it is none.
pub fn said(body: &[u8]) -> Option<Health> {
    let (number, _) = field(body, STATUS)?;
    // What a later version may say, this one does not know.
    Some(match number {
        1 => Health::Serving,
        2 => Health::NotServing,
        3 => Health::ServiceUnknown,
        _ => Health::Unknown,
    })
}

/// The value of a field of the only message of a body, as number or bytes; empty if it is not there, and the last if
/// it is there more than once. `None`: this is no such body.
fn field(body: &[u8], wanted: u64) -> Option<(u64, &[u8])> {
    let (prefix, mut rest) = body.split_first_chunk::<PREFIX>()?;
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    if prefix[0] != 0 || rest.len() != length as usize {
        return None;
    }
    let mut found = (0, &rest[..0]);
    while !rest.is_empty() {
        let tag = take_number(&mut rest)?;
        let value = match tag & 7 {
            NUMBER => (take_number(&mut rest)?, &rest[..0]),
            EIGHT => (0, take(&mut rest, 8)?),
            FOUR => (0, take(&mut rest, 4)?),
            LENGTH => {
                let length = usize::try_from(take_number(&mut rest)?).ok()?;
                (0, take(&mut rest, length)?)
            }
            _ => return None,
        };
        if tag == wanted {
            found = value;
        }
    }
    Some(found)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Seven bits a byte, the lowest first, and one that says whether there are more: ten bytes at most.
fn take_number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn what_is_asked_is_read() {
        for service in ["", "shop.Catalog", &String::from_utf8(alloc::vec![b'a'; 300]).expect("text")] {
            assert_eq!(asked(&request(service)), Some(service.as_bytes()));
        }
        // As protoc writes it, and with a field that nobody knows in front.
        assert_eq!(request("ab"), b"\0\0\0\0\x04\x0A\x02ab");
        assert_eq!(asked(b"\0\0\0\0\x0D\x15abcd\x18\x96\x01\x0A\x03abc"), Some(&b"abc"[..]));
        assert_eq!(asked(b"\0\0\0\0\x0C\x09abcdefgh\x0A\x01a"), Some(&b"a"[..]));
    }

    #[test]
    fn what_is_said_is_read() {
        for health in [Health::Unknown, Health::Serving, Health::NotServing, Health::ServiceUnknown] {
            assert_eq!(said(&response(health)), Some(health));
        }
        // A field that has its default is left out.
        assert_eq!(said(b"\0\0\0\0\0"), Some(Health::Unknown));
        assert_eq!(said(b"\0\0\0\0\x02\x08\x63"), Some(Health::Unknown));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x01",
            b"\0\0\0\0\0\0",
            b"\x01\0\0\0\0",
            b"\0\0\0\0\x01\x0A",
            b"\0\0\0\0\x02\x0A\x05",
            b"\0\0\0\0\x02\x0C\x01",
            b"\0\0\0\0\x0B\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            b"\0\xFF\xFF\xFF\xFF",
        ] {
            assert_eq!(asked(body), None, "{body:?}");
            assert_eq!(said(body), None, "{body:?}");
        }
    }
}
