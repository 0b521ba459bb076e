//! `evenkeel why` and `evenkeel top`, asking a proxy that serves.

use evenkeel_proxy::config::{Config, Service};
use evenkeel_proxy::{Running, start};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const EVENKEEL: &str = env!("CARGO_BIN_EXE_evenkeel");

fn evenkeel(admin: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(EVENKEEL);
    command.args(arguments).args(["--admin", &admin.to_string()]).stdin(Stdio::null()).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Answers whatever it is sent, byte by byte.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|n| n == 1) && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    addr
}

/// A proxy for opaque connections to `endpoints`, its admin API at `admin`.
fn proxy(endpoints: &[SocketAddr], admin: SocketAddr) -> Running {
    let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let service = |name: &str| {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let mut service = Service::new(name, vec![listen], vec![list.join(",").parse().expect("a target")]);
        service.protocol = evenkeel_proxy::config::Protocol::Tcp;
        service
    };
    let mut config = Config::new();
    (config.workers, config.admin) = (Some(2), Some(admin));
    config.services = vec![service("orders"), service("a/b c")];
    start(config).expect("it starts")
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A session that has been served.
fn session(running: &Running) -> TcpStream {
    let evenkeel_core::address::Address::Ip(addr) = running.listening["orders"][0] else { panic!("TCP") };
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"x").expect("sent");
    stream.read_exact(&mut [0]).expect("an echo");
    stream
}

