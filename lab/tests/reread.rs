//! The configuration file of a running program changes, again and again, under sessions of services that no
//! change concerns: WebSocket, HTTP and opaque ones. None of them may notice.

mod common;

use common::peers::{directory, free_port, have, python};
use common::program::Program;
use common::sockets::{Clients, Pods};
use common::{Backend, Client, connect, echo, echoes, eventually, status};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOCKETS: u64 = 40;

fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// Services with sessions that stay, beside others that change.
struct Stayers {
    config: String,
    pods: Pods,
    sockets: Clients,
    page: Backend,
    web: Client,
    echo: Backend,
    raw: TcpStream,
}

impl Stayers {
    /// Starts the program with them and `rest`, and connects.
    fn start(python: &Path, rest: &str) -> (Program, Self) {
        let (pods, page, echo) = (Pods::start(python, 2), Backend::answering("kept"), echo());
        let (chat, web, raw) = (free(), free(), free());
        let config = format!(
            "workers: 2\ndrain: {{grace: 3s, delay: off}}\nservices:\n\
             - {{name: chat, listen: '{chat}', target: '{},{}', protocol: websocket}}\n\
             - {{name: web, listen: '{web}', target: '{}', protocol: http}}\n\
             - {{name: raw, listen: '{raw}', target: '{}', protocol: tcp}}\n",
            pods.addrs[0], pods.addrs[1], page.addr, echo.addr
        );
        let program = Program::start(&format!("{config}{rest}"));
        let sockets = Clients::with(python, chat, SOCKETS as usize, &["--say", "0.5"]);
        let (web, raw) = (Client(connect(web)), connect(raw));
        (program, Self { config, pods, sockets, page, web, echo, raw })
    }

    /// Everybody is where they were, on the connection that they had, on both sides.
    fn unmoved(&mut self, after: &str) {
        assert!(self.web.get("/").ends_with("kept"), "{after}");
        assert!(echoes(&mut self.raw), "{after}");
        assert_eq!((self.page.connections(), self.echo.connections()), (1, 1), "{after}");
        assert_eq!((self.pods.open().iter().sum(), self.pods.opened().iter().sum()), (SOCKETS, SOCKETS), "{after}");
    }

    fn end(self) {
        let seen = self.sockets.stop();
        assert_eq!(
            (&seen["codes"], &seen["failed"], &seen["mismatched"]),
            (&Value::Object([].into_iter().collect()), &0.into(), &0.into()),
            "{seen}"
        );
    }
}

/// A certificate of its own making for this name: the paths of certificate and key.
fn certificate(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (cert, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
    openssl.arg("-out").arg(&cert).arg("-keyout").arg(&key).stderr(Stdio::null());
    assert!(openssl.status().expect("openssl runs").success());
    (cert, key)
}

/// Who a TLS server says it is; nothing if it speaks no TLS.
fn subject(addr: SocketAddr) -> Option<String> {
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &addr.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
    let said = openssl.output().expect("openssl runs").stdout;
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.starts_with("subject="))?;
    Some(line.rsplit(['=', ' ']).next()?.to_owned())
}

/// What a client that comes now is answered, by whom; 0: nothing, or not in HTTP.
fn answer(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut said = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(addr) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        // Whoever does not like it may close at any time.
        let _heard = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut said));
    }
    let said = String::from_utf8_lossy(&said);
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_default();
    (if head.starts_with("HTTP/1.1 ") { status(head) } else { 0 }, body.to_owned())
}

fn listens(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).is_ok()
}

