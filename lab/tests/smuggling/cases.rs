//! The corpus as text: see `README.md` beside this file for the format.

use std::path::{Path, PathBuf};

/// One request case: what a client sends, and what may come of it.
#[derive(Debug, Default)]
pub struct RequestCase {
    pub name: String,
    pub input: Vec<u8>,
    /// What the backend sees, in this order and nothing else; each is answered with 200.
    pub seen: Vec<Seen>,
    pub then: Then,
    /// A backend that refuses, itself, what the others take, and its status.
    pub except: Vec<(String, u16)>,
}

/// A request that a backend saw.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub host: String,
    /// Its bytes as characters.
    pub body: String,
}

/// How it goes on when what was seen is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// The connection takes another request.
    #[default]
    Open,
    /// The connection is closed.
    Closed,
    /// evenkeel refuses the rest with this status and closes.
    Refused(u16),
    /// The message is not complete: nothing more is said, nor seen, whatever the client does.
    Waits,
}

/// One response case: what a backend answers, and what its client gets.
#[derive(Debug, Default)]
pub struct ResponseCase {
    pub name: String,
    pub method: String,
    /// More fields of the request, each with its line end.
    pub fields: String,
    pub answer: Vec<u8>,
    /// The backend closes behind its answer.
    pub eof: bool,
    pub outcome: Outcome,
    /// The next client's request comes over the same connection.
    pub reused: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Not said: an error in the file.
    #[default]
    Unsaid,
    /// A whole response with this status, and this body if it is not one of evenkeel's own.
    Gets(u16, Vec<u8>),
    /// A response that cannot be taken for whole: the connection is reset.
    Breaks,
}

pub fn requests() -> Vec<RequestCase> {
    each_case("requests", |case: &mut RequestCase, word, rest| {
        match word {
            ">" => case.input.extend(line(rest)),
            ">>" => case.input.extend(unescape(rest)),
            "@post" => case.input.extend(b"POST / HTTP/1.1\r\nHost: a\r\n"),
            "@get" => case.input.extend(b"GET / HTTP/1.1\r\nHost: a\r\n"),
            "@chunked" => {
                case.input.extend(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            "@smuggled" => case.input.extend(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
            "seen" => {
                let mut parts = rest.splitn(4, ' ');
                let mut part = || parts.next().unwrap_or_default().to_owned();
                let (method, target, host) = (part(), part(), part());
                let body = unescape(&part()).into_iter().map(char::from).collect();
                case.seen.push(Seen { method, target, host, body });
            }
            "refused" => case.then = Then::Refused(rest.parse().ok()?),
            "closed" => case.then = Then::Closed,
            "waits" => case.then = Then::Waits,
            "except" => {
                let (backend, status) = rest.split_once(' ')?;
                case.except.push((backend.to_owned(), status.parse().ok()?));
            }
            _ => return None,
        }
        Some(())
    })
}

pub fn responses() -> Vec<ResponseCase> {
    each_case("responses", |case: &mut ResponseCase, word, rest| {
        match word {
            "ask" => case.method = rest.to_owned(),
            "with" => case.fields += &format!("{rest}\r\n"),
            "<" => case.answer.extend(line(rest)),
            "<<" => case.answer.extend(unescape(rest)),
            "eof" => case.eof = true,
            "gets" => {
                let (status, body) = rest.split_once(' ').unwrap_or((rest, ""));
                case.outcome = Outcome::Gets(status.parse().ok()?, unescape(body));
            }
            "breaks" => case.outcome = Outcome::Breaks,
            "reused" => case.reused = true,
            _ => return None,
        }
        Some(())
    })
}

/// What both kinds of case have.
trait Case: Default {
    fn named(name: &str) -> Self;
}

impl Case for RequestCase {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl Case for ResponseCase {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), method: "GET".to_owned(), ..Self::default() }
    }
}

/// Reads every file of a directory, in the order of their names.
fn each_case<C: Case>(directory: &str, mut read: impl FnMut(&mut C, &str, &str) -> Option<()>) -> Vec<C> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smuggling").join(directory);
    let entries = std::fs::read_dir(&directory).expect("the corpus");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("text");
        let family = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        // Every case says where it comes from.
        let mut sourced = true;
        for (number, text) in text.lines().enumerate() {
            let place = || format!("{}:{}: {text}", file.display(), number + 1);
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            match word {
                "" => {}
                _ if word.starts_with('#') => {}
                "==" => {
                    assert!(sourced, "the case before says not where it comes from: {}", place());
                    sourced = false;
                    cases.push(C::named(&format!("{family}: {rest}")));
                }
                "from" => sourced = !rest.is_empty(),
                _ => {
                    let case = cases.last_mut().unwrap_or_else(|| panic!("before the first case: {}", place()));
                    read(case, word, rest).unwrap_or_else(|| panic!("not understood: {}", place()));
                }
            }
        }
        assert!(sourced, "{}: the last case says not where it comes from", file.display());
    }
    cases
}

/// The bytes of a line, and its end.
fn line(text: &str) -> Vec<u8> {
    [&unescape(text)[..], b"\r\n"].concat()
}

/// `\r`, `\n`, `\t`, `\0`, `\\`, `\xNN`, and `\*N(text)` for N times the text.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend_from_slice(before.as_bytes());
        let mut chars = after.chars();
        rest = match chars.next().expect("something behind a backslash") {
            'x' => {
                out.push(u8::from_str_radix(&after[1..3], 16).expect("two hexadecimal digits"));
                &after[3..]
            }
            '*' => {
                let (times, after) = after[1..].split_once('(').expect("a text to repeat");
                let (text, after) = after.split_once(')').expect("the end of the text to repeat");
                out.extend(unescape(text).repeat(times.parse().expect("a number")));
                after
            }
            plain => {
                out.push(match plain {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    '\\' => b'\\',
                    _ => panic!("unknown escape in {text:?}"),
                });
                chars.as_str()
            }
        };
    }
    out.extend_from_slice(rest.as_bytes());
    out
}
