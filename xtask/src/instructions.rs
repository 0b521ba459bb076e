//! Instruction counts of the hot paths, counted by callgrind: they repeat to the instruction on one
//! machine, whatever else runs on it, where times drift by a third.
//!
//! `bench/history/instructions.json` holds what was recorded. Other processors take other paths through
//! memchr and memcpy, so a count may differ from the record by [`TOLERANCE`] before it is an error.

use crate::{Outcome, tools};
use serde_json::{Map, Value};
use std::process::Command;

const RECORD: &str = "bench/history/instructions.json";
/// Share by which a count may grow without an explanation.
const TOLERANCE: f64 = 0.10;
/// Operations of the longer and the shorter run: their difference leaves out start and warm-up.
const RUNS: (u32, u32) = (3_000, 1_000);

pub(crate) fn check() -> Outcome {
    if !tools::has("valgrind") {
        return Outcome::Skipped("valgrind is not installed".into());
    }
    let counted = match count() {
        Ok(counted) => counted,
        Err(why) => return Outcome::Failed(why),
    };
    let recorded: Map<String, Value> = match std::fs::read_to_string(RECORD).map(|text| serde_json::from_str(&text)) {
        Ok(Ok(recorded)) => recorded,
        Ok(Err(error)) => return Outcome::Failed(format!("{RECORD}: {error}")),
        Err(error) => return Outcome::Failed(format!("{RECORD}: {error}: cargo xtask record writes it")),
    };
    let mut worse = Vec::new();
    for (name, now) in &counted {
        let Some(before) = recorded.get(name).and_then(Value::as_f64) else {
            worse.push(format!("{name} is not recorded: cargo xtask record"));
            continue;
        };
        let change = now / before - 1.0;
        println!("{name:28} {now:9.0} instructions, {:+.1} % of the record", change * 100.0);
        if change > TOLERANCE {
            worse.push(format!("{name} takes {:.1} % more instructions than recorded", change * 100.0));
        }
    }
    match worse.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed(worse.join("; ")),
    }
}

pub(crate) fn record() -> Outcome {
    let counted = match count() {
        Ok(counted) => counted,
        Err(why) => return Outcome::Failed(why),
    };
    let object: Map<String, Value> =
        counted.into_iter().map(|(name, n)| (name, Value::from(n.round() as u64))).collect();
    let text = serde_json::to_string_pretty(&object).unwrap_or_default() + "\n";
    match std::fs::write(RECORD, &text) {
        Ok(()) => {
            print!("{text}");
            Outcome::Passed
        }
        Err(error) => Outcome::Failed(format!("{RECORD}: {error}")),
    }
}

fn count() -> Result<Vec<(String, f64)>, String> {
    let build = ["build", "--release", "--jobs", "2", "-p", "evenkeel-bench"];
    if let Outcome::Failed(why) = crate::steps::cargo(&build) {
        return Err(why);
    }
    let program = "target/release/instructions";
    let names = Command::new(program).arg("list").output().map_err(|e| format!("{program}: {e}"))?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let mut counts = Vec::new();
    for name in names.lines() {
        let (long, short) = (callgrind(program, name, RUNS.0)?, callgrind(program, name, RUNS.1)?);
        counts.push((name.to_owned(), (long - short) as f64 / f64::from(RUNS.0 - RUNS.1)));
    }
    if counts.is_empty() { Err(format!("{program} list names nothing")) } else { Ok(counts) }
}

fn callgrind(program: &str, name: &str, operations: u32) -> Result<u64, String> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, name, &operations.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ")).and_then(|(_, n)| n.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind {program} {name}: {said}"))
}
