//! How figures are written for people: on the dashboard (whose script does the same) and in `evenkeel top`.

use crate::observe::access::timestamp;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// For one segment of a path, or a value of a query.
pub fn encoded(text: &str) -> String {
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

/// `12,345`.
pub fn count(n: u64) -> String {
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
pub fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).round() / 10.0)
}

/// `1.23`.
pub fn decimals(value: f64) -> String {
    format!("{:.2}", (value * 100.0).round() / 100.0)
}

/// Share ÷ fair share: `× 1.23`.
pub fn load(load: Option<f64>) -> String {
    load.map_or_else(String::new, |load| format!("× {}", decimals(load)))
}

/// A rate: one decimal if it is small.
pub fn per_second(rate: f64) -> String {
    if rate >= 10.0 { count(rate.round() as u64) } else { format!("{:.1}", (rate * 10.0).round() / 10.0) }
}

/// The upper bound of a time.
pub fn milliseconds(ms: Option<f64>) -> String {
    ms.map_or_else(|| "–".into(), |ms| format!("≤ {ms} ms"))
}

/// `2026-11-24 12:03:44`.
pub fn utc(unix_ms: u64) -> String {
    let mut text = timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms));
    text.truncate("2026-11-24T12:03:44".len());
    text.replace('T', " ")
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
        assert_eq!(encoded("a/b <ü>"), "a%2Fb%20%3C%C3%BC%3E");
    }
}
