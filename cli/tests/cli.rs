//! The program as a user meets it: exit codes, messages, signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn evenkeel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn file(name: &str, content: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
    std::fs::write(&path, content).expect("written");
    path
}

#[test]
fn version_and_help() {
    let out = evenkeel(&["--version"]);
    assert!(out.status.success());
    assert_eq!(text(&out.stdout).trim(), format!("evenkeel {}", env!("CARGO_PKG_VERSION")));
    for command in ["demo", "proxy", "check", "top", "why", "completions"] {
        let out = evenkeel(&[command, "--help"]);
        assert!(out.status.success());
        assert!(text(&out.stdout).contains("Usage: evenkeel"), "{}", text(&out.stdout));
    }
}

#[test]
fn wrong_usage_is_2_and_names_the_way() {
    for arguments in
        [&["prox"][..], &["proxy"], &["proxy", "--listen", "127.0.0.1:0"], &["demo", "--protocol", "smtp"], &[]]
    {
        let out = evenkeel(arguments);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {}", text(&out.stderr));
        assert!(!out.stderr.is_empty());
    }
    let out = evenkeel(&["prox"]);
    assert!(text(&out.stderr).contains("proxy"), "a suggestion: {}", text(&out.stderr));
}

#[test]
fn a_bad_configuration_is_3_with_file_line_column_and_suggestion() {
    let bad = file("bad.yaml", "services:\n  - name: a\n    lissen: 127.0.0.1:80\n    target: k8://shop/catalog\n");
    let path = bad.to_str().expect("a path");
    for arguments in [&["check", path][..], &["proxy", "-c", path]] {
        let out = evenkeel(arguments);
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        let said = text(&out.stderr);
        assert!(said.contains(&format!("{path}:3:5:")) && said.contains("did you mean \"listen\""), "{said}");
        assert!(said.contains(&format!("{path}:4:")) && said.contains("k8s://"), "{said}");
    }
    let out = evenkeel(&["check", "/nowhere/at/all.yaml"]);
    assert_eq!(out.status.code(), Some(3));
    assert!(text(&out.stderr).contains("/nowhere/at/all.yaml"), "{}", text(&out.stderr));
    std::fs::remove_file(bad).expect("removed");
}

#[test]
fn a_good_configuration_is_0() {
    let good = file("good.yaml", "services:\n  - name: a\n    listen: 127.0.0.1:8080\n    target: 127.0.0.1:9001\n");
    let out = evenkeel(&["check", good.to_str().expect("a path")]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    std::fs::remove_file(good).expect("removed");
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = evenkeel(&["completions", shell]);
        assert!(out.status.success() && text(&out.stdout).contains("evenkeel"), "{shell}");
    }
    let mut bash = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn().expect("bash");
    bash.stdin.take().expect("a pipe").write_all(&evenkeel(&["completions", "bash"]).stdout).expect("written");
    assert!(bash.wait().expect("it ends").success(), "bash reads it");
}

#[test]
fn an_address_in_use_is_1_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let out = evenkeel(&["proxy", "--listen", &addr, "--to", "127.0.0.1:1", "--admin", "off"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains(&addr), "{}", text(&out.stderr));
}

/// A running proxy; killed if the test fails.
struct Proxy {
    child: Child,
    addr: SocketAddr,
    log: BufReader<std::process::ChildStderr>,
}

impl Proxy {
    /// Starts one on a free port and waits for the log line that names it.
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .args(["proxy", "--listen", "127.0.0.1:0", "--admin", "off", "--log-format", "json"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut proxy = Self { child, addr: ([127, 0, 0, 1], 0).into(), log };
        proxy.addr = proxy.listening();
        proxy
    }

    /// Reads the log as far as the line that says where it listens.
    fn listening(&mut self) -> SocketAddr {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).expect("a log line") > 0, "it ended");
            if let Some((_, rest)) = line.split_once("\"address\":\"") {
                return rest.split('"').next().and_then(|a| a.parse().ok()).expect("an address");
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill").success());
    }

    fn code(mut self) -> Option<i32> {
        let code = self.child.wait().expect("it ends").code();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("the log");
        assert!(!rest.contains("panicked"), "{rest}");
        code
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Answers one request each time it is told to; connections without a
/// request wait beside it.
fn backend() -> (SocketAddr, std::sync::mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let (go, wait) = std::sync::mpsc::channel();
    let wait = Arc::new(Mutex::new(wait));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, wait) = (stream.expect("a connection"), Arc::clone(&wait));
            std::thread::spawn(move || {
                while read_head(&mut stream) && wait.lock().expect("no thread panics").recv().is_ok() {
                    let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong");
                }
            });
        }
    });
    (addr, go)
}

/// Reads one head; false if the connection is over.
fn read_head(stream: &mut TcpStream) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

