//! Instruction counts of the hot paths, counted by callgrind: they repeat to the instruction on one
//! machine, whatever else runs on it, where times drift by a third.
//!
//! `bench/history/instructions.json` holds what was recorded: one entry for each time, the last one counts. Other processors take other paths through
//! memchr and memcpy, so a count may differ from the record by [`TOLERANCE`] before it is an error.

use crate::{Outcome, tools};
use serde_json::{Map, Value, json};
use std::process::Command;

const RECORD: &str = "bench/history/instructions.json";
/// Share by which a count may grow without an explanation.
const TOLERANCE: f64 = 0.10;
/// How many times the operations of the shorter run the longer one has: their difference leaves out start and
/// warm-up.
const LONGER: u32 = 3;

pub(crate) fn check() -> Outcome {
    if !tools::has("valgrind") {
        return Outcome::Skipped("valgrind is not installed".into());
    }
    let counted = match count() {
        Ok(counted) => counted,
        Err(why) => return Outcome::Failed(why),
    };
    let history = match history() {
        Ok(history) => history,
        Err(why) => return Outcome::Failed(why),
    };
    let recorded = history.last().map_or(&Value::Null, |entry| &entry["counts"]);
    let mut worse = Vec::new();
    for (name, now) in &counted {
        let Some(before) = recorded.get(name).and_then(Value::as_f64) else {
            worse.push(format!("{name} is not recorded: cargo xtask record"));
            continue;
        };
        let change = now / before - 1.0;
        println!("{name:34} {now:9.0} instructions, {:+.1} % of the record", change * 100.0);
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
    let mut history = match history() {
        Ok(history) => history,
        Err(why) => return Outcome::Failed(why),
    };
    let counts: Map<String, Value> =
        counted.into_iter().map(|(name, n)| (name, Value::from(n.round() as u64))).collect();
    println!("{}", serde_json::to_string_pretty(&counts).unwrap_or_default());
    // What is counted is most likely not committed yet: it came after this.
    let git = |format: &str| {
        let out = Command::new("git").args(["log", "-1", &format!("--format={format}")]).output();
        out.map_or_else(|_| String::new(), |out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    history.push(json!({ "date": git("%cs"), "after": git("%s"), "counts": counts }));
    let text = serde_json::to_string_pretty(&history).unwrap_or_default() + "\n";
    match std::fs::write(RECORD, text) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{RECORD}: {error}")),
    }
}

/// What was recorded, oldest first.
fn history() -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(RECORD).map_err(|error| format!("{RECORD}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{RECORD}: {error}"))
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
    for line in names.lines() {
        let named = line.split_once('\t').and_then(|(name, n)| Some((name, n.parse::<u32>().ok()?)));
        let Some((name, n)) = named else { return Err(format!("{program} list: {line:?}")) };
        let (long, short) = (callgrind(program, name, LONGER * n)?, callgrind(program, name, n)?);
        counts.push((name.to_owned(), (long - short) as f64 / f64::from((LONGER - 1) * n)));
    }
    if counts.is_empty() { Err(format!("{program} list names nothing")) } else { Ok(counts) }
}

fn callgrind(program: &str, name: &str, operations: u32) -> Result<u64, String> {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", program, name, &operations.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        return Err(format!("{program} {name}: {said}"));
    }
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ")).and_then(|(_, n)| n.trim().parse().ok());
    collected.ok_or_else(|| format!("valgrind {program} {name}: {said}"))
}
