//! The three lines the demo ends with: what was seen, twice, and what to run next.

use super::outcome::Phase;
use super::{Options, Protocol, Way};

/// The three lines, each at most 79 columns wide for up to 999,999 requests.
pub fn lines(phases: &[Phase], options: &Options) -> Vec<String> {
    let mut lines: Vec<_> = phases.iter().map(|phase| line(phase, options)).collect();
    lines.push(next(options.protocol).into());
    lines
}

fn line(phase: &Phase, options: &Options) -> String {
    match phase.way {
        Way::Service => format!("Service:  {}", service(phase)),
        Way::Evenkeel => {
            format!("evenkeel: {}; {} failed, {} dropped.", evenkeel(phase, options), phase.failed, phase.dropped)
        }
    }
}

fn service(phase: &Phase) -> String {
    let last = &phase.last;
    let effective = last.effective_pods.unwrap_or(0.0);
    match &phase.new_pods {
        Some(new) => format!(
            "the {} new Pods got {} of {} requests; {} Pods did the work of {effective:.1}.",
            new.pods,
            grouped(new.requests),
            grouped(new.requests_of),
            last.pods
        ),
        None => format!(
            "{} Pods did the work of {effective:.1}; skew {:.2}, {} of {} Pods at work.",
            last.pods,
            last.skew.unwrap_or(0.0),
            last.pods - last.idle_pods,
            last.pods
        ),
    }
}

fn evenkeel(phase: &Phase, options: &Options) -> String {
    let last = &phase.last;
    let skew = last.skew.unwrap_or(0.0);
    match (&phase.new_pods, options.protocol) {
        (Some(new), Protocol::Http | Protocol::Http2 | Protocol::Grpc) => match new.fair_share_ms {
            Some(after) => format!("new Pods at fair share after {} ms", grouped(after.round() as u64)),
            None => format!("new Pods not at fair share, skew {skew:.2}"),
        },
        (Some(new), Protocol::WebSocket) => {
            let moved = grouped(phase.moved);
            match new.fair_share_ms {
                Some(after) => {
                    let after = grouped(after.round() as u64);
                    format!("{moved} sessions moved; new Pods at fair share after {after} ms")
                }
                None => format!("{moved} sessions moved, skew {skew:.2}"),
            }
        }
        (Some(new), Protocol::Tcp) => {
            format!("{} of {} new connections on new Pods", new.connections, options.second_wave())
        }
        (None, _) => format!("skew {skew:.2}, {} of {} Pods at work", last.pods - last.idle_pods, last.pods),
    }
}

fn next(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::WebSocket | Protocol::Http2 | Protocol::Grpc => {
            "Next:     evenkeel proxy --listen 127.0.0.1:8080 --to 10.0.0.7:80,10.0.0.8:80"
        }
        Protocol::Tcp => "Next:     evenkeel proxy --listen 127.0.0.1:389 --to 10.0.0.7:389,10.0.0.8:389",
    }
}

/// 12345 as `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