#[test]
fn everything_comes_changes_and_goes_beside_sessions_that_stay() {
    if !have(&["openssl"]) {
        return;
    }
    let Some(python) = python() else { return };
    let home = directory("certificates");
    let [first, second] = ["first", "second"].map(|name| certificate(&home, name));
    let tls =
        |(cert, key): &(PathBuf, PathBuf)| format!(", tls: {{cert: '{}', key: '{}'}}", cert.display(), key.display());
    let (one, two) = (Backend::answering("one"), Backend::answering("two"));
    let (at, beside, elsewhere, new) = (free(), free(), free(), free());
    let other = |listen: &str, target: &str, more: &str| {
        format!("- {{name: other, listen: [{listen}], target: '{target}', protocol: http{more}}}\n")
    };
    let (here, to_one, to_two) = (format!("'{at}'"), one.addr.to_string(), two.addr.to_string());
    let with = |more: &str| other(&here, &to_one, more);
    let listening = |more: SocketAddr| other(&format!("'{at}', '{more}'"), &to_one, "");
    let added = |target: &str| with("") + &format!("- {{name: new, listen: '{new}', target: '{target}'}}\n");
    let ok = |body: &str| (200, body.to_owned());
    let path = |length: usize| "/".repeat(length);
    let (program, mut stayers) = Stayers::start(&python, &with(""));
    let policy = || program.service("other")["policy"].clone();

    type Check<'a> = Box<dyn Fn() -> bool + 'a>;
    let steps: Vec<(&str, String, Check<'_>)> = vec![
        ("a certificate comes", with(&tls(&first)), Box::new(|| subject(at).as_deref() == Some("first"))),
        ("it changes", with(&tls(&second)), Box::new(|| subject(at).as_deref() == Some("second"))),
        ("it goes", with(""), Box::new(|| answer(at, "/") == ok("one"))),
        ("a limit comes", with(", limits: {uri_bytes: 64}"), Box::new(|| answer(at, &path(100)).0 == 414)),
        (
            "it changes",
            with(", limits: {uri_bytes: 128}"),
            Box::new(|| answer(at, &path(100)).0 == 200 && answer(at, &path(200)).0 == 414),
        ),
        ("it goes", with(""), Box::new(|| answer(at, &path(200)).0 == 200)),
        ("a policy comes", with(", balance: {policy: round-robin}"), Box::new(|| policy() == "round-robin")),
        ("it changes", with(", balance: {policy: maglev}"), Box::new(|| policy() == "maglev")),
        ("it goes", with(""), Box::new(|| policy() == "peak-ewma")),
        ("a listener comes", listening(beside), Box::new(|| answer(beside, "/") == ok("one"))),
        ("it changes", listening(elsewhere), Box::new(|| answer(elsewhere, "/") == ok("one") && !listens(beside))),
        ("it goes", with(""), Box::new(|| !listens(elsewhere) && answer(at, "/") == ok("one"))),
        ("a target comes", other(&here, &format!("{to_one},{to_two}"), ""), Box::new(|| answer(at, "/") == ok("two"))),
        ("it changes", other(&here, &to_two, ""), Box::new(|| (0..20).all(|_| answer(at, "/") == ok("two")))),
        ("it goes", with(""), Box::new(|| (0..20).all(|_| answer(at, "/") == ok("one")))),
        ("a service comes", added(&to_one), Box::new(|| answer(new, "/") == ok("one"))),
        ("it changes", added(&to_two), Box::new(|| answer(new, "/") == ok("two"))),
        ("it goes", with(""), Box::new(|| !listens(new))),
    ];
    for (number, (what, config, check)) in steps.iter().enumerate() {
        program.rewrite(&format!("{}{config}", stayers.config));
        if number % 2 == 1 {
            program.signal("-HUP");
        }
        eventually(what, check);
        stayers.unmoved(&format!("step {number}: {what}"));
    }
    assert_eq!(program.metric("evenkeel_config_reloads_total{result=\"failed\"}"), 0.0);
    stayers.end();
    std::fs::remove_dir_all(home).expect("removed");
}

#[test]
fn a_bad_file_changes_nothing_and_is_explained_everywhere() {
    let Some(python) = python() else { return };
    let one = Backend::answering("one");
    let (at, taken) = (free(), std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
    let taken = taken.local_addr().expect("bound");
    let other = |more: &str| format!("- {{name: other, listen: '{at}', target: '{}'{more}}}\n", one.addr);
    let (program, mut stayers) = Stayers::start(&python, &other(""));
    let generation = program.generation();
    // The services that stay have six lines, and the line of the admin API is before them.
    let bad = [
        (other(", timouts: 3"), "evenkeel.yaml:8:", "did you mean \\\"timeouts\\\""),
        (other(", tls: {cert: /nowhere.crt, key: /nowhere.key}"), "evenkeel.yaml:8:", "/nowhere.crt"),
        (format!("{}- [", other("")), "evenkeel.yaml:", ""),
        (other(", limits: {sessions: -1}"), "evenkeel.yaml:8:", "services[3].limits.sessions"),
        (format!("{}{}", other(""), other("")), "evenkeel.yaml:9:", "other"),
        // Nothing is wrong with the text; what it asks for cannot be had.
        (
            other(&format!(", listen: ['{at}', '{taken}']")).replacen(&format!("listen: '{at}', "), "", 1),
            "",
            "cannot listen",
        ),
    ];
    for (number, (config, place, reason)) in bad.iter().enumerate() {
        program.rewrite(&format!("{}{config}", stayers.config));
        let failed = || program.metric("evenkeel_config_reloads_total{result=\"failed\"}");
        eventually(reason, || failed() == (number + 1) as f64);
        assert_eq!(program.metric("evenkeel_config_last_reload_successful{}"), 0.0, "{reason}");
        let said = program.config();
        let error = said["error"].to_string();
        assert!(error.contains(place) && error.contains(reason), "{place} {reason} in {error}");
        let log = program.log();
        let line = log.lines().rev().find(|line| line.contains("the configuration that runs stays"));
        assert!(line.is_some_and(|line| line.contains(place) && line.contains(reason)), "{reason} in {line:?}");
        assert_eq!((&said["generation"], answer(at, "/").1), (&generation.into(), "one".into()));
        stayers.unmoved(reason);
    }
    let failed = || program.metric("evenkeel_config_reloads_total{result=\"failed\"}");
    program.signal("-HUP");
    eventually("an operator is told again", || failed() == (bad.len() + 1) as f64);
    program.rewrite(&format!("{}{}", stayers.config, other(", timeouts: {idle: 2h}")));
    eventually("the file is well again", || program.generation() > generation);
    assert_eq!(program.config()["error"], Value::Null);
    assert_eq!(program.metric("evenkeel_config_last_reload_successful{}"), 1.0);
    stayers.unmoved("well again");
    stayers.end();
}
