//! Which crate may use which of ours. ARCHITECTURE.md shows the picture; this is the rule.

use crate::Outcome;
use serde_json::Value;
use std::process::Command;

/// Crate, and the crates of ours that it may name in its manifest.
const ARROWS: &[(&str, &[&str])] = &[
    ("evenkeel-core", &[]),
    ("evenkeel-wire", &["evenkeel-core"]),
    ("evenkeel-upstream", &["evenkeel-core", "evenkeel-wire"]),
    ("evenkeel-proxy", &["evenkeel-core", "evenkeel-wire", "evenkeel-upstream"]),
    ("evenkeel-lab", &["evenkeel-core", "evenkeel-wire", "evenkeel-upstream", "evenkeel-proxy"]),
    ("evenkeel", &["evenkeel-core", "evenkeel-wire", "evenkeel-upstream", "evenkeel-proxy", "evenkeel-lab"]),
    ("evenkeel-bench", &["evenkeel-core", "evenkeel-wire"]),
    ("xtask", &[]),
];

/// Crates that `core` and `wire` may use: none does I/O, and all work without std.
const PURE: &[&str] = &["libm", "memchr", "xxhash-rust"];

pub(crate) fn check() -> Outcome {
    let output = Command::new("cargo").args(["metadata", "--format-version", "1", "--no-deps"]).output();
    let metadata: Value = match output.map(|out| serde_json::from_slice(&out.stdout)) {
        Ok(Ok(metadata)) => metadata,
        Ok(Err(error)) => return Outcome::Failed(error.to_string()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| *n == name) else {
            wrong.push(format!("{name} has no arrows yet: add it to xtask/src/arrows.rs and to ARCHITECTURE.md"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let ours = ARROWS.iter().any(|(n, _)| *n == used);
            if ours && !allowed.contains(&used) {
                wrong.push(format!("{name} may not use {used}"));
            }
            let pure = matches!(name, "evenkeel-core" | "evenkeel-wire") && dependency["kind"].is_null();
            if pure && !ours && !PURE.contains(&used) {
                wrong.push(format!("{name} may not use {used}: it has to stay free of std and of I/O"));
            }
        }
    }
    match wrong.is_empty() {
        true => Outcome::Passed,
        false => Outcome::Failed(wrong.join("; ")),
    }
}
