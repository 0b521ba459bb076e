//! W3C Trace Context, Level 1 and 2: which trace a request belongs to, and what came before it there.
//!
//! evenkeel takes part as a participant that samples: it continues the trace that a request came with, or
//! begins one, and tells the endpoint its own span as the parent. Whether a continued trace is recorded has
//! been decided by who began it. Nothing is added to `tracestate`.
//!
//! Chance is an argument ([`NewSpan`]).

use core::num::{NonZeroU64, NonZeroU128};

/// `traceparent` of version 00 in bytes (section 3.2.2).
pub const TRACEPARENT_BYTES: usize = 55;

/// The trace is recorded.
const SAMPLED: u8 = 1;
/// The last 7 bytes of the trace id are random (Level 2, section 3.2.2.5.2).
const RANDOM: u8 = 2;

/// Members of a `tracestate` (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// Bytes of a key and of a value there (section 3.3.1.3).
const MAX_PART: usize = 256;

/// What a request that begins now is called, drawn for it by whoever has chance to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewSpan {
    /// Its span.
    pub span_id: NonZeroU64,
    /// Its trace, should it have come with none.
    pub trace_id: NonZeroU128,
    /// Is that trace recorded?
    pub sampled: bool,
}

/// The place of a turn in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trace {
    /// The trace.
    pub trace_id: NonZeroU128,
    /// The turn in it: the parent of whatever the endpoint does.
    pub span_id: NonZeroU64,
    /// The client's span; `None`: the trace begins here.
    pub parent_id: Option<NonZeroU64>,
    /// As they are passed on: only those that the specification knows.
    pub flags: u8,
}

impl Trace {
    /// Continues the trace of a request with these `traceparent` fields; begins one if there is none, or
    /// several, or one that is malformed (section 4.3).
    pub(crate) fn of<'a>(mut parents: impl Iterator<Item = &'a [u8]>, new: &NewSpan) -> Self {
        let parent = parents.next().filter(|_| parents.next().is_none()).and_then(parse);
        match parent {
            Some((trace_id, parent_id, flags)) => {
                Self { trace_id, span_id: new.span_id, parent_id: Some(parent_id), flags }
            }
            None => {
                let flags = RANDOM | if new.sampled { SAMPLED } else { 0 };
                Self { trace_id: new.trace_id, span_id: new.span_id, parent_id: None, flags }
            }
        }
    }

    /// Is the trace recorded?
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The field for the endpoint.
    pub fn traceparent(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(&mut text[3..35], self.trace_id.get());
        put_hex(&mut text[36..52], u128::from(self.span_id.get()));
        put_hex(&mut text[53..55], u128::from(self.flags));
        text
    }
}

/// Trace id, parent id and flags of a `traceparent`. One of a later version counts for what it has in common
/// with this one (section 4.3).
fn parse(value: &[u8]) -> Option<(NonZeroU128, NonZeroU64, u8)> {
    let (known, more) = value.trim_ascii().split_at_checked(TRACEPARENT_BYTES)?;
    if known[2] != b'-' || known[35] != b'-' || known[52] != b'-' {
        return None;
    }
    let mask = match (hex(&known[..2])?, more.first()) {
        (0, None) => SAMPLED | RANDOM,
        (1..0xFF, None | Some(b'-')) => SAMPLED,
        _ => return None,
    };
    let trace_id = NonZeroU128::new(hex(&known[3..35])?)?;
    let parent_id = NonZeroU64::new(hex(&known[36..52])? as u64)?;
    Some((trace_id, parent_id, hex(&known[53..])? as u8 & mask))
}

/// Lower-case digits only (section 3.2.2).
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

fn put_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 0xF) as usize];
        number >>= 4;
    }
}

/// Are these `tracestate` fields, one list together, such as may be passed on? What nobody could parse is
/// not (section 4.3). Keys by the grammar of Level 2, which has room for those of Level 1.
pub(crate) fn is_state<'a>(fields: impl Iterator<Item = &'a [u8]>) -> bool {
    let members = fields.flat_map(|field| field.split(|&byte| byte == b','));
    let mut count = 0;
    // Empty members are allowed and mean nothing.
    members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).all(|member| {
        count += 1;
        count <= MAX_MEMBERS && is_member(member)
    })
}

