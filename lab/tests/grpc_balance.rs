//! gRPC calls over few client connections, to servers of the `grpcio` package, which count them: each call is
//! balanced, whatever happens to the servers.

mod common;

use common::http2::{Heard, Peer, value};
use common::peers::{Catalog, Process, directory, free_port, python};
use common::program::Program;
use common::{Proxy, eventually};
use evenkeel_core::balancer::Policy;
use evenkeel_wire::http2::connection::Part;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, TryRecvError};
use std::time::{Duration, Instant};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/fleet.py");
/// Calls under way at once, of those that are made in a row.
const AT_ONCE: usize = 20;

/// A server as a process of its own.
struct Server {
    addr: SocketAddr,
    process: Process,
}

impl Server {
    /// Gives calls this many seconds when it is told to stop.
    fn start(python: &Path, grace: u32) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], free_port())), python, grace)
    }

    /// So many of them.
    fn several(python: &Path, n: usize, grace: u32) -> Vec<Self> {
        let begin = |_| Self::begin(SocketAddr::from(([127, 0, 0, 1], free_port())), python, grace);
        let begun: Vec<Self> = (0..n).map(begin).collect();
        begun.into_iter().map(Self::ready).collect()
    }

    fn at(addr: SocketAddr, python: &Path, grace: u32) -> Self {
        Self::begin(addr, python, grace).ready()
    }

    fn begin(addr: SocketAddr, python: &Path, grace: u32) -> Self {
        let mut command = Command::new(python);
        command.args([SCRIPT, "serve", &addr.port().to_string(), "--grace", &grace.to_string()]);
        Self { addr, process: Process::start(&mut command, directory("grpcio")) }
    }

    fn ready(self) -> Self {
        Self { process: self.process.listening(self.addr), ..self }
    }

    /// Asks it, without evenkeel.
    fn ask(&self, method: &str) -> String {
        let mut client = Peer::client(self.addr);
        let (status, body) = call(&mut client, method);
        assert_eq!(status, "0", "{method}");
        body
    }

    /// Calls that it has begun with.
    fn begun(&self, method: &str) -> u64 {
        self.counts()["begun"][method].as_u64().unwrap_or(0)
    }

    fn counts(&self) -> Value {
        serde_json::from_str(&self.ask("Counts")).expect("JSON")
    }
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.addr).collect()
}

fn begun(servers: &[Server], method: &str) -> Vec<u64> {
    servers.iter().map(|server| server.begun(method)).collect()
}

/// One call with an empty message, and what came of it: its status, and the message of the answer.
fn call(client: &mut Peer, method: &str) -> (String, String) {
    let stream = client.call(&format!("/lab.Calls/{method}"));
    client.data(stream, &[0; 5], true);
    let (_, body, fields) = client.whole(stream);
    (value(&fields, "grpc-status").to_owned(), body.get(5..).unwrap_or_default().to_owned())
}

/// Makes `n` calls of `Name`, so many of them under way at once: their statuses, and how often each.
fn calls(client: &mut Peer, n: usize, at_once: usize) -> BTreeMap<String, usize> {
    let mut load = Load::new(at_once);
    while load.over() < n {
        load.turn(client, n);
    }
    load.statuses
}

/// Calls that follow one another on one connection.
struct Load {
    at_once: usize,
    begun: usize,
    open: HashSet<u32>,
    /// gRPC statuses, or what else came, and how often.
    statuses: BTreeMap<String, usize>,
}

impl Load {
    fn new(at_once: usize) -> Self {
        Self { at_once, begun: 0, open: HashSet::new(), statuses: BTreeMap::new() }
    }

    fn over(&self) -> usize {
        self.begun - self.open.len()
    }

    /// Begins what may begin, up to `n` in all, and hears one thing.
    fn turn(&mut self, client: &mut Peer, n: usize) {
        while self.open.len() < self.at_once && self.begun < n {
            let stream = client.call("/lab.Calls/Name");
            client.data(stream, &[0; 5], true);
            self.open.insert(stream.id());
            self.begun += 1;
        }
        let (stream, status) = match client.hear() {
            Heard::Fields(stream, Part::Head | Part::Trailers, fields, true) => {
                (stream, format!("{} {}", value(&fields, "grpc-status"), value(&fields, "grpc-message")))
            }
            Heard::Reset(stream, code, _) => (stream, format!("reset: {code:?}")),
            Heard::Over => panic!("the connection is over"),
            _ => return,
        };
        if self.open.remove(&stream.id()) {
            *self.statuses.entry(status.trim_end().to_owned()).or_default() += 1;
        }
    }
}

