//! `cargo xtask`: the one tool. `cargo xtask test` is the whole gate, here and in CI.
//!
//! A step passes, fails, or is skipped with a reason; the summary names every step, how long it took
//! and what was skipped. `cargo xtask STEP...` runs single steps.

mod arrows;
mod instructions;
mod links;
mod memory;
mod steps;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// How a step ended.
pub(crate) enum Outcome {
    Passed,
    /// Not done, and why.
    Skipped(String),
    Failed(String),
}

/// One thing that is checked.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Outcome,
}

/// In the order of what fails soonest.
const STEPS: &[Step] = &[
    Step { name: "install", what: "what the other steps need", run: tools::install },
    Step { name: "fmt", what: "cargo fmt --check", run: steps::fmt },
    Step { name: "arrows", what: "which crate may use which", run: arrows::check },
    Step { name: "links", what: "relative links of the documents", run: links::check },
    Step { name: "figures", what: "measured figures in README and docs are those of the JSON", run: steps::figures },
    Step { name: "clippy", what: "clippy, warnings denied", run: steps::clippy },
    Step { name: "unit", what: "unit, property, fairness, churn, transcript tests", run: steps::unit },
    Step { name: "e2e", what: "real sockets, real clients and servers", run: steps::end_to_end },
    Step { name: "interop", what: "public suites of HTTP/2 and gRPC, clients of other languages", run: steps::interop },
    Step { name: "demo", what: "the first command of the README", run: steps::demo },
    Step { name: "no-std", what: "core and wire in a program without std", run: steps::no_std },
    Step { name: "docs", what: "rustdoc, warnings denied", run: steps::docs },
    Step { name: "licences", what: "cargo deny: licences, bans, sources", run: steps::licences },
    Step { name: "advisories", what: "cargo deny: known vulnerabilities", run: steps::advisories },
    Step { name: "instructions", what: "instruction counts of the hot paths", run: instructions::check },
    Step { name: "memory", what: "resident memory of the idle process", run: memory::check },
    Step { name: "fuzz", what: "every fuzz target for a few seconds", run: steps::fuzz },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if std::env::set_current_dir(root()).is_err() {
        eprintln!("xtask: cannot enter {}", root().display());
        return ExitCode::FAILURE;
    }
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => run(STEPS.iter().collect()),
        ["generate"] => finish(&[("generate", steps::generate())]),
        ["bench", ref rest @ ..] => finish(&[("bench", steps::bench(rest))]),
        ["record"] => finish(&[("record", instructions::record())]),
        [] | ["help" | "--help" | "-h"] => usage(),
        ref names => {
            let steps: Option<Vec<_>> = names.iter().map(|n| STEPS.iter().find(|s| s.name == *n)).collect();
            match steps {
                Some(steps) => run(steps),
                None => usage(),
            }
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("cargo xtask test               install what is needed, check everything");
    eprintln!("cargo xtask STEP...            only these steps:");
    for step in STEPS {
        eprintln!("    {:14} {}", step.name, step.what);
    }
    eprintln!("cargo xtask generate           write the generated pages of docs/");
    eprintln!("cargo xtask record             record new instruction counts");
    eprintln!("cargo xtask bench [--help]     compare with nginx, HAProxy, nghttpx and Envoy on this machine");
    ExitCode::from(2)
}

fn run(steps: Vec<&Step>) -> ExitCode {
    let mut results = Vec::new();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.what);
        let began = Instant::now();
        let outcome = (step.run)();
        results.push((step.name, outcome, began.elapsed()));
    }
    println!("\n=== summary");
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, outcome, took) in &results {
        let seconds = took.as_secs_f64();
        match outcome {
            Outcome::Passed => {
                passed += 1;
                println!("passed   {seconds:7.1} s  {name}");
            }
            Outcome::Skipped(why) => {
                skipped += 1;
                println!("skipped  {seconds:7.1} s  {name}: {why}");
            }
            Outcome::Failed(why) => {
                failed += 1;
                println!("FAILED   {seconds:7.1} s  {name}: {why}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn finish(results: &[(&str, Outcome)]) -> ExitCode {
    for (name, outcome) in results {
        match outcome {
            Outcome::Passed => {}
            Outcome::Skipped(why) => println!("{name}: skipped: {why}"),
            Outcome::Failed(why) => {
                eprintln!("{name}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
