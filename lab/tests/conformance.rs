//! Public suites of HTTP/2 and gRPC, and gRPC of several languages, through evenkeel to servers by other people.
//! `cargo xtask interop` installs what they need, a Go tool chain among it, and runs them; `cargo test` alone passes
//! them over.

mod common;

use common::peers::{Process, directory, free_port, go, have, jars, nghttpd, nghttpd_with, node_modules, python};
use common::pki::Pki;
use common::{Proxy, eventually};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What h2spec has, the strict cases among them.
const H2SPEC_CASES: &str = "146 tests, 146 passed, 0 skipped, 0 failed";

/// The test cases that need no cloud. `pick_first_unary` and the two of ORCA are not among them: grpc-go's client
/// has them, and its server does not answer them.
const GRPC_CASES: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

/// Runs it, and says in a line what it was, whether it went well and how long it took.
fn case(what: &str, command: &Command) -> String {
    let began = Instant::now();
    // What hangs has failed.
    let mut limited = Command::new("timeout");
    limited.arg("60").arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = limited.output().unwrap_or_else(|e| panic!("{limited:?}: {e}"));
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{what}: {said}\n{complained}");
    println!("passed {:5.1} s  {what}", began.elapsed().as_secs_f64());
    said.into_owned()
}

/// A program built by Go, if it is there and the others are.
fn peers(program: &str, others: &[&str]) -> Option<PathBuf> {
    if have(others) { go(program) } else { None }
}

/// A case that sends more than a window holds needs a large answer, so that one is asked for.
fn h2spec(what: &str, program: &Path, addr: SocketAddr, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(["--strict", "--path", "/large", "--host", "127.0.0.1", "--port", &addr.port().to_string()]);
    let said = case(what, command.args(arguments));
    assert_eq!(said.lines().rfind(|line| line.contains(" tests, ")), Some(H2SPEC_CASES), "{said}");
}

#[test]
#[ignore = "cargo xtask interop"]
fn h2spec_strict_in_the_clear() {
    let Some(program) = peers("h2spec", &["nghttpd"]) else { return };
    let (addr, _server) = nghttpd(&[]);
    let proxy = Proxy::start(&[addr]);
    h2spec("h2spec, strict, in front of nghttpd", &program, proxy.addr, &[]);
}

#[test]
#[ignore = "cargo xtask interop"]
fn h2spec_strict_over_tls() {
    let Some(program) = peers("h2spec", &["nghttpd", "openssl"]) else { return };
    let certified = Certified::new();
    let (addr, _server) = nghttpd_with(&[], &[&certified.key, &certified.cert]);
    let proxy = certified.proxy(addr);
    h2spec("h2spec, strict, over TLS in front of nghttpd over TLS", &program, proxy.addr, &["--tls", "--insecure"]);
}

/// A certificate for this machine, and who signed it.
struct Certified {
    pki: Pki,
    yaml: String,
    key: String,
    cert: String,
}

impl Certified {
    fn new() -> Self {
        let pki = Pki::new();
        let files = pki.sign("server", "/CN=server", "DNS:localhost,IP:127.0.0.1");
        let text = |path: &Path| path.display().to_string();
        Self { yaml: files.yaml(), key: text(&files.key), cert: text(&files.cert), pki }
    }

    fn ca(&self) -> String {
        self.pki.ca().display().to_string()
    }

    /// TLS on both sides.
    fn proxy(&self, endpoint: SocketAddr) -> Proxy {
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{endpoint}', protocol: grpc, tls: {{{}}}, \
             upstream: {{tls: {{ca: '{}'}}}}}}\n",
            self.yaml,
            self.ca()
        ))
    }
}

/// Who made an end of a conversation between languages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Maker {
    /// grpcio, and its client that waits.
    Python,
    /// The client of grpcio for asyncio.
    Aio,
    /// grpc-js.
    Node,
    /// grpc-java.
    Java,
}

/// What the ends of the conversations run with.
struct Means {
    python: PathBuf,
    /// The class path of Java, with our own class.
    classes: String,
}

/// Translates the program in Java; the class path to run it with.
fn classes(jars: &str) -> String {
    let classes = directory("classes");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/java/Calls.java");
    let mut javac = Command::new("javac");
    case("javac", javac.args(["-cp", jars, source, "-d"]).arg(&classes));
    format!("{}:{jars}", classes.display())
}