fn well(n: usize) -> BTreeMap<String, usize> {
    BTreeMap::from([("0".to_owned(), n)])
}

#[test]
fn calls_of_one_connection_go_to_nine_servers_in_turn() {
    let Some(python) = python() else { return };
    let servers = Server::several(&python, 9, 5);
    let proxy = Proxy::start(&addresses(&servers));
    let mut client = Peer::client(proxy.addr);
    assert_eq!(calls(&mut client, 900, AT_ONCE), well(900));
    assert_eq!(begun(&servers, "Name"), [100; 9]);
}

/// One call at a time finds all servers equally loaded, so each is drawn by chance: binomial with n = 1,800 and
/// p = 1/9, mean 200, σ = 13.3; five σ.
#[test]
fn least_request_draws_among_equals() {
    let Some(python) = python() else { return };
    let servers = Server::several(&python, 9, 5);
    let proxy = Proxy::with(&addresses(&servers), |service| service.balance.core.turn_policy = Policy::LeastRequest);
    let mut client = Peer::client(proxy.addr);
    assert_eq!(calls(&mut client, 1800, 1), well(1800));
    let begun = begun(&servers, "Name");
    assert!(begun.iter().all(|n| (133..=267).contains(n)), "{begun:?}");
}

#[test]
fn servers_that_come_get_their_share_of_the_same_connection() {
    let Some(python) = python() else { return };
    let servers = Server::several(&python, 9, 5);
    let addresses = addresses(&servers);
    let catalog = Catalog::new(&addresses[..3]);
    let proxy = Proxy::to(&catalog.target(), |service| {
        service.balance.core.turn_policy = Policy::RoundRobin;
        service.balance.core.slow_start = Duration::ZERO;
    });
    let mut client = Peer::client(proxy.addr);
    assert_eq!(calls(&mut client, 300, AT_ONCE), well(300));
    assert_eq!(begun(&servers, "Name"), [100, 100, 100, 0, 0, 0, 0, 0, 0]);
    let announced = Instant::now();
    catalog.set(&addresses);
    eventually("the newest has a call", || {
        assert_eq!(calls(&mut client, 9, 9), well(9));
        servers[8].begun("Name") > 0
    });
    println!("the newest of nine servers had a call {} ms after it was announced", announced.elapsed().as_millis());
    let before = begun(&servers, "Name");
    assert_eq!(calls(&mut client, 900, AT_ONCE), well(900));
    let since: Vec<u64> = begun(&servers, "Name").iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(since, [100; 9]);
}

#[test]
fn a_server_that_is_killed_takes_its_own_calls_with_it_and_no_others() {
    let Some(python) = python() else { return };
    let mut servers = Server::several(&python, 9, 5);
    let proxy = Proxy::start(&addresses(&servers));
    let mut client = Peer::client(proxy.addr);
    assert_eq!(calls(&mut client, 90, AT_ONCE), well(90));
    let mut held: HashSet<u32> = (0..18)
        .map(|_| {
            let stream = client.call("/lab.Calls/Hold");
            client.data(stream, &[0; 5], true);
            stream.id()
        })
        .collect();
    eventually("each holds two", || servers.iter().all(|server| server.counts()["open"]["Hold"] == 2));
    servers[4].process.kill();
    let mut other = Peer::client(proxy.addr);
    assert_eq!(calls(&mut other, 900, AT_ONCE), well(900));
    for (i, server) in servers.iter().enumerate() {
        if i != 4 {
            server.ask("Release");
        }
    }
    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    while !held.is_empty() {
        if let Heard::Fields(stream, Part::Head | Part::Trailers, fields, true) = client.hear() {
            assert!(held.remove(&stream.id()));
            *statuses.entry(value(&fields, "grpc-status").to_owned()).or_default() += 1;
        }
    }
    assert_eq!(statuses, BTreeMap::from([("0".to_owned(), 16), ("14".to_owned(), 2)]));
}

