//! `evenkeel demo`: flags to options.

use crate::{FAILED, USAGE, fail};
use clap::{Args, ValueEnum};
use evenkeel_lab::demo::{self, Error, Options};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exit code after Ctrl-C: 128 + SIGINT, as a shell expects.
const INTERRUPTED: u8 = 130;

#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  evenkeel demo                          12 clients; 3 Pods become 6
  evenkeel demo --clients 2 --pods 5     fewer clients than Pods
  evenkeel demo --clients 5 --pods 2     a few clients, two Pods
  evenkeel demo --protocol grpc          calls of gRPC, each to another Pod (http2: requests)
  evenkeel demo --protocol websocket     sessions that are asked to move to new Pods
  evenkeel demo --protocol websocket --clients 1000 --pods 2 --scale-to 5 --duration 60s
  evenkeel demo --protocol tcp           connections that can only be placed whole
  evenkeel demo --report demo.html       a page with the plots
  evenkeel demo --output json            every figure

Everything runs on this machine's loopback addresses: no root, no network, no cluster.
The same --seed gives the same clients, schedules and random placement.")]
pub(crate) struct Arguments {
    /// Clients, each with one connection that stays open (1 to 1000)
    #[arg(long, value_name = "N", default_value_t = 12)]
    clients: u64,

    /// Pods at the beginning [default: 3]
    #[arg(long, value_name = "N")]
    pods: Option<usize>,

    /// Pods after scaling [default: 6; with --pods, no scaling]
    #[arg(long, value_name = "N")]
    scale_to: Option<usize>,

    /// What clients and Pods speak
    #[arg(long, value_enum, value_name = "P", default_value_t = Protocol::Http)]
    protocol: Protocol,

    /// Requests per second of each client [default: 40, less for many clients or few Pods]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,

    /// Length of each of the two phases: 7s, 1500ms
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "7s")]
    duration: Duration,

    /// Seed of everything that is drawn by chance
    #[arg(long, value_name = "N", default_value_t = 9)]
    seed: u64,

    /// How the result is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,

    /// Writes a self-contained page with plots
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// No colours (NO_COLOR in the environment does the same)
    #[arg(long)]
    no_color: bool,
}

/// What clients and Pods speak.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive
    Http,
    /// HTTP/2
    Http2,
    /// gRPC: unary calls
    Grpc,
    /// Opaque bytes
    Tcp,
    /// WebSocket: sessions stay open, and are asked to move
    Websocket,
}

/// How the result is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
}

/// Runs the demo: 0 if it could be shown and all counts agree.
pub(crate) fn run(args: Arguments) -> ExitCode {
    match demo::run(&options(args)) {
        Ok(outcome) if outcome.counts_agree => ExitCode::SUCCESS,
        Ok(outcome) => fail(&format!("the counts disagree: {}", outcome.disagreements.join("; ")), FAILED),
        Err(Error::Interrupted) => ExitCode::from(INTERRUPTED),
        // A closed pipe is the reader's choice, not our failure.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error @ Error::Usage(_)) => fail(&error.to_string(), USAGE),
        Err(error) => fail(&error.to_string(), FAILED),
    }
}

fn options(args: Arguments) -> Options {
    let defaults = Options::default();
    let pods = args.pods.unwrap_or(defaults.pods);
    // Who asks for a number of Pods wants to see that number at work.
    let scale_to = args.scale_to.unwrap_or(if args.pods.is_none() { defaults.scale_to } else { pods });
    Options {
        clients: args.clients,
        pods,
        scale_to,
        protocol: match args.protocol {
            Protocol::Http => demo::Protocol::Http,
            Protocol::Http2 => demo::Protocol::Http2,
            Protocol::Grpc => demo::Protocol::Grpc,
            Protocol::Tcp => demo::Protocol::Tcp,
            Protocol::Websocket => demo::Protocol::WebSocket,
        },
        rate: args.rate.unwrap_or_else(|| Options::rate_for(args.clients, pods)),
        duration: args.duration,
        seed: args.seed,
        output: match args.output {
            Output::Text => demo::Output::Text,
            Output::Json => demo::Output::Json,
        },
        report: args.report,
        // https://no-color.org: present and not empty.
        color: !args.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}

/// `7s`, `1500ms`, `0.5m`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        other => return Err(format!("unknown unit {other:?}: write 7s or 1500ms")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a time: write 7s or 1500ms"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        demo: Arguments,
    }

    fn parsed(line: &str) -> Options {
        options(Line::parse_from(std::iter::once("demo").chain(line.split_whitespace())).demo)
    }

    #[test]
    fn without_flags_it_is_the_default_scenario() {
        let options = parsed("");
        assert_eq!(Options { color: true, ..options }, Options::default());
    }

    #[test]
    fn a_number_of_pods_stays_unless_scaling_is_asked_for() {
        assert_eq!((parsed("--clients 2 --pods 5").pods, parsed("--pods 5").scale_to), (5, 5));
        assert_eq!(parsed("--pods 2 --scale-to 4").scale_to, 4);
        assert_eq!((parsed("--scale-to 9").pods, parsed("--scale-to 9").scale_to), (3, 9));
    }

    #[test]
    fn many_clients_of_few_pods_ask_less() {
        assert_eq!(
            (parsed("").rate, parsed("--clients 5 --pods 2").rate, parsed("--clients 24").rate),
            (40.0, 40.0, 20.0)
        );
        let crowd = parsed("--clients 1000 --pods 2 --scale-to 5 --duration 60s");
        assert_eq!((crowd.rate, crowd.check().is_ok()), (0.32, true));
        // What moves is done long before the end, and no faster than it need be.
        assert_eq!(crowd.moves_per_second(), 0.05);
        assert!((parsed("--protocol websocket").moves_per_second() - 0.3125).abs() < 1e-9);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("7"), duration("7s"));
        assert!(duration("7 weeks").is_err() && duration("s").is_err() && duration("-1s").is_err());
    }
}