fn drain(admin: SocketAddr, endpoint: SocketAddr) {
    let mut stream = TcpStream::connect(admin).expect("it listens");
    let path = format!("/api/v1/services/orders/endpoints/{endpoint}/drain");
    let request = format!("POST {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(" 200 "), "{answer}");
}

#[test]
fn why_says_it_in_sentences() {
    let (one, two) = (echo(), echo());
    let running = proxy(&[one, two], anywhere());
    let admin = running.admin.expect("an admin API");
    let said = |arguments: &[&str]| {
        let out = evenkeel(admin, arguments);
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    assert_eq!(said(&["why", "orders"]), "It has had no requests yet.\n");
    let sessions: Vec<TcpStream> = (0..4).map(|_| session(&running)).collect();
    let whole = said(&["why", "orders"]);
    assert!(whole.starts_with("Its sessions are even: the fullest endpoint has 1.00 × its fair share.\n"), "{whole}");
    assert!(whole.contains("Of its 4 sessions the oldest has been open for "), "over all workers: {whole}");
    assert!(whole.contains("\nRebalancing: session counts are even (skew 1.00); nothing would move.\n"), "{whole}");
    let part = said(&["why", "orders", &one.to_string()]);
    let first = format!("{one} has 50.0 % of the sessions; its fair share is 50.0 %, so that is 1.00 ×.\n");
    assert!(part.starts_with(&first), "{part}");
    assert!(part.contains("\nIt is picked; fair share 50.0 %; where sessions are fewest for the weight.\n"), "{part}");
    assert!(part.contains("\nOf its 2 sessions the oldest "), "{part}");

    drain(admin, one);
    let mut last = String::new();
    eventually("drained", || {
        last = said(&["why", "orders", &one.to_string()]);
        last.contains("\nIt is not picked: an operator has been draining it for ")
    });
    assert!(last.contains("and no fair share while it is not picked.\n"), "{last}");
    assert!(
        said(&["why", "orders"]).contains(&format!("1 of 2 endpoints are picked: {one} is drained by an operator."))
    );
    running.reload_failed("evenkeel.yaml:3:5: unknown key");
    let whole = said(&["why", "orders"]);
    assert!(whole.ends_with("The last reload failed, and configuration 1 stays: evenkeel.yaml:3:5: unknown key\n"));

    let json: serde_json::Value =
        serde_json::from_str(&said(&["why", "orders", &one.to_string(), "--output", "json"])).expect("JSON");
    assert_eq!((&json["session_ages"]["count"], &json["figures"]["state"]), (&2.into(), &"drained".into()), "{json}");
    assert!(json["figures"]["state_seconds"].as_f64().is_some_and(|s| s >= 0.0), "{json}");
    assert!(json["sentences"].as_array().is_some_and(|s| s.len() > 2), "{json}");
    drop(sessions);
    said(&["why", "a/b c"]);
    let url = format!("http://{admin}/");
    assert!(
        Command::new(EVENKEEL).args(["why", "orders", "--admin", &url]).output().expect("it runs").status.success()
    );
}

#[test]
fn what_is_not_there_is_1_with_a_suggestion() {
    let one = echo();
    let running = proxy(&[one], anywhere());
    let admin = running.admin.expect("an admin API");
    let near = one.to_string().replacen("127", "128", 1);
    for (arguments, expected) in [
        (&["why", "order"][..], "no service \"order\": did you mean orders?"),
        (&["why", "nothing-like-it"], "no service \"nothing-like-it\": GET /api/v1/services lists them"),
        (&["why", "orders", &near], &format!("has no endpoint {near:?}: did you mean {one}?")),
        (&["top", "--once", "--service", "order"], "no service \"order\": did you mean orders?"),
    ] {
        let out = evenkeel(admin, arguments);
        assert_eq!(out.status.code(), Some(1), "{arguments:?}");
        assert!(out.stdout.is_empty() && text(&out.stderr).contains(expected), "{}", text(&out.stderr));
        assert_eq!(text(&out.stderr).lines().count(), 1, "{}", text(&out.stderr));
    }
}

#[test]
fn an_address_without_an_evenkeel_is_1_with_a_remedy() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let stranger = echo();
    for arguments in [&["why", "orders"][..], &["top"], &["top", "--once"], &["top", "--output", "json"]] {
        for admin in [nobody, stranger] {
            let out = evenkeel(admin, arguments);
            assert_eq!(out.status.code(), Some(1), "{arguments:?}");
            let said = text(&out.stderr);
            assert!(said.contains(&format!("no evenkeel answers at {admin}")) && said.contains("--admin"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    let out =
        Command::new(EVENKEEL).args(["why", "orders", "--admin", "https://127.0.0.1:1"]).output().expect("it runs");
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn top_prints_a_table_where_there_is_no_terminal() {
    let (one, two) = (echo(), echo());
    let running = proxy(&[one, two], anywhere());
    let admin = running.admin.expect("an admin API");
    let _sessions: Vec<TcpStream> = (0..2).map(|_| session(&running)).collect();
    let out = evenkeel(admin, &["top"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let table = text(&out.stdout);
    assert!(table.contains("\norders: 2 of 2 endpoints, 2 sessions, ") && table.contains("\na/b c: "), "{table}");
    let line = table.lines().find(|l| l.contains(&one.to_string())).expect("an endpoint");
    assert!(line.contains("well") && line.contains("50.0 %") && line.contains("fewest for the weight"), "{line}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe: {table:?}");
    let only = text(&evenkeel(admin, &["top", "--once", "--service", "orders"]).stdout);
    assert!(only.contains("\norders: ") && !only.contains("\na/b c: "), "{only}");
    let json: serde_json::Value =
        serde_json::from_slice(&evenkeel(admin, &["top", "--output", "json"]).stdout).expect("JSON");
    assert_eq!(json["services"][0]["endpoints"].as_array().map(Vec::len), Some(2), "{json}");
}

/// A terminal of tmux's, 80 columns by 24 lines, with a server of its own.
struct Terminal(String);

impl Terminal {
    /// Runs a shell command; `None` where there is no tmux (`cargo xtask install` brings it).
    fn run(name: &str, script: &str) -> Option<Self> {
        let path = std::env::var("PATH").unwrap_or_default();
        if !path.split(':').any(|directory| Path::new(directory).join("tmux").is_file()) {
            eprintln!("skipped: tmux is not installed");
            return None;
        }
        let terminal = Self(format!("evenkeel-{name}-{}", std::process::id()));
        let start = ["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh", "-c", script];
        terminal.tmux(&start);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let out = Command::new("tmux").args(["-u", "-L", &self.0]).args(arguments).output().expect("tmux runs");
        assert!(out.status.success(), "tmux {arguments:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn shows(&self, what: &str) -> String {
        let mut screen = String::new();
        eventually(what, || {
            screen = self.screen();
            screen.contains(what)
        });
        screen
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The process that the shell waits for.
    fn child(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        std::fs::read_to_string(children).expect("Linux").trim().to_owned()
    }

    /// Is the terminal as a shell wants it: main screen, cursor visible, and `stty` the same as before?
    fn is_restored(&self) {
        assert_eq!(self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
        let screen = self.screen();
        let modes: Vec<&str> = screen.lines().filter(|line| line.starts_with("modes ")).collect();
        assert!(modes.len() == 2 && modes[0] == modes[1], "{screen}");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Gone already if its command is.
        let _gone = Command::new("tmux").args(["-L", &self.0, "kill-server"]).output();
    }
}

/// A script that shows the modes of the terminal before and after `top`, and its exit code.
fn script(admin: SocketAddr) -> String {
    let modes = "echo modes $(stty -g | cksum)";
    format!("{modes}; {EVENKEEL} top --admin {admin}; echo ended $?; {modes}; exec cat")
}

#[test]
fn top_lives_in_a_terminal_and_gives_it_back() {
    let (one, two) = (echo(), echo());
    let running = proxy(&[one, two], anywhere());
    let admin = running.admin.expect("an admin API");
    let Some(terminal) = Terminal::run("keys", &script(admin)) else { return };
    let screen = terminal.shows(&format!(" {one}"));
    assert!(screen.contains("orders") && screen.contains("ready, configuration 1"), "{screen}");
    let _sessions: Vec<TcpStream> = (0..4).map(|_| session(&running)).collect();
    terminal.shows("Its sessions are even: the fullest endpoint has 1.00 × its fair share.");
    terminal.press(&["?"]);
    terminal.shows(" Keys ");
    terminal.press(&["x", "s"]);
    terminal.shows("s sort: address");
    terminal.press(&["Tab", "Down"]);
    terminal.shows("── a/b c");
    terminal.press(&["q"]);
    terminal.shows("ended 0");
    eventually("the shell goes on", || terminal.screen().matches("modes ").count() == 2);
    terminal.is_restored();
}

#[test]
fn top_gives_the_terminal_back_when_it_is_terminated() {
    let running = proxy(&[echo()], anywhere());
    let Some(terminal) = Terminal::run("term", &script(running.admin.expect("an admin API"))) else { return };
    terminal.shows("orders");
    assert!(Command::new("kill").args(["-TERM", &terminal.child()]).status().expect("kill").success());
    terminal.shows("ended 143");
    eventually("the shell goes on", || terminal.screen().matches("modes ").count() == 2);
    terminal.is_restored();
}

#[test]
fn top_says_that_it_lost_the_connection_and_finds_it_again() {
    let one = echo();
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let running = proxy(&[one], admin);
    let Some(terminal) = Terminal::run("lost", &script(admin)) else { return };
    terminal.shows("ready, configuration 1");
    running.cut();
    let screen = terminal.shows("lost since ");
    assert!(screen.contains("trying again") && screen.contains(&one.to_string()), "what was known stays: {screen}");
    let _running = proxy(&[one], admin);
    terminal.shows("ready, configuration 1");
}
