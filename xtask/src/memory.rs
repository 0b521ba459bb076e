//! Resident memory of the idle process, in the build that users have: pages of code count, and those of a debug
//! build are others.

use crate::{Outcome, steps};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `ps` may show for the process with one service, some seconds after its start: measured 3.2 MiB, and how much
/// of a file the kernel maps at once differs between file systems.
const BUDGET_KIB: u64 = 3_800;
/// How long it may take to get there.
const PATIENCE: Duration = Duration::from_secs(30);

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
    let (until, mut resident) = (Instant::now() + PATIENCE, u64::MAX);
    // Whatever the start took was given back once less is resident than there was.
    let mut given_back = false;
    while Instant::now() < until && !(given_back && resident <= BUDGET_KIB) {
        if let Ok(Some(status)) = running.0.try_wait() {
            return Outcome::Failed(format!("evenkeel proxy ended: {status}"));
        }
        let (Some(now), Some(most)) = (status(running.0.id(), "VmRSS:"), status(running.0.id(), "VmHWM:")) else {
            continue;
        };
        (resident, given_back) = (now, now < most);
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{resident} KiB resident, of {BUDGET_KIB}");
    match given_back && resident <= BUDGET_KIB {
        true => Outcome::Passed,
        false => Outcome::Failed(format!("{resident} KiB are resident, more than {BUDGET_KIB}")),
    }
}

/// A figure of `/proc/PID/status`, in KiB.
fn status(process: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB").parse().ok()
}
