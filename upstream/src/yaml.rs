//! YAML (and JSON, which is nearly all YAML) as a tree that remembers where everything stands, so
//! that an error can name line and column.
//!
//! Made for files that people write and programs generate, not for all of YAML: no aliases (a few
//! lines of them can stand for gigabytes), no tags, bounded size and depth.

use saphyr_parser::{Event, Parser, ScalarStyle};
use std::fmt;

/// Bytes that a file may have.
pub const MAX_BYTES: usize = 1 << 20;
/// Levels of lists and maps within each other.
const MAX_DEPTH: usize = 64;

/// A value, and where it begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A plain or quoted word.
    Scalar {
        /// As it stands, quotes and escapes resolved.
        text: String,
        /// Not quoted: may mean a number, a boolean, or nothing.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in order; keys are scalars, each once.
    Map(Vec<(Node, Node)>),
}

/// A text that is no YAML, or more than we read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadYaml {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for BadYaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for BadYaml {}

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Nothing: an empty value, `null` or `~`.
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar { text, plain: true } => text.parse().ok(),
            _ => None,
        }
    }

    /// The elements of a list.
    pub fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(pairs) => pairs.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v),
            _ => None,
        }
    }

    /// What kind of thing it is, for "expected …, found …".
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a word",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads every document of a text.
///
/// # Errors
/// The first thing that is wrong, with line and column.
pub fn parse(text: &str) -> Result<Vec<Node>, BadYaml> {
    if text.len() > MAX_BYTES {
        return Err(BadYaml { line: 1, column: 1, message: format!("larger than {MAX_BYTES} bytes") });
    }
    let mut documents = Vec::new();
    // Lists and maps that are still open; a map holds the key that waits for its value.
    let mut open: Vec<(Node, Option<Node>)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| BadYaml {
            line: error.marker().line(),
            column: error.marker().col() + 1,
            message: error.info().into(),
        })?;
        let (line, column) = (span.start.line(), span.start.col() + 1);
        let bad = |message: &str| BadYaml { line, column, message: message.into() };
        let node = |value| Node { line, column, value };
        let done = match event {
            Event::Alias(_) => return Err(bad("aliases are not supported: write the value out")),
            Event::Scalar(text, style, ..) => {
                node(Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain })
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() >= MAX_DEPTH {
                    return Err(bad("nested too deeply"));
                }
                let map = matches!(event, Event::MappingStart(..));
                open.push((node(if map { Value::Map(Vec::new()) } else { Value::List(Vec::new()) }), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((node, _)) => node,
                None => return Err(bad("a list or map ends that never began")),
            },
            _ => continue,
        };
        match open.last_mut() {
            None => documents.push(done),
            Some((Node { value: Value::List(items), .. }, _)) => items.push(done),
            Some((Node { value: Value::Map(pairs), .. }, key)) => match key.take() {
                Some(name) => pairs.push((name, done)),
                None => {
                    let (line, column) = (done.line, done.column);
                    let bad = |message: &str| BadYaml { line, column, message: message.into() };
                    let Some(name) = done.text() else { return Err(bad("a key must be a word")) };
                    if pairs.iter().any(|(k, _)| k.text() == Some(name)) {
                        return Err(bad(&format!("key {name:?} stands here twice")));
                    }
                    *key = Some(done);
                }
            },
            Some(_) => return Err(bad("a word cannot hold anything")),
        }
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_places() {
        let tree = &parse("a: 1\nb:\n  - x\n  - {c: \"null\"}\n").unwrap()[0];
        let list = tree.get("b").unwrap().list().unwrap();
        assert_eq!((list[0].line, list[0].column, list[0].text()), (3, 5, Some("x")));
        let null = list[1].get("c").unwrap();
        assert!(!null.is_null() && null.text() == Some("null"));
        assert_eq!(parse("--- 1\n--- 2\n").unwrap().len(), 2);
        assert_eq!(parse("{\"a\": [1, 2.5, null, true]}").unwrap()[0].get("a").unwrap().list().unwrap().len(), 4);
    }

    #[test]
    fn what_is_not_read_is_said() {
        for (text, error) in [
            ("a: 1\na: 2\n", "2:1: key \"a\" stands here twice"),
            ("a: &x 1\nb: *x\n", "2:4: aliases are not supported: write the value out"),
            ("[1]: 2\n", "1:1: a key must be a word"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error, "{text:?}");
        }
        assert!(parse(&"[".repeat(1000)).is_err());
        assert!(parse(&"a".repeat(MAX_BYTES + 1)).is_err());
        assert!(parse("a: [1\nb: 2").is_err());
    }
}
