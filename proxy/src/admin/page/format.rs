//! How the dashboard writes things; `page.js` writes them in the same way.

use crate::observe::access::timestamp;
use crate::recent::HISTORY;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

/// Text that cannot become markup.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// For one segment of a path, or a value of a query.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            // Writing into a string cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// Where the page of a service is.
pub(super) fn link(service: &str) -> String {
    format!("/services/{}", encoded(service))
}

/// `12,345`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `41.0 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).round() / 10.0)
}

/// `1.23`.
pub(super) fn decimals(value: f64) -> String {
    format!("{:.2}", (value * 100.0).round() / 100.0)
}

/// Share ÷ fair share: `× 1.23`.
pub(super) fn load(load: Option<f64>) -> String {
    load.map_or_else(String::new, |load| format!("× {}", decimals(load)))
}

/// A rate: one decimal if it is small.
pub(super) fn per_second(rate: f64) -> String {
    if rate >= 10.0 { count(rate.round() as u64) } else { format!("{:.1}", (rate * 10.0).round() / 10.0) }
}

/// The upper bound of a time.
pub(super) fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "–".into(), |ms| format!("≤ {ms} ms"))
}

/// `2026-11-24 12:03:44`.
pub(super) fn utc(unix_ms: u64) -> String {
    let mut text = timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms));
    text.truncate("2026-11-24T12:03:44".len());
    text.replace('T', " ")
}

/// The path of skew over time, and the skew at its upper edge. The newest is at the right; without load
/// there is a gap.
pub(super) fn sparkline(history: &[Option<f64>]) -> (String, String) {
    let top = history.iter().flatten().fold(2.0_f64, |top, &skew| top.max(skew));
    let mut path = String::new();
    let mut pen = 'M';
    for (i, skew) in history.iter().enumerate() {
        let Some(skew) = skew else {
            pen = 'M';
            continue;
        };
        let (x, y) = (HISTORY - history.len() + i, 22.0 - (skew - 1.0) / (top - 1.0) * 20.0);
        // Writing into a string cannot fail.
        let _infallible = write!(path, "{pen}{x} {:.1}", y);
        pen = 'L';
    }
    (path, decimals(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0625, 1.0, 0.3333].map(percent), ["6.3 %", "100.0 %", "33.3 %"]);
        assert_eq!([0.0, 9.96, 10.4, 12_345.6].map(per_second), ["0.0", "10.0", "10", "12,346"]);
        assert_eq!((load(Some(1.125)), milliseconds(Some(2.5))), ("× 1.13".into(), "≤ 2.5 ms".into()));
        assert_eq!(utc(951_782_400_007), "2000-02-29 00:00:00");
    }

    #[test]
    fn what_comes_from_outside_stays_text() {
        assert_eq!(Escaped("<a href='x'>\"&").to_string(), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;");
        assert_eq!(link("a/b <ü>"), "/services/a%2Fb%20%3C%C3%BC%3E");
    }

    #[test]
    fn the_sparkline_has_gaps_and_ends_at_the_right() {
        let (path, top) = sparkline(&[Some(1.0), None, Some(5.0), Some(3.0)]);
        assert_eq!((path.as_str(), top.as_str()), ("M116 22.0M118 2.0L119 12.0", "5.00"));
        assert_eq!(sparkline(&[]), (String::new(), "2.00".into()));
    }
}
