//! A restart is no storm: everybody comes back at once, and is let in at a pace that endpoints can take.

mod common;

use common::peers::{free_port, python};
use common::program::Program;
use common::sockets::{Clients, Pods};
use common::{PATIENCE, within};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

const CLIENTS: usize = 2_000;
/// Sessions per second that each of two endpoints may be sent.
const RATE: f64 = 150.0;
const WORKERS: f64 = 2.0;
/// What was not used stays usable for this long (`evenkeel_core::admission`).
const BURST: f64 = 0.1;

#[test]
fn after_a_restart_everybody_is_let_in_no_faster_than_the_rate() {
    let Some(python) = python() else { return };
    let pods = Pods::start(&python, 2);
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = |rate: &str| {
        format!(
            "workers: {WORKERS}\nservices:\n- {{name: chat, listen: '{listen}', target: '{},{}', \
             limits: {{upgrade_rate: {rate}, upgrade_wait: 3s}}}}\n",
            pods.addrs[0], pods.addrs[1]
        )
    };
    let mut program = Program::start(&config("off"));
    let mut clients = Clients::with(&python, listen, CLIENTS, &["--say", "10", "--away", "0"]);
    assert_eq!(pods.open(), [CLIENTS as u64 / 2; 2]);
    let began = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    program.replace(&config(&format!("{RATE}/s")));
    // 2,000 at 300 a second take 7 s, and who was turned away comes a little later than need be.
    within(4 * PATIENCE, "everybody is back", || {
        pods.opened().iter().sum::<u64>() == 2 * CLIENTS as u64 && pods.open().iter().sum::<u64>() == CLIENTS as u64
    });
    let arrivals: Vec<f64> = pods.arrivals().into_iter().filter(|&at| at >= began).collect();
    assert_eq!(arrivals.len(), CLIENTS);
    // What is held up on the way comes later, never earlier: from the start on no more than the rate has come.
    let rate = 2.0 * RATE;
    for (already, at) in arrivals.iter().enumerate() {
        let most = rate * (at - began + BURST) + WORKERS;
        assert!(already as f64 <= most, "{already} came within {:.2} s", at - began);
    }
    // Nor did they gather to come together. Half as many more is what a second lost to other processes can bring.
    let window = 2.0;
    for (i, from) in arrivals.iter().enumerate() {
        let within = arrivals[i..].iter().take_while(|&at| at - from < window).count() as f64;
        assert!(within <= 1.5 * rate * (window + BURST) + WORKERS, "{within} came within {window} s");
    }
    let turned_away = program.metric("evenkeel_limit_hits_total{service=\"chat\",limit=\"upgrade_rate\"}");
    let seen = clients.seen();
    // Those for whom the wait was too long got 503 and Retry-After (everything else is a failure), and came again.
    assert!(
        seen["refused"].as_f64().is_some_and(|refused| refused > 0.0 && refused == turned_away),
        "{turned_away}: {}",
        seen["refused"]
    );
    // Some were on their way into the process that was killed.
    assert_eq!((&seen["failed"], &seen["mismatched"]), (&seen["interrupted"], &0.into()), "{}", seen["first_failure"]);
    assert_eq!(
        (&seen["most_moves"], &seen["codes"]["1006"]),
        (&1.into(), &CLIENTS.into()),
        "one restart, one reconnect"
    );
    let (open, fair) = (pods.open(), CLIENTS as u64 / 2);
    // Two workers may choose in the same moment.
    assert!(open.iter().all(|n| n.abs_diff(fair) <= 1), "by count, not by chance: {open:?}");
}