fn is_member(member: &[u8]) -> bool {
    let mut parts = member.splitn(2, |&byte| byte == b'=');
    let (Some(key), Some(value)) = (parts.next(), parts.next()) else { return false };
    let in_key = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let in_value = |byte: &u8| matches!(byte, 0x20..=0x7E) && *byte != b'=';
    (1..=MAX_PART).contains(&key.len())
        && key[0].is_ascii_alphanumeric()
        && key.iter().all(in_key)
        && (1..=MAX_PART).contains(&value.len())
        && value.iter().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec::Vec;

    const NEW: NewSpan = NewSpan {
        span_id: NonZeroU64::new(0x0123_4567_89AB_CDEF).unwrap(),
        trace_id: NonZeroU128::new(0xA).unwrap(),
        sampled: true,
    };

    fn passed_on(parents: &[&str]) -> String {
        let trace = Trace::of(parents.iter().map(|parent| parent.as_bytes()), &NEW);
        trace.traceparent().iter().map(|&byte| char::from(byte)).collect()
    }

    const BEGUN: &str = "00-0000000000000000000000000000000a-0123456789abcdef-03";

    #[test]
    fn what_is_well_formed_is_continued() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        let flagged = |flags: &str| alloc::format!("00-0af7651916cd43dd8448eb211c80319c-0123456789abcdef-{flags}");
        for (parent, flags) in [
            (alloc::format!("00-{ids}-01"), "01"),
            (alloc::format!("00-{ids}-00"), "00"),
            (alloc::format!("00-{ids}-03"), "03"),
            // Flags that nobody knows are not passed on (section 3.2.2.5).
            (alloc::format!("00-{ids}-ff"), "03"),
            (alloc::format!(" 00-{ids}-01\t"), "01"),
            (alloc::format!("cc-{ids}-01"), "01"),
            (alloc::format!("01-{ids}-03-what-comes"), "01"),
        ] {
            assert_eq!(passed_on(&[&parent]), flagged(flags), "{parent}");
        }
    }

    #[test]
    fn what_is_not_begins_anew() {
        assert_eq!(passed_on(&[]), BEGUN);
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(passed_on(&[good, good]), BEGUN);
        for parent in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0.-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333x-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331_01",
            "000-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        ] {
            assert_eq!(passed_on(&[parent]), BEGUN, "{parent}");
        }
        let unrecorded = Trace::of(core::iter::empty(), &NewSpan { sampled: false, ..NEW });
        assert_eq!((unrecorded.flags, unrecorded.is_sampled(), unrecorded.parent_id), (RANDOM, false, None));
    }

    #[test]
    fn a_list_is_passed_on_whole_or_not_at_all() {
        let is = |fields: &[&str]| is_state(fields.iter().map(|field| field.as_bytes()));
        let long = "z".repeat(256);
        for fields in [
            &["foo=1"][..],
            &["foo=1,bar=2", "rojo=00f067aa0ba902b7"],
            &["foo=1 \t , \t bar=2,,"],
            &["", "foo=1"],
            &["0tenant@vendor=1"],
            &["a_-*/@=! \"#$%&'()*+-./:;<>?@[]^_`{|}~"],
            &[&alloc::format!("{long}={long}")],
            &["foo=1,foo=2"],
        ] {
            assert!(is(fields), "{fields:?}");
        }
        for fields in [
            &["foo"][..],
            &["=1"],
            &["foo="],
            &["foo=1=2"],
            &["foo =1"],
            &["FOO=1"],
            &["foo.bar=1"],
            &["@foo=1"],
            &["foo=\u{e9}"],
            &[&alloc::format!("{long}z=1")],
            &[&alloc::format!("a={long}z")],
        ] {
            assert!(!is(fields), "{fields:?}");
        }
        let members = |n: usize| (0..n).map(|i| alloc::format!("k{i}=v")).collect::<Vec<_>>().join(",");
        assert!(is(&[&members(20), &members(12)]) && !is(&[&members(20), &members(13)]));
    }
}
