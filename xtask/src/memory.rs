//! Resident memory of the idle process, in the build that users have: pages of code count, and those of a debug
//! build are others.

use crate::{Outcome, steps};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `ps` may show for the process with one service, some seconds after its start: measured 3.2 MiB, and how much
/// of a file the kernel maps at once differs between file systems.
const BUDGET_KIB: u64 = 3_800;
/// How long it may take until what only the start needed is given back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it takes after that until what is needed again is there again.
const SETTLED: Duration = Duration::from_secs(5);

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

pub(crate) fn check() -> Outcome {
    if let failed @ Outcome::Failed(_) = steps::cargo(&["build", "--release", "--jobs", "2", "-p", "evenkeel"]) {
        return failed;
    }
    let arguments = ["proxy", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--admin", "off", "--workers", "1"];
    let started = Command::new("target/release/evenkeel").args(arguments).stderr(Stdio::null()).spawn();
    let mut running = match started {
        Ok(child) => Running(child),
        Err(error) => return Outcome::Failed(format!("target/release/evenkeel: {error}")),
    };
    let process = running.0.id();
    let until = Instant::now() + PATIENCE;
    // Given back is what is resident no more and once was.
    while !matches!((status(process, "VmRSS:"), status(process, "VmHWM:")), (Some(now), Some(most)) if now < most) {
        if let Ok(Some(status)) = running.0.try_wait() {
            return Outcome::Failed(format!("evenkeel proxy ended: {status}"));
        }
        if Instant::now() > until {
            return Outcome::Failed("nothing was given back after the start".into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(SETTLED);
    let Some(resident) = status(process, "VmRSS:") else { return Outcome::Failed("it is gone".into()) };
    println!("{resident} KiB resident, of {BUDGET_KIB}");
    match resident <= BUDGET_KIB {
        true => Outcome::Passed,
        false => Outcome::Failed(format!("{resident} KiB are resident, more than {BUDGET_KIB}")),
    }
}

/// A figure of `/proc/PID/status`, in KiB.
fn status(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB").parse().ok()
}