/// Makes calls on one connection all the time while `what` is done, and asserts that each was answered well.
fn under_load(proxy: &Proxy, what: impl FnOnce()) {
    let mut client = Peer::client(proxy.addr);
    let (began, mut load) = (Instant::now(), Load::new(AT_ONCE));
    let (statuses, calls) = std::thread::scope(|scope| {
        let (end, ended) = mpsc::channel::<()>();
        let loading = scope.spawn(move || {
            while ended.try_recv() == Err(TryRecvError::Empty) {
                load.turn(&mut client, usize::MAX);
            }
            let begun = load.begun;
            while load.over() < begun {
                load.turn(&mut client, begun);
            }
            (load.statuses, begun)
        });
        what();
        drop(end);
        loading.join().expect("the load ends")
    });
    println!("{calls} calls, {:.0} a second", calls as f64 / began.elapsed().as_secs_f64());
    let count = |name| proxy.metric(name, "");
    println!(
        "{} tried again, {} not for want of budget",
        count("evenkeel_retries_total"),
        count("evenkeel_retries_refused_total")
    );
    assert_eq!(statuses, well(calls));
}

/// As Kubernetes replaces Pods whose `preStop` waits until everybody knows.
#[test]
fn all_servers_are_replaced_one_after_the_other_and_no_call_fails() {
    let Some(python) = python() else { return };
    let mut servers = Server::several(&python, 9, 5);
    let catalog = Catalog::new(&addresses(&servers));
    let proxy = Proxy::to(&catalog.target(), |service| {
        service.balance.core.turn_policy = Policy::RoundRobin;
        service.balance.core.slow_start = Duration::ZERO;
    });
    under_load(&proxy, || {
        for i in 0..servers.len() {
            let mut old = std::mem::replace(&mut servers[i], Server::start(&python, 5));
            catalog.set(&addresses(&servers));
            eventually("the new one is at work", || servers[i].begun("Name") > 20);
            old.process.terminate();
            old.process.wait();
        }
    });
}

/// The same without a word to evenkeel but GOAWAY, at the same addresses. grpcio answers CANCELLED to calls that came
/// before its GOAWAY was read: to try them again has to be asked for.
#[test]
fn all_servers_restart_one_after_the_other_and_no_call_fails() {
    let Some(python) = python() else { return };
    let mut servers = Server::several(&python, 9, 5);
    let proxy = Proxy::with(&addresses(&servers), |service| {
        service.retry.on_unavailable = true;
        // On a slow machine much of what is asked in a moment is asked of the one that stops.
        (service.retry.attempts, service.retry.budget) = (5, 1.0);
    });
    under_load(&proxy, || {
        // What may be tried again is a share of what was asked.
        eventually("there is load", || servers[8].begun("Name") > 100);
        for server in &mut servers {
            server.process.terminate();
            server.process.wait();
            *server = Server::at(server.addr, &python, 5);
        }
    });
}

/// grpcio's own client, with streams on ten connections.
struct Streams {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Streams {
    const N: u64 = 1000;

    /// Returns when all are open and have been heard on.
    fn open(python: &Path, addr: SocketAddr) -> Self {
        let mut command = Command::new(python);
        command.args([SCRIPT, "streams", &addr.to_string(), &Self::N.to_string(), "10"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("Python starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut streams = Self { child, output };
        assert_eq!(streams.line(), "open");
        streams
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Waits until all are over: how many with which status.
    fn ended(mut self) -> BTreeMap<String, u64> {
        serde_json::from_str(&self.line()).expect("JSON")
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_thousand_streams_end_with_a_status_when_their_servers_leave() {
    let Some(python) = python() else { return };
    let mut servers = Server::several(&python, 3, 1);
    let proxy = Proxy::start(&addresses(&servers));
    let streams = Streams::open(&python, proxy.addr);
    assert_eq!(begun(&servers, "Echo").iter().sum::<u64>(), Streams::N);
    servers.iter_mut().for_each(|server| server.process.terminate());
    let ended = streams.ended();
    assert_eq!(ended, BTreeMap::from([("UNAVAILABLE".to_owned(), Streams::N)]));
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

#[test]
fn a_thousand_streams_end_with_a_status_when_evenkeel_leaves() {
    let Some(python) = python() else { return };
    let servers = Server::several(&python, 3, 5);
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let targets: Vec<String> = servers.iter().map(|server| server.addr.to_string()).collect();
    let program = Program::start(&format!(
        "drain: {{delay: 0s, grace: 2s}}\nservices:\n- {{name: calls, listen: '{listen}', protocol: grpc, target: '{}'}}\n",
        targets.join(",")
    ));
    let streams = Streams::open(&python, listen);
    program.signal("-TERM");
    let ended = streams.ended();
    assert_eq!(ended, BTreeMap::from([("UNAVAILABLE".to_owned(), Streams::N)]));
    assert_eq!(program.exit(), 0);
}
