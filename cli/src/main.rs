//! `evenkeel`: balances the work inside connections that stay open.

mod admin;
mod check;
mod demo;
mod logging;
mod proxy;
mod top;
mod why;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Exit code of a run that failed.
const FAILED: u8 = 1;
/// Exit code of wrong usage (clap's own).
const USAGE: u8 = 2;
/// Exit code of a configuration that is wrong.
const BAD_CONFIG: u8 = 3;

/// Balances the work inside connections that stay open: per request, not per connection, and new
/// endpoints get their share while clients stay connected.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  evenkeel demo
      see the problem and the cure in 15 seconds: no root, no network, no cluster
  evenkeel proxy --listen 127.0.0.1:8080 --to 10.0.0.1:80,10.0.0.2:80
      balance what connects to port 8080 over two endpoints
  evenkeel proxy --listen 127.0.0.1:8080 --to dns://catalog.shop.svc:8080
      the same for a headless Service
  evenkeel check evenkeel.yaml
      say everything that is wrong with a configuration
  evenkeel top
      watch who gets what
  evenkeel why catalog
      say in sentences why";

#[derive(Subcommand)]
enum Command {
    /// See what a Service and what evenkeel make of connections that stay open, on this machine
    Demo(demo::Arguments),
    /// Serve: listeners on one side, endpoints on the other
    Proxy(proxy::Arguments),
    /// Read a configuration and say everything that is wrong with it
    Check(check::Arguments),
    /// Watch services and endpoints: who gets what, and why
    Top(top::Arguments),
    /// Say in sentences why a service or an endpoint gets what it gets
    Why(why::Arguments),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  evenkeel completions bash > /etc/bash_completion.d/evenkeel")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One JSON document
    Json,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Proxy(arguments) => proxy::run(arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "evenkeel", &mut script);
            print(&script)
        }
    }
}

/// Writes to standard output; a closed pipe is the reader's choice, not our failure.
fn print(bytes: &[u8]) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => fail(&format!("cannot write: {error}"), FAILED),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("evenkeel: {message}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
