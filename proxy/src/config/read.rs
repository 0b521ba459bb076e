//! Reading values out of a tree, so that every error names the place and the remedy, and all of them
//! are found at once.

use evenkeel_upstream::yaml::{Node, Value};
use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

/// One thing that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Where in the tree: `services[2].target`.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Everything that is wrong with a configuration, in order of place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    /// The file, as the user named it.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}:{}: ", self.file, problem.line, problem.column)?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where problems are collected.
#[derive(Default)]
pub(super) struct Found(RefCell<Vec<Problem>>);

impl Found {
    pub(super) fn add(&self, node: &Node, path: &str, message: impl Into<String>) {
        let problem = Problem { line: node.line, column: node.column, path: path.into(), message: message.into() };
        self.0.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort_by_key(|p| (p.line, p.column));
        problems
    }
}

/// A map whose keys are read one by one; what is left over at the end is unknown.
pub(super) struct Section<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
    found: &'a Found,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// `None`, and a problem, if the node is no map.
    pub(super) fn open(node: &'a Node, path: impl Into<String>, found: &'a Found) -> Option<Self> {
        let path = path.into();
        match &node.value {
            Value::Map(_) => Some(Self { node, path, found, known: Vec::new() }),
            _ => {
                found.add(node, &path, format!("expected a map, found {}", node.kind()));
                None
            }
        }
    }

    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn problem(&self, node: &Node, key: &str, message: impl Into<String>) {
        self.found.add(node, &self.at(key), message);
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.node.get(key)
    }

    /// The section under a key.
    pub(super) fn section(&mut self, key: &'static str, then: impl FnOnce(&mut Section<'a>)) {
        let path = self.at(key);
        if let Some(mut section) = self.take(key).and_then(|node| Section::open(node, path, self.found)) {
            then(&mut section);
            section.finish();
        }
    }

    /// An element of a list, as a section.
    pub(super) fn element(&self, node: &'a Node, key: String, then: impl FnOnce(&mut Section<'a>)) {
        if let Some(mut section) = Section::open(node, self.at(&key), self.found) {
            then(&mut section);
            section.finish();
        }
    }

    /// A value that `parse` understands, described by `expected`.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let node = self.take(key)?;
        let parsed = node.text().and_then(parse);
        if parsed.is_none() {
            let found = node.text().map_or_else(|| node.kind().into(), |text| format!("{text:?}"));
            self.problem(node, key, format!("expected {expected}, found {found}"));
        }
        parsed
    }

    /// Reads a value into its place, if it is there.
    pub(super) fn set<T>(
        &mut self,
        key: &'static str,
        place: &mut T,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) {
        if let Some(value) = self.value(key, expected, parse) {
            *place = value;
        }
    }

    pub(super) fn duration(&mut self, key: &'static str, place: &mut Duration) {
        self.set(key, place, "a duration such as 250ms or 30s", |text| duration(text).filter(|d| !d.is_zero()));
    }

    pub(super) fn boolean(&mut self, key: &'static str, place: &mut bool) {
        self.set(key, place, "true or false", |text| text.parse().ok());
    }

    /// A number from `least` up.
    pub(super) fn count(&mut self, key: &'static str, place: &mut usize, least: usize) {
        let expected = format!("a whole number from {least} up");
        self.set(key, place, &expected, |text| text.parse().ok().filter(|&n: &usize| (least..1 << 32).contains(&n)));
    }

    pub(super) fn size(&mut self, key: &'static str, place: &mut usize, range: std::ops::RangeInclusive<usize>) {
        let expected = format!("a size such as 64KiB, from {} to {} bytes", range.start(), range.end());
        self.set(key, place, &expected, |text| size(text).filter(|n| range.contains(n)));
    }

    /// A key that a later version will know.
    pub(super) fn later(&mut self, key: &'static str) {
        if let Some(node) = self.take(key) {
            self.problem(node, key, "not supported in this version");
        }
    }

    /// Whatever was not read is unknown.
    pub(super) fn finish(self) {
        let Value::Map(pairs) = &self.node.value else { return };
        for (key, _) in pairs {
            let name = key.text().unwrap_or_default();
            if !self.known.contains(&name) {
                let message = format!("unknown key{}", suggest(name, self.known.iter().copied()));
                self.found.add(key, &self.at(name), message);
            }
        }
    }
}

/// Up to three of the known names that may have been meant, the nearest first.
pub(crate) fn near<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Vec<String> {
    let (name, mut near) = (name.to_lowercase(), Vec::new());
    for known in known {
        let distance = strsim::damerau_levenshtein(&known.to_lowercase(), &name);
        if distance <= 1 + known.len() / 4 {
            near.push((distance, known));
        }
    }
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
}

/// ": did you mean …?", or the list of what there is.
pub(super) fn suggest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(k, name), k)).min();
    match near.filter(|&(distance, near)| distance <= 1 + near.len() / 4) {
        Some((_, near)) => format!(": did you mean {near:?}?"),
        None => format!(": expected one of {}", known.join(", ")),
    }
}

/// `250ms`, `30s`, `5m`, `1h`, `1d`; fractions too.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let duration = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
    (duration <= Duration::from_secs(365 * 86_400)).then_some(duration)
}

/// `64KiB`, `1MiB`, `16KB`, or bytes.
pub(super) fn size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: usize = match unit {
        "" | "B" => 1,
        "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// `20%` or `0.2`, from 0 to 1.
pub(super) fn fraction(text: &str) -> Option<f64> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_fractions() {
        for (text, value) in [("250ms", 0.25), ("30s", 30.0), ("1.5h", 5400.0), ("1d", 86_400.0), ("0s", 0.0)] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(value)), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1e3s", "999999d", "1.2.3s", "5 s", "99999999999999999999999s"] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!((size("64KiB"), size("10"), size("1MB")), (Some(65_536), Some(10), Some(1_000_000)));
        assert_eq!((size("64kib"), size("KiB"), size("99999999999999999999GiB"), size("-1")), (None, None, None, None));
        assert_eq!(
            (fraction("20%"), fraction("0.2"), fraction("120%"), fraction("NaN")),
            (Some(0.2), Some(0.2), None, None)
        );
    }
}
