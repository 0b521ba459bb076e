//! The steps that are a command or two.

use crate::{Outcome, root, tools};
use std::path::Path;
use std::process::Command;

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 10;

pub(crate) fn fmt() -> Outcome {
    cargo(&["fmt", "--all", "--check"])
}

pub(crate) fn clippy() -> Outcome {
    cargo(&["clippy", "--jobs", "2", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

pub(crate) fn unit() -> Outcome {
    cargo(&["test", "--jobs", "2", "--workspace", "--exclude", "evenkeel-lab", "--no-fail-fast"])
}

/// The tests of `lab` look for their peers themselves; here none may be missing.
pub(crate) fn end_to_end() -> Outcome {
    let missing: Vec<&str> =
        ["nginx", "haproxy", "wrk", "curl", "node", "chromium"].into_iter().filter(|p| !tools::has(p)).collect();
    let mut command = Command::new("cargo");
    // One after the other: they measure shares and memory on few cores.
    command.args(["test", "--jobs", "2", "-p", "evenkeel-lab", "--no-fail-fast", "--", "--test-threads", "1"]);
    peers(&mut command, &missing)
}

/// Public suites and gRPC of other languages; what they say is shown while they run.
pub(crate) fn interop() -> Outcome {
    let mut missing: Vec<&str> = ["nghttpd", "openssl", "node"].into_iter().filter(|p| !tools::has(p)).collect();
    missing.extend(tools::install_interop());
    let test = ["test", "--jobs", "2", "-p", "evenkeel-lab", "--test", "conformance", "--no-fail-fast"];
    let mut command = Command::new("cargo");
    command.args(test).args(["--", "--ignored", "--nocapture", "--test-threads", "1"]);
    peers(&mut command, &missing)
}

/// Runs tests that look for their peers themselves; none may be missing unless it is known to be.
fn peers(command: &mut Command, missing: &[&str]) -> Outcome {
    if missing.is_empty() {
        return status(command.env("EVENKEEL_REQUIRE_PEERS", "1"));
    }
    match status(command) {
        Outcome::Passed => Outcome::Skipped(format!("the tests that need {} (the others passed)", missing.join(", "))),
        failed => failed,
    }
}

/// The first command of the README, shortened, in the profile that is built already.
pub(crate) fn demo() -> Outcome {
    cargo(&["run", "--jobs", "2", "--quiet", "--", "demo", "--duration", "2s"])
}

/// Links core and wire into a program without std, and runs it.
pub(crate) fn no_std() -> Outcome {
    let mut command = Command::new("cargo");
    command.args([
        "run",
        "--quiet",
        "--release",
        "--manifest-path",
        "no-std/Cargo.toml",
        "--target-dir",
        "target/no-std",
    ]);
    status(&mut command)
}

pub(crate) fn docs() -> Outcome {
    let mut command = Command::new("cargo");
    command.args(["doc", "--jobs", "2", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    status(&mut command)
}

pub(crate) fn licences() -> Outcome {
    if !tools::has("cargo-deny") {
        return Outcome::Skipped("cargo-deny is not installed".into());
    }
    cargo(&["deny", "--workspace", "check", "licenses", "bans", "sources"])
}

/// Needs the advisory database, which is a Git repository on GitHub.
pub(crate) fn advisories() -> Outcome {
    if !tools::has("cargo-deny") {
        return Outcome::Skipped("cargo-deny is not installed".into());
    }
    let reachable = Command::new("git")
        .args(["ls-remote", "--quiet", "https://github.com/rustsec/advisory-db", "HEAD"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_HTTP_LOW_SPEED_LIMIT", "1")
        .env("GIT_HTTP_LOW_SPEED_TIME", "10")
        .output()
        .is_ok_and(|out| out.status.success());
    if !reachable {
        return Outcome::Skipped("github.com/rustsec/advisory-db is not reachable from here".into());
    }
    cargo(&["deny", "--workspace", "check", "advisories"])
}

pub(crate) fn fuzz() -> Outcome {
    if !tools::has("cargo-fuzz") || !tools::nightly() {
        return Outcome::Skipped("cargo-fuzz or the nightly toolchain is not installed".into());
    }
    let listed = Command::new("cargo").args(["+nightly", "fuzz", "list"]).output();
    let Ok(listed) = listed else { return Outcome::Failed("cargo fuzz list does not run".into()) };
    let targets = String::from_utf8_lossy(&listed.stdout).into_owned();
    if targets.trim().is_empty() {
        return Outcome::Failed("no fuzz targets found".into());
    }
    for target in targets.lines() {
        // What a run finds stays in target/: the committed corpus grows only on purpose.
        let found = format!("target/fuzz-found/{target}");
        if let Err(error) = std::fs::create_dir_all(&found) {
            return Outcome::Failed(format!("{found}: {error}"));
        }
        let corpus = format!("fuzz/corpus/{target}");
        if !Path::new(&corpus).is_dir() {
            return Outcome::Failed(format!("{corpus} does not exist: every target has a committed corpus"));
        }
        let time = format!("-max_total_time={FUZZ_SECONDS}");
        let mut command = Command::new("cargo");
        command.args([
            "+nightly",
            "fuzz",
            "run",
            target,
            &found,
            &corpus,
            "--",
            &time,
            "-timeout=5",
            "-rss_limit_mb=1024",
        ]);
        command.args(["-verbosity=0", "-print_final_stats=1"]);
        if let failed @ Outcome::Failed(_) = status(&mut command) {
            return failed;
        }
    }
    Outcome::Passed
}

/// Writes the pages of docs/ that the program knows best.
pub(crate) fn generate() -> Outcome {
    for page in ["config", "metrics"] {
        let run = ["run", "--quiet", "--jobs", "2", "-p", "evenkeel", "--", "check", "--reference", page];
        let out = match Command::new("cargo").args(run).output() {
            Ok(out) if out.status.success() => out.stdout,
            Ok(out) => return Outcome::Failed(String::from_utf8_lossy(&out.stderr).into_owned()),
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let path = root().join(format!("docs/{page}.md"));
        if let Err(error) = std::fs::write(&path, out) {
            return Outcome::Failed(format!("{}: {error}", path.display()));
        }
        println!("docs/{page}.md");
    }
    Outcome::Passed
}

/// Installs the peers, builds evenkeel, and measures side by side.
pub(crate) fn bench(arguments: &[&str]) -> Outcome {
    let asks = arguments.iter().any(|argument| ["--help", "-h", "--render", "--check"].contains(argument));
    if !asks {
        if let Outcome::Skipped(why) = tools::install() {
            println!("{why}");
        }
        tools::install_peers();
        let build = ["build", "--release", "--jobs", "2", "-p", "evenkeel", "-p", "evenkeel-bench"];
        if let failed @ Outcome::Failed(_) = cargo(&build) {
            return failed;
        }
    }
    let venv = tools::venv().join("bin/python");
    let python = if venv.exists() { venv } else { "python3".into() };
    status(Command::new(python).arg("bench/run.py").args(arguments).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// The tables and the README's figures are those of the JSON files.
pub(crate) fn figures() -> Outcome {
    bench(&["--check"])
}

pub(crate) fn cargo(arguments: &[&str]) -> Outcome {
    status(Command::new("cargo").args(arguments))
}

pub(crate) fn status(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(format!("{status}: {command:?}")),
        Err(error) => Outcome::Failed(format!("{error}: {command:?}")),
    }
}
