//! The grammar of heads (RFC 9112, sections 2 to 5), in one pass over their bytes: start line, field lines, the
//! empty line. Strict: one way to write each thing is read, everything else is a [`Flaw`].

use super::head::{Flaw, Name};
use alloc::vec::Vec;

/// Fields of a head that are kept on the stack; further ones are on the heap.
pub(super) const INLINE: usize = 24;

/// One field line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'h> {
    pub(super) name: &'h [u8],
    /// Without the white space around it.
    pub(super) value: &'h [u8],
    pub(super) kind: Name,
    /// Where the line begins, and where the next one does.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// It is written as we would write it: a colon, one space, the value, the end.
    pub(super) canonical: bool,
}

impl Field<'_> {
    const NONE: Self = Self { name: &[], value: &[], kind: Name::Other, begin: 0, end: 0, canonical: false };
}

/// Room for the fields of one head.
pub(super) struct Room<'h> {
    inline: [Field<'h>; INLINE],
    count: usize,
    /// All of them, once there are more than that.
    many: Vec<Field<'h>>,
}

impl<'h> Room<'h> {
    pub(super) fn new() -> Self {
        Self { inline: [Field::NONE; INLINE], count: 0, many: Vec::new() }
    }

    pub(super) fn fields(&self) -> &[Field<'h>] {
        if self.count <= INLINE { &self.inline[..self.count] } else { &self.many }
    }

    fn push(&mut self, field: Field<'h>) {
        if let Some(free) = self.inline.get_mut(self.count) {
            *free = field;
        } else {
            if self.many.is_empty() {
                self.many.extend_from_slice(&self.inline);
            }
            self.many.push(field);
        }
        self.count += 1;
    }
}

/// Why a head was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// It is not there yet, as far as it has been looked at.
    Incomplete,
    /// There is something wrong with it.
    Flaw(Flaw),
}

impl Stop {
    /// Of a head that is there up to its empty line: one that seems to go on is none.
    pub(super) fn at_its_end(self) -> Self {
        match self {
            Self::Incomplete => Self::Flaw(Flaw::StartLine),
            flaw => flaw,
        }
    }
}

impl From<Flaw> for Stop {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// The parts of a request line.
pub(super) struct RequestLine<'h> {
    pub(super) method: &'h [u8],
    pub(super) target: &'h [u8],
    /// HTTP/1.`minor`.
    pub(super) minor: u8,
}

/// The parts of a status line.
pub(super) struct StatusLine<'h> {
    pub(super) minor: u8,
    pub(super) status: u16,
    /// Empty if it has bytes that are not ASCII.
    pub(super) reason: &'h [u8],
}

/// Reads a request line; returns it, and where the first field line begins.
pub(super) fn request_line(input: &[u8]) -> Result<(RequestLine<'_>, usize), Stop> {
    let method = run(input, 0, &TOKEN);
    let begin = method + 1;
    let end = run(input, begin, &TARGET);
    // The usual case, with one comparison for all that follows the target.
    let minor = match input.get(end..end + 11) {
        Some(b" HTTP/1.1\r\n") => 1,
        Some(b" HTTP/1.0\r\n") => 0,
        _ => return Err(not_a_request_line(input)),
    };
    if method == 0 || input[method] != b' ' || begin == end {
        return Err(Flaw::StartLine.into());
    }
    Ok((RequestLine { method: &input[..method], target: &input[begin..end], minor }, end + 11))
}

/// What is wrong with what should be a request line.
fn not_a_request_line(input: &[u8]) -> Stop {
    let Some(end) = memchr::memchr(b'\n', input) else { return Stop::Incomplete };
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
    // A version of HTTP, if not one that is known here (RFC 9112, section 2.3).
    let names_one = matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
        && line.iter().filter(|&&b| b == b' ').count() == 2;
    let known = version.starts_with(b"HTTP/1.") && matches!(version.last(), Some(b'0' | b'1'));
    Stop::Flaw(if names_one && !known { Flaw::Version } else { Flaw::StartLine })
}

/// Reads a status line; returns it, and where the first field line begins.
pub(super) fn status_line(input: &[u8]) -> Result<(StatusLine<'_>, usize), Stop> {
    let Some(start) = input.get(..13) else { return Err(Stop::Incomplete) };
    let minor = match start[..9] {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'1', b' '] => minor - b'0',
        _ => return Err(Flaw::StartLine.into()),
    };
    let [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] = start[9..12] else {
        return Err(Flaw::StartLine.into());
    };
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    let end = text_end(input, 12);
    let reason = match input.get(12..end) {
        Some([]) => &[][..],
        Some([b' ', reason @ ..]) if reason.is_ascii() => reason,
        Some([b' ', ..]) => &[],
        _ => return Err(Flaw::StartLine.into()),
    };
    match input.get(end..end + 2) {
        Some(b"\r\n") => Ok((StatusLine { minor, status, reason }, end + 2)),
        Some(_) => Err(Flaw::StartLine.into()),
        None => Err(Stop::Incomplete),
    }
}

