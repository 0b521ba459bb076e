//! WebSocket servers and clients of the Python package `websockets`, as processes of their own.

use super::peers::{Process, directory, free_port};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sockets.py");

/// Servers, in one process.
pub struct Pods {
    pub addrs: Vec<SocketAddr>,
    pub process: Process,
}

impl Pods {
    pub fn start(python: &Path, n: usize) -> Self {
        let addrs: Vec<SocketAddr> = (0..n).map(|_| SocketAddr::from(([127, 0, 0, 1], free_port()))).collect();
        let mut command = Command::new(python);
        command.args([SCRIPT, "serve"]).args(addrs.iter().map(|a| a.port().to_string()));
        let process = Process::start(&mut command, directory("pods"));
        Self { process: addrs.iter().fold(process, |process, &addr| process.listening(addr)), addrs }
    }

    /// What the i-th server says of itself.
    fn ask(&self, i: usize, path: &str) -> Value {
        let mut stream = super::connect(self.addrs[i]);
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
        let answer = super::read_all(&mut stream);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e} in {answer:?}"))
    }

    fn counted(&self, what: &str) -> Vec<u64> {
        (0..self.addrs.len()).map(|i| self.ask(i, "/counts")[what].as_u64().expect("a number")).collect()
    }

    /// Sessions that each has open.
    pub fn open(&self) -> Vec<u64> {
        self.counted("open")
    }

    /// Sessions that each ever had.
    pub fn opened(&self) -> Vec<u64> {
        self.counted("opened")
    }

    /// When sessions were opened at any of them, in seconds since 1970, in order.
    pub fn arrivals(&self) -> Vec<f64> {
        let of = |i| self.ask(i, "/arrivals").as_array().cloned().unwrap_or_default();
        let mut all: Vec<f64> = (0..self.addrs.len()).flat_map(of).filter_map(|at| at.as_f64()).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// Clients that come back when they are told to.
pub struct Clients {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Clients {
    /// Opens them all.
    pub fn start(python: &Path, addr: SocketAddr, n: usize) -> Self {
        Self::with(python, addr, n, &[])
    }

    /// The same, with options of the script.
    pub fn with(python: &Path, addr: SocketAddr, n: usize, options: &[&str]) -> Self {
        let mut command = Command::new(python);
        command.args([SCRIPT, "clients", &format!("ws://{addr}/"), &n.to_string()]).args(options);
        Self::run(command, n)
    }

    /// Opens them over TLS; `ca` signs the certificate of `localhost`.
    pub fn secure(python: &Path, port: u16, ca: &Path, n: usize) -> Self {
        let mut command = Command::new(python);
        command.args([SCRIPT, "clients", &format!("wss://localhost:{port}/"), &n.to_string()]);
        command.env("SSL_CERT_FILE", ca);
        Self::run(command, n)
    }

    fn run(mut command: Command, n: usize) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut clients = Self { input: child.stdin.take(), child, output };
        let seen = clients.line();
        assert_eq!((&seen["now_open"], &seen["failed"]), (&n.into(), &0.into()), "{seen}");
        clients
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// What they have seen so far.
    pub fn seen(&mut self) -> Value {
        self.input.as_mut().expect("it runs").write_all(b"\n").expect("it runs");
        self.line()
    }

    /// Ends them once the last has heard that its session is over (a proxy knows so before); what they saw.
    pub fn stop_when_closed(mut self) -> Value {
        super::eventually("every client heard of its end", || self.seen()["now_open"] == 0);
        self.stop()
    }

    /// Ends them; what they saw.
    pub fn stop(mut self) -> Value {
        drop(self.input.take());
        let seen = self.line();
        self.child.wait().expect("it ends");
        seen
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
