//! Markup of the dashboard; `page.js` draws the sparkline in the same way.

use crate::format::{decimals, encoded};
use crate::recent::HISTORY;
use std::fmt::{self, Write};

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

/// Where the page of a service is.
pub(super) fn link(service: &str) -> String {
    format!("/services/{}", encoded(service))
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