/// Reads field lines up to the empty line that ends them; returns where what follows that begins. `most`: so many
/// fields there may be.
pub(super) fn fields<'h>(input: &'h [u8], from: usize, most: usize, room: &mut Room<'h>) -> Result<usize, Stop> {
    let mut at = from;
    loop {
        let begin = at;
        let colon = run(input, begin, &TOKEN);
        match input.get(colon) {
            Some(b':') if colon > begin => {}
            // An empty line, or the beginning of one.
            Some(b'\r') if colon == begin => match input.get(colon + 1) {
                Some(b'\n') => return Ok(colon + 2),
                Some(_) => return Err(Flaw::Field.into()),
                None => return Err(Stop::Incomplete),
            },
            Some(_) => return Err(Flaw::Field.into()),
            None => return Err(Stop::Incomplete),
        }
        let end = text_end(input, colon + 1);
        match input.get(end..end + 2) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Flaw::Field.into()),
            None => return Err(Stop::Incomplete),
        }
        if room.count == most {
            return Err(Flaw::TooManyFields.into());
        }
        let (name, line) = (&input[begin..colon], &input[colon + 1..end]);
        // One space before the value and none behind it is how nearly everybody writes.
        let (value, canonical) = match line {
            [b' ', value @ ..] if !spaced(value) => (value, true),
            line => (trimmed(line), false),
        };
        at = end + 2;
        room.push(Field { name, value, kind: Name::of(name), begin, end: at, canonical });
    }
}

/// Is there white space at either end?
#[inline]
fn spaced(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.first()) || space(value.last())
}

/// Without the optional white space around it (RFC 9110, section 5.6.3).
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Bytes of a class.
pub(super) type Class = [bool; 256];

pub(super) const fn class(ranges: &[(u8, u8)]) -> Class {
    let mut class = [false; 256];
    let mut i = 0;
    while i < ranges.len() {
        let mut byte = ranges[i].0 as usize;
        while byte <= ranges[i].1 as usize {
            class[byte] = true;
            byte += 1;
        }
        i += 1;
    }
    class
}

/// RFC 9110, section 5.6.2.
static TOKEN: Class = class(&[
    (b'!', b'!'),
    (b'#', b'\''),
    (b'*', b'+'),
    (b'-', b'.'),
    (b'0', b'9'),
    (b'A', b'Z'),
    (b'^', b'z'),
    (b'|', b'|'),
    (b'~', b'~'),
]);

/// What a target is made of (RFC 3986, and what lenient clients send); `#` never travels.
static TARGET: Class = class(&[(0x21, 0x22), (0x24, 0x7E)]);

/// Has a target no other bytes than a request line may have there?
pub(super) fn is_target(target: &[u8]) -> bool {
    run(target, 0, &TARGET) == target.len()
}

/// Where a run of bytes of this class ends that begins at `from`.
#[inline]
fn run(input: &[u8], from: usize, class: &Class) -> usize {
    let rest = input.get(from..).unwrap_or_default();
    from + rest.iter().position(|&byte| !class[usize::from(byte)]).unwrap_or(rest.len())
}