impl Maker {
    /// Its program: a script in the directory of tests, or a class.
    fn command(self, means: &Means, script: &str) -> Command {
        let path = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut command = match self {
            Self::Python | Self::Aio => Command::new(&means.python),
            Self::Node => Command::new("node"),
            Self::Java => Command::new("java"),
        };
        match self {
            Self::Python | Self::Aio => command.arg(path),
            Self::Node => command.env("NODE_PATH", node_modules()).arg(path),
            Self::Java => command.args(["-cp", &means.classes, script]),
        };
        command
    }

    fn serve(self, means: &Means) -> (SocketAddr, Process) {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = match self {
            Self::Python | Self::Aio => self.command(means, "python/calls.py"),
            Self::Node => self.command(means, "node/calls.mjs"),
            Self::Java => self.command(means, "Calls"),
        };
        command.args(["serve", &addr.port().to_string()]);
        (addr, Process::start(&mut command, directory("calls")).listening(addr))
    }

    /// The whole conversation.
    fn exchange(self, means: &Means, addr: SocketAddr) -> Command {
        let (script, how) = match self {
            Self::Python => ("python/calls_exchange.py", "sync"),
            Self::Aio => ("python/calls_exchange.py", "aio"),
            Self::Node => ("node/calls.mjs", "exchange"),
            Self::Java => ("Calls", "exchange"),
        };
        let mut command = self.command(means, script);
        command.args([how, &addr.to_string()]);
        command
    }
}

#[test]
#[ignore = "cargo xtask interop"]
fn languages_understand_each_other() {
    let (true, Some(python), Some(jars)) = (have(&["node", "javac"]), python(), jars()) else { return };
    let means = Means { python, classes: classes(&jars) };
    for server in [Maker::Python, Maker::Node, Maker::Java] {
        let servers = [server.serve(&means), server.serve(&means)];
        let proxy = Proxy::start(&servers.each_ref().map(|(addr, _)| *addr));
        for client in [Maker::Python, Maker::Aio, Maker::Node, Maker::Java] {
            let exchange = client.exchange(&means, proxy.addr);
            case(&format!("{client:?} as client, {server:?} as server"), &exchange);
        }
        eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
    }
}

/// The server of grpc-go's interoperability tests.
fn grpc_server(program: &Path, arguments: &[&str]) -> (SocketAddr, Process) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(program);
    command.args(["-port", &addr.port().to_string()]).args(arguments);
    (addr, Process::start(&mut command, directory("grpc-go")).listening(addr))
}

fn grpc_cases(place: &str, program: &Path, addr: SocketAddr, arguments: &[&str]) {
    for name in GRPC_CASES {
        let mut command = Command::new(program);
        // An address: of a name grpc-go asks DNS for settings, too, and waits for its answer.
        command.args(["-server_host", "127.0.0.1", "-server_port", &addr.port().to_string(), "-test_case", name]);
        case(&format!("grpc-go, {place}, {name}"), command.args(arguments));
    }
}

#[test]
#[ignore = "cargo xtask interop"]
fn the_grpc_test_cases_in_the_clear() {
    let (Some(client), Some(server)) = (peers("client", &[]), peers("server", &[])) else { return };
    let servers = [grpc_server(&server, &[]), grpc_server(&server, &[])];
    let proxy = Proxy::start(&servers.each_ref().map(|(addr, _)| *addr));
    grpc_cases("in the clear", &client, proxy.addr, &[]);
    eventually("nothing is in flight", || proxy.metric("evenkeel_turns_in_flight", "") == 0.0);
}

#[test]
#[ignore = "cargo xtask interop"]
fn the_grpc_test_cases_over_tls() {
    let (Some(client), Some(server)) = (peers("client", &["openssl"]), peers("server", &[])) else { return };
    let certified = Certified::new();
    let (key, cert) = (&certified.key, &certified.cert);
    let (addr, _server) = grpc_server(&server, &["-use_tls", "-tls_key_file", key, "-tls_cert_file", cert]);
    let proxy = certified.proxy(addr);
    grpc_cases("over TLS", &client, proxy.addr, &["-use_tls", "-use_test_ca", "-ca_file", &certified.ca()]);
}
