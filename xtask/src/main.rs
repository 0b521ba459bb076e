//! `cargo xtask`: everything that is checked, in one place.

use std::process::{Command, ExitCode};
use std::time::Instant;

/// One check: its name and its command line.
const STEPS: &[(&str, &[&str])] = &[
    ("fmt", &["fmt", "--all", "--check"]),
    ("clippy", &["clippy", "--jobs", "2", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("test", &["test", "--jobs", "2", "--workspace"]),
    ("docs", &["doc", "--jobs", "2", "--workspace", "--no-deps"]),
];

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let steps: Vec<_> = STEPS.iter().filter(|(name, _)| wanted == "test" || *name == wanted).collect();
    if steps.is_empty() {
        eprintln!("usage: cargo xtask test | fmt | clippy | docs");
        return ExitCode::from(2);
    }
    let mut failed = 0;
    for (name, arguments) in &steps {
        let began = Instant::now();
        let passed = Command::new("cargo").args(*arguments).env("RUSTDOCFLAGS", "-D warnings").status();
        let passed = passed.is_ok_and(|status| status.success());
        failed += usize::from(!passed);
        println!("{name}: {} in {:.0?}", if passed { "passed" } else { "FAILED" }, began.elapsed());
    }
    println!("{} passed, {failed} failed", steps.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