/// Where text ends that begins at `from`: visible characters, spaces, tabs, and bytes that are not ASCII.
#[inline]
fn text_end(input: &[u8], from: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut at = from;
    while let Some((word, _)) = input.get(at..).and_then(|rest| rest.split_first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        // Eight bytes at once: the lowest bit that is set is of the first byte below 32, or of the first that is
        // 127. (Higher ones may be of bytes to which a borrow came.)
        let below = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let delete = word ^ (ONES * 0x7F);
        let found = below | (delete.wrapping_sub(ONES) & !delete & HIGH);
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if input[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    while input.get(at).is_some_and(|&byte| byte == b'\t' || byte >= 0x20 && byte != 0x7F) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Heads as they might come, and what is nearly one.
    fn head(start: &'static str) -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[a-zA-Z0-9-]{1,12}: [ -~]{0,20}\r\n".prop_map(alloc::string::String::into_bytes),
            1 => Just(b"a:b\r\n".to_vec()),
            1 => Just(b"a:\t b \t\r\n".to_vec()),
            1 => Just(b"empty:\r\n".to_vec()),
            1 => Just(b" folded\r\n".to_vec()),
            1 => Just(b"a : b\r\n".to_vec()),
            1 => Just("latin: é\r\n".as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
            2 => Just(b"\r\n".to_vec()),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(move |pieces| {
            let mut head = start.as_bytes().to_vec();
            pieces.into_iter().for_each(|piece| head.extend(piece));
            head.extend(b"\r\n");
            head
        })
    }

    /// What another reader makes of fields: names and values, and where they end. `None`: it refuses them, or
    /// takes lines that end in LF alone, which we do not.
    type Read = Option<(Vec<(Vec<u8>, Vec<u8>)>, usize)>;

    fn theirs(section: &[u8]) -> Read {
        let mut room = [httparse::EMPTY_HEADER; 64];
        let Ok(httparse::Status::Complete((end, fields))) = httparse::parse_headers(section, &mut room) else {
            return None;
        };
        let bare = section[..end].iter().enumerate().any(|(i, &b)| b == b'\n' && (i == 0 || section[i - 1] != b'\r'));
        let fields = fields.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec())).collect();
        (!bare).then_some((fields, end))
    }

    fn ours(section: &[u8]) -> Read {
        let mut room = Room::new();
        let end = fields(section, 0, 64, &mut room).ok()?;
        for field in room.fields().iter().filter(|field| field.canonical) {
            let line = [field.name, b": ", field.value, b"\r\n"].concat();
            assert_eq!(&section[field.begin..field.end], line, "canonical lines are what we would write");
        }
        Some((room.fields().iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect(), end))
    }

    proptest! {
        #[test]
        fn fields_are_what_another_reader_finds(section in head("")) {
            prop_assert_eq!(ours(&section), theirs(&section));
        }

        #[test]
        fn a_head_that_is_cut_is_incomplete_or_wrong_but_never_whole(section in head("a: b\r\n")) {
            if let Some((_, end)) = ours(&section) {
                for cut in 0..end {
                    prop_assert_eq!(ours(&section[..cut]), None);
                }
            }
        }

        #[test]
        fn start_lines_are_what_another_reader_finds(line in "[A-Z!]{0,5} ?[!-~é]{0,6} ?(HTTP/1.[012]|[ -~]{0,9})\r?\n") {
            let whole = alloc::format!("{line}\r\n").into_bytes();
            let ours = request_line(&whole).ok().map(|(line, _)| {
                (line.method.to_vec(), line.target.to_vec(), line.minor)
            });
            let mut room = [httparse::EMPTY_HEADER; 1];
            let mut request = httparse::Request::new(&mut room);
            let theirs = matches!(request.parse(&whole), Ok(httparse::Status::Complete(_))).then(|| {
                let text = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
                (text(request.method), text(request.path), request.version.unwrap_or(9))
            });
            // It takes targets with bytes beyond ASCII, and lines that end in LF alone.
            let lenient = !whole.is_ascii() || !line.ends_with("\r\n");
            if !lenient {
                prop_assert_eq!(ours, theirs);
            } else if let Some(ours) = ours {
                prop_assert_eq!(Some(ours), theirs);
            }
        }

        #[test]
        fn status_lines_are_what_another_reader_finds(
            line in "HTTP/1.[012] ?[0-9]{2,4}( [ -~\té]{0,9})?\r?\n",
        ) {
            let whole = alloc::format!("{line}\r\n").into_bytes();
            let ours = status_line(&whole).ok().map(|(line, _)| (line.status, line.minor, line.reason.to_vec()));
            let mut room = [httparse::EMPTY_HEADER; 1];
            let mut response = httparse::Response::new(&mut room);
            let theirs = matches!(response.parse(&whole), Ok(httparse::Status::Complete(_))).then(|| {
                let reason = response.reason.unwrap_or_default().as_bytes().to_vec();
                (response.code.unwrap_or(0), response.version.unwrap_or(9), reason)
            });
            let lenient = !line.ends_with("\r\n") || theirs.as_ref().is_some_and(|t| !(100..=599).contains(&t.0));
            if !lenient {
                prop_assert_eq!(ours, theirs);
            } else {
                prop_assert_eq!(ours, None);
            }
        }
    }

    #[test]
    fn text_ends_at_the_first_control_character() {
        // Wherever it stands in a word of eight bytes, and in what is left behind the last one.
        for length in 33..=40 {
            for at in 0..length {
                for control in (0..0x20).chain([0x7F]).filter(|&b| b != b'\t') {
                    let mut text = alloc::vec![b'a'; length];
                    text[at] = control;
                    assert_eq!(text_end(&text, 0), at, "{control:#x} of {length}");
                }
            }
        }
        let mixed = b"\t\xFF\x80 ~\t\t\t\t\t\t\t\t\xC3\xA9\r";
        assert_eq!(text_end(mixed, 0), mixed.len() - 1);
    }

    #[test]
    fn a_version_that_is_not_known_is_told_from_what_is_none() {
        let flaw = |line: &[u8]| request_line(line).err();
        assert_eq!(flaw(b"GET / HTTP/2.0\r\n"), Some(Stop::Flaw(Flaw::Version)));
        assert_eq!(flaw(b"GET / HTTP/1.2\r\n"), Some(Stop::Flaw(Flaw::Version)));
        for line in
            [&b"GET /\r\n"[..], b"GET  / HTTP/1.1\r\n", b" GET / HTTP/1.1\r\n", b"GET / a HTTP/2.0\r\n", b"x\r\n"]
        {
            assert_eq!(flaw(line), Some(Stop::Flaw(Flaw::StartLine)), "{line:?}");
        }
        for end in 0..15 {
            assert_eq!(flaw(&b"GET / HTTP/1.1\r\n"[..end]), Some(Stop::Incomplete));
        }
    }
}
