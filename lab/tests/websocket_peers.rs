//! WebSocket ends by two different people, on both sides of evenkeel, with nginx and HAProxy before and
//! behind it.

mod common;

use common::Proxy;
use common::peers::{Catalog, Process, Relay, directory, free_port, have, node_modules, python};
use evenkeel_proxy::config::Protocol;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Who made an end.
#[derive(Clone, Copy, Debug)]
enum Maker {
    /// The `websockets` package.
    Python,
    /// The `ws` package.
    Node,
}

const MAKERS: [Maker; 2] = [Maker::Python, Maker::Node];

impl Maker {
    fn command(self, python: &FilePath) -> Command {
        match self {
            Self::Python => {
                let mut command = Command::new(python);
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/exchange.py"));
                command
            }
            Self::Node => {
                let mut command = Command::new("node");
                command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/exchange.mjs"));
                command.env("NODE_PATH", node_modules());
                command
            }
        }
    }

    fn serve(self, python: &FilePath) -> (SocketAddr, Process) {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = self.command(python);
        command.args(["serve", &addr.port().to_string()]);
        (addr, Process::start(&mut command, directory("exchange")).listening(addr))
    }

    /// Runs the whole conversation.
    fn ask(self, python: &FilePath, addr: SocketAddr, place: &str) {
        let out = self.command(python).args(["ask", &format!("ws://{addr}/")]).output().expect("it runs");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{self:?} as client, {place}: {said}");
    }
}

/// Where a second relay stands.
#[derive(Clone, Copy, Debug)]
enum Way {
    Alone,
    /// The client speaks to it, and it to evenkeel.
    Before(&'static str),
    /// evenkeel speaks to it, and it to the server.
    Behind(&'static str),
}

/// The way from a client to a server.
struct Path {
    /// Where the client connects.
    addr: SocketAddr,
    /// What evenkeel's endpoints are.
    catalog: Catalog,
    _proxy: Proxy,
    _relay: Option<Relay>,
}

impl Path {
    fn new(way: Way, server: SocketAddr) -> Self {
        let behind = match way {
            Way::Behind(program) => Some(Relay::start(program, server)),
            _ => None,
        };
        let catalog = Catalog::new(&[behind.as_ref().map_or(server, |relay| relay.addr)]);
        let proxy = Proxy::to(&catalog.target(), |service| {
            service.protocol = Protocol::Http1;
            service.upstream.drain_grace = Duration::from_secs(1);
        });
        let before = match way {
            Way::Before(program) => Some(Relay::start(program, proxy.addr)),
            _ => None,
        };
        let addr = before.as_ref().map_or(proxy.addr, |relay| relay.addr);
        Self { addr, catalog, _proxy: proxy, _relay: before.or(behind) }
    }
}

fn everything_arrives(way: Way) {
    let programs: &[&str] = match way {
        Way::Alone => &["node"],
        Way::Before(program) | Way::Behind(program) => &["node", program],
    };
    if !have(programs) {
        return;
    }
    let Some(python) = python() else { return };
    for server in MAKERS {
        let (addr, _process) = server.serve(&python);
        let path = Path::new(way, addr);
        for client in MAKERS {
            client.ask(&python, path.addr, &format!("{server:?} as server, {way:?}"));
        }
    }
}

#[test]
fn everything_arrives_between_both_makers() {
    everything_arrives(Way::Alone);
}

#[test]
fn everything_arrives_with_nginx_before_evenkeel() {
    everything_arrives(Way::Before("nginx"));
}

#[test]
fn everything_arrives_with_nginx_behind_evenkeel() {
    everything_arrives(Way::Behind("nginx"));
}

#[test]
fn everything_arrives_with_haproxy_before_evenkeel() {
    everything_arrives(Way::Before("haproxy"));
}

#[test]
fn everything_arrives_with_haproxy_behind_evenkeel() {
    everything_arrives(Way::Behind("haproxy"));
}

/// A client that talks until it is told to go.
struct Guest {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Guest {
    fn open(maker: Maker, python: &FilePath, addr: SocketAddr) -> Self {
        let mut command = maker.command(python);
        command.args(["stay", &format!("ws://{addr}/")]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut guest = Self { child, output };
        assert_eq!(guest.line(), "open");
        guest
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn a_client_is_told_to_come_back_through_whatever_stands_between() {
    if !have(&["node", "nginx", "haproxy"]) {
        return;
    }
    let Some(python) = python() else { return };
    let ways = [Way::Alone, Way::Before("nginx"), Way::Before("haproxy"), Way::Behind("nginx"), Way::Behind("haproxy")];
    for (way, server) in ways.into_iter().zip(MAKERS.into_iter().cycle()) {
        let (addr, _process) = server.serve(&python);
        let (other, _another) = server.serve(&python);
        let path = Path::new(way, addr);
        let mut guests: Vec<Guest> = MAKERS.into_iter().map(|client| Guest::open(client, &python, path.addr)).collect();
        path.catalog.set(&[other]);
        for guest in &mut guests {
            assert_eq!(guest.line(), "1012 the endpoint leaves", "{way:?}");
        }
    }
}