#[test]
fn sigterm_finishes_the_request_under_way_and_exits_0() {
    let (to, go) = backend();
    // The worker that no longer listens is the one that has the session, so it knows by then.
    let proxy = Proxy::start(&["--to", &to.to_string(), "--protocol", "http1", "--workers", "1"]);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    proxy.signal("-TERM");
    // Listeners close first: then the answer may come.
    while TcpStream::connect(proxy.addr).is_ok() {
        std::thread::yield_now();
    }
    go.send(()).expect("the backend waits");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("pong"), "{answer}");
    assert!(answer.contains("Connection: close"), "{answer}");
    assert_eq!(proxy.code(), Some(0));
}

/// Waits for a log line that contains `what`.
fn logged(log: &mut impl BufRead, what: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(log.read_line(&mut line).expect("a log line") > 0, "it ended before it said {what:?}");
        if line.contains(what) {
            return line;
        }
    }
}

#[test]
fn a_changed_file_and_sighup_reload_and_a_bad_file_changes_nothing() {
    let (to, go) = backend();
    let good = |more: &str| {
        format!(
            "admin: off\nservices:\n  - name: a\n    listen: 127.0.0.1:0\n    target: {to}\n    protocol: http{more}\n"
        )
    };
    let path = file("reload.yaml", &good(""));
    let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["proxy", "-c", path.to_str().expect("a path"), "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut proxy = {
        let mut child = child;
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        Proxy { child, addr: ([127, 0, 0, 1], 0).into(), log }
    };
    proxy.addr = proxy.listening();
    let mut client = proxy.connect();
    let mut ask = || {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        go.send(()).expect("the backend waits");
        let mut answer = [0; 4096];
        let n = client.read(&mut answer).expect("an answer");
        assert!(text(&answer[..n]).starts_with("HTTP/1.1 200"));
    };
    ask();
    std::fs::write(&path, good("\n    timeouts: {idle: 2h}")).expect("written");
    assert!(logged(&mut proxy.log, "configuration read again").contains("service a: changed"));
    ask();
    std::fs::write(&path, good("\n    timouts: {idle: 3h}")).expect("written");
    let said = logged(&mut proxy.log, "the configuration that runs stays");
    assert!(said.contains("reload.yaml:7:5") && said.contains("did you mean \\\"timeouts\\\""), "{said}");
    ask();
    proxy.signal("-HUP");
    logged(&mut proxy.log, "the configuration that runs stays");
    std::fs::write(&path, good("")).expect("written");
    assert!(logged(&mut proxy.log, "configuration read again").contains("service a: changed"));
    proxy.signal("-HUP");
    logged(&mut proxy.log, "nothing changed");
    ask();
    proxy.signal("-TERM");
    drop(client);
    assert_eq!(proxy.code(), Some(0));
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn a_second_sigterm_cuts() {
    let (to, _never) = backend();
    let proxy = Proxy::start(&["--to", &to.to_string(), "--protocol", "http1"]);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    proxy.signal("-TERM");
    while TcpStream::connect(proxy.addr).is_ok() {
        std::thread::yield_now();
    }
    proxy.signal("-TERM");
    let mut answer = Vec::new();
    // Broken off, and seen to be.
    assert!(client.read_to_end(&mut answer).is_err() || answer.is_empty());
    assert_ne!(proxy.code(), None, "it exits by itself");
}

#[test]
fn the_demo_counts_what_it_shows() {
    let out = evenkeel(&["demo", "--clients", "2", "--pods", "5", "--seed", "3", "--output", "json"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let page = text(&out.stdout);
    assert!(page.trim_start().starts_with('{') && page.trim_end().ends_with('}'), "{page}");
    for key in ["\"service\"", "\"evenkeel\"", "\"requests\"", "\"skew\"", "\"jain\""] {
        assert!(page.contains(key), "{key} in {page}");
    }
}

#[test]
fn without_descriptors_clients_wait_and_the_admin_api_answers() {
    // Of 300, 64 are kept: clients get what is left of 236.
    const LIMIT: usize = 300;
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                while read_head(&mut stream) {
                    let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
        }
    });
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_evenkeel")])
        .args(["proxy", "--listen", "127.0.0.1:0", "--to", &to.to_string(), "--protocol", "http"])
        .args(["--admin", &admin.to_string(), "--log-format", "json", "--workers", "2"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let log = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut proxy = Proxy { child, addr: ([127, 0, 0, 1], 0).into(), log };
    proxy.addr = proxy.listening();

    let ask = |client: &mut TcpStream| {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    };
    let answered = |client: &mut TcpStream| {
        let mut answer = [0; 40];
        client.read_exact(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", text(&answer));
    };
    let mut first = proxy.connect();
    ask(&mut first);
    answered(&mut first);
    // More than there can be; the kernel takes them all.
    let mut clients: Vec<TcpStream> = (0..LIMIT).map(|_| proxy.connect()).collect();
    logged(&mut proxy.log, "too many open files");
    let mut page = String::new();
    let mut people = TcpStream::connect(admin).expect("it listens");
    people.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").expect("sent");
    people.read_to_string(&mut page).expect("a page");
    assert!(page.contains("limit=\"descriptors\""), "{page}");
    ask(&mut first);
    answered(&mut first);
    // Half of them go, and those who waited are served.
    clients.drain(..LIMIT / 2);
    for client in &mut clients {
        ask(client);
        answered(client);
    }
}
