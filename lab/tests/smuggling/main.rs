//! Requests and responses that two readers could read in two ways, through evenkeel, to servers by five
//! different people. What must happen is in `requests/` and `responses/`; `README.md` says how to read them.

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod recorder;

use cases::{Outcome, RequestCase, Seen, Then};
use common::peers::{Process, Relay, directory, free_port, have, python};
use common::{Backend, PATIENCE, Proxy, field, read_head, read_response, status};
use evenkeel_proxy::config::Protocol;
use recorder::Recorder;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// A backend behind evenkeel that tells what it saw.
struct Target {
    /// As the corpus calls it.
    name: &'static str,
    addr: SocketAddr,
    seen: Receiver<Seen>,
    _peer: Peer,
}

/// What must live as long as its target.
enum Peer {
    Thread,
    Relay(#[expect(dead_code, reason = "held, not used")] Relay),
    Process(#[expect(dead_code, reason = "held, not used")] Process),
}

impl Target {
    /// Nothing but a strict reader: it would show anything malformed that evenkeel writes.
    fn strict() -> Self {
        let Recorder { addr, seen } = Recorder::start();
        Self { name: "strict", addr, seen, _peer: Peer::Thread }
    }

    /// nginx or HAProxy, which read whole requests and pass on what they understood.
    fn relay(name: &'static str) -> Self {
        let recorder = Recorder::start();
        let relay = Relay::start(name, recorder.addr);
        Self { name, addr: relay.addr, seen: recorder.seen, _peer: Peer::Relay(relay) }
    }

    /// A server in Python.
    fn python(name: &'static str) -> Option<Self> {
        let python = python()?;
        let sink = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = sink.local_addr().expect("bound").port().to_string();
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(python);
        command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/recorders.py"), name]);
        command.args([addr.port().to_string(), port]);
        let process = Process::start(&mut command, directory(name)).listening(addr);
        let (sender, seen) = channel();
        let (stream, _) = sink.accept().expect("it tells");
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { return };
                let seen = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"));
                if sender.send(seen).is_err() {
                    return;
                }
            }
        });
        Some(Self { name, addr, seen, _peer: Peer::Process(process) })
    }

    /// Plays the whole corpus.
    fn play(&self, protocol: Protocol, wanted: impl Fn(&RequestCase) -> bool) {
        let proxy = Proxy::with(&[self.addr], |service| {
            service.protocol = protocol;
            service.balance.core.slow_start = std::time::Duration::ZERO;
        });
        let cases = cases::requests();
        let mut failed = Vec::new();
        let mut number = 0;
        for case in cases.iter().filter(|case| wanted(case)) {
            for size in [usize::MAX, 1, 7] {
                // Long ones consist of repetitions: what matters is where they begin and end.
                let size = if size < 7 && case.input.len() > 1_000 { 997 } else { size };
                number += 1;
                if let Err(what) = self.one(&proxy, case, size, number) {
                    failed.push(format!("{} in pieces of {size}: {what}", case.name));
                }
            }
        }
        assert!(failed.is_empty(), "behind {}, {} failed:\n{}", self.name, failed.len(), failed.join("\n"));
    }

    /// Plays one case; says what went wrong.
    fn one(&self, proxy: &Proxy, case: &RequestCase, size: usize, number: usize) -> Result<(), String> {
        let mut client = BufReader::new(proxy.connect());
        client.get_ref().set_nodelay(true).expect("an option");
        for piece in case.input.chunks(size.min(case.input.len())) {
            if client.get_mut().write_all(piece).is_err() {
                // Refused before all was said.
                break;
            }
        }
        let heard = self.hear(&mut client, case);
        // Somebody else asks, over whatever connection to the backend is left.
        let innocent = format!("/innocent/{number}");
        let answer = Client::ask(proxy, &innocent);
        let mut seen = Vec::new();
        loop {
            match self.seen.recv_timeout(PATIENCE) {
                Ok(request) if request.target == innocent => break,
                Ok(request) => seen.push(request),
                Err(_) => return Err(format!("the innocent request never came; client: {heard:?}; seen: {seen:?}")),
            }
        }
        let in_step = heard?;
        if answer != (200, innocent.clone()) {
            return Err(format!("the innocent client got {answer:?}"));
        }
        let except = case.except.iter().any(|(name, _)| name == self.name);
        let mut expected = if except { Vec::new() } else { case.seen.clone() };
        if in_step {
            expected.push(Seen {
                method: "GET".into(),
                target: "/after".into(),
                host: "a".into(),
                body: String::new(),
            });
        }
        match seen == expected {
            true => Ok(()),
            false => Err(format!("saw {seen:?}, expected {expected:?}")),
        }
    }

    /// Reads what the client gets, and takes it to the end. True: another request was answered.
    fn hear(&self, client: &mut BufReader<TcpStream>, case: &RequestCase) -> Result<bool, String> {
        if let Some((_, status)) = case.except.iter().find(|(name, _)| name == self.name) {
            let answer = Answer::read(client, false)?;
            if answer.status != *status || answer.ours {
                return Err(format!("the backend was to refuse it with {status}, but {answer:?}"));
            }
            if answer.closes {
                // It refused before it had heard all, so that was the last answer.
                return Ok(false);
            }
        } else {
            for seen in &case.seen {
                let head = seen.method == "HEAD";
                let answer = Answer::read(client, head)?;
                if answer.status != 200 || (!head && answer.body != seen.target) {
                    return Err(format!("{seen:?} was answered with {answer:?}"));
                }
            }
        }
        match case.then {
            Then::Open => {
                let request = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n";
                client.get_mut().write_all(request).map_err(|e| format!("closed: {e}"))?;
                let answer = Answer::read(client, false)?;
                return match (answer.status, &*answer.body) {
                    (200, "/after") => Ok(true),
                    _ => Err(format!("the next request got {answer:?}")),
                };
            }
            Then::Refused(status) => {
                let answer = Answer::read(client, false)?;
                if answer.status != status || !answer.ours || !answer.closes {
                    return Err(format!("not refused with {status} but {answer:?}"));
                }
            }
            // Fails if evenkeel closed, which what is read below shows.
            Then::Waits => drop(client.get_ref().shutdown(Shutdown::Write)),
            Then::Closed => {}
        }
        let mut rest = Vec::new();
        match client.read_to_end(&mut rest) {
            Ok(_) if rest.is_empty() => Ok(false),
            // A message cut short, or more than the client itself said would come.
            Err(e) if e.kind() == ErrorKind::ConnectionReset && matches!(case.then, Then::Waits | Then::Closed) => {
                Ok(false)
            }
            Ok(_) => Err(format!("more came: {:?}", String::from_utf8_lossy(&rest))),
            Err(e) => Err(format!("the connection was not closed: {e}")),
        }
    }
}

/// A response as a client read it.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
    /// evenkeel made it itself.
    ours: bool,
    /// It says `Connection: close`.
    closes: bool,
}

impl Answer {
    /// Reads the next final response.
    fn read(client: &mut BufReader<TcpStream>, head: bool) -> Result<Self, String> {
        loop {
            let mut text = String::new();
            while !text.ends_with("\r\n\r\n") {
                match client.read_line(&mut text) {
                    Ok(0) => return Err(format!("the connection ended after {text:?}")),
                    Ok(_) => {}
                    Err(e) => return Err(format!("{e} after {text:?}")),
                }
            }
            let status = text.split(' ').nth(1).and_then(|s| s.parse().ok());
            let status: u16 = status.ok_or_else(|| format!("no status in {text:?}"))?;
            if status < 200 {
                continue;
            }
            let mut body = Vec::new();
            if let (Some(length), false) = (field(&text, "content-length"), head) {
                let length: u64 = length.parse().map_err(|_| format!("no length in {text:?}"))?;
                let read = client.take(length).read_to_end(&mut body);
                if read.is_err() || body.len() as u64 != length {
                    return Err(format!("a body cut short: {text:?}"));
                }
            } else if field(&text, "transfer-encoding").is_some() && !head {
                body = read_chunks(client).ok_or_else(|| format!("bad chunks behind {text:?}"))?;
            }
            return Ok(Self {
                status,
                body: String::from_utf8_lossy(&body).into_owned(),
                ours: field(&text, "evenkeel-reason").is_some(),
                closes: field(&text, "connection") == Some("close"),
            });
        }
    }
}

fn read_chunks(client: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        client.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.strip_suffix("\r\n")?, 16).ok()?;
        let mut chunk = vec![0; size + 2];
        client.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(chunk.strip_suffix(b"\r\n")?);
        if size == 0 {
            return Some(body);
        }
    }
}

/// A client that does as it should.
struct Client;

impl Client {
    /// Status and body of the answer to one request on a connection of its own.
    fn ask(proxy: &Proxy, target: &str) -> (u16, String) {
        let mut client = BufReader::new(proxy.connect());
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.get_mut().write_all(request.as_bytes()).expect("sent");
        match Answer::read(&mut client, false) {
            Ok(answer) => (answer.status, answer.body),
            Err(what) => (0, what),
        }
    }
}

#[test]
fn the_corpus_is_what_it_says_it_is() {
    let (requests, responses) = (cases::requests(), cases::responses());
    assert!(requests.len() >= 150 && responses.len() >= 40, "{} and {}", requests.len(), responses.len());
    let names: HashSet<&str> =
        requests.iter().map(|case| &*case.name).chain(responses.iter().map(|case| &*case.name)).collect();
    assert_eq!(names.len(), requests.len() + responses.len(), "each name once");
    for case in &requests {
        assert!(!case.input.is_empty(), "{}", case.name);
        assert!(case.seen.iter().all(|seen| !seen.target.contains("smuggled")), "{}", case.name);
        // What is neither seen nor refused nor incomplete is a mistake in the file.
        assert!(!case.seen.is_empty() || matches!(case.then, Then::Refused(_) | Then::Waits), "{}", case.name);
    }
}

#[test]
fn requests_behind_which_a_strict_reader_listens() {
    Target::strict().play(Protocol::Http1, |_| true);
}

/// What begins like HTTP is read like HTTP if evenkeel is to find out by itself, too. The rest is no
/// business of this corpus: it is passed on unread, over a connection of its own.
#[test]
fn requests_whose_protocol_is_detected() {
    Target::strict().play(Protocol::Auto, |case| {
        let text = String::from_utf8_lossy(&case.input);
        let text = text.trim_start_matches("\r\n");
        let methods = ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "TRACE"];
        let forms = ["/", "* ", "http://", "https://"];
        methods.iter().any(|method| {
            let rest = text.strip_prefix(method).and_then(|rest| rest.strip_prefix(' '));
            rest.is_some_and(|rest| forms.iter().any(|form| rest.starts_with(form)))
        }) || text.starts_with("CONNECT ")
    });
}

#[test]
fn requests_to_nginx() {
    if have(&["nginx"]) {
        Target::relay("nginx").play(Protocol::Http1, |_| true);
    }
}

#[test]
fn requests_to_haproxy() {
    if have(&["haproxy"]) {
        Target::relay("haproxy").play(Protocol::Http1, |_| true);
    }
}

#[test]
fn requests_to_aiohttp() {
    if let Some(target) = Target::python("aiohttp") {
        target.play(Protocol::Http1, |_| true);
    }
}

#[test]
fn requests_to_waitress() {
    if let Some(target) = Target::python("waitress") {
        target.play(Protocol::Http1, |_| true);
    }
}

#[test]
fn requests_to_uvicorn() {
    if let Some(target) = Target::python("uvicorn") {
        target.play(Protocol::Http1, |_| true);
    }
}

#[test]
fn responses_that_are_none_reach_nobody_and_what_is_behind_one_never_the_next_client() {
    let cases = Arc::new(cases::responses());
    let backend = {
        let cases = cases.clone();
        Backend::start(move |mut stream, connection| {
            loop {
                let head = read_head(&mut stream);
                let Some(target) = head.split(' ').nth(1) else { return };
                let case = target.strip_prefix("/case/").map(|n| &cases[n.parse::<usize>().expect("a number")]);
                let answer = match case {
                    Some(case) => case.answer.clone(),
                    // Says which connection it is.
                    None => {
                        let body = connection.to_string();
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
                    }
                };
                if stream.write_all(&answer).is_err() || case.is_some_and(|case| case.eof) {
                    return;
                }
            }
        })
    };
    let proxy = Proxy::with(&[backend.addr], |service| {
        service.protocol = Protocol::Http1;
        // Nobody is to be spared because others failed.
        service.balance.core.outlier.consecutive = None;
    });
    for (number, case) in cases.iter().enumerate() {
        // The connection that this case's request will use.
        let (status, before) = Client::ask(&proxy, "/innocent");
        assert_eq!(status, 200, "{}", case.name);
        let mut client = BufReader::new(proxy.connect());
        let request = format!("{} /case/{number} HTTP/1.1\r\nHost: a\r\n{}\r\n", case.method, case.fields);
        client.get_mut().write_all(request.as_bytes()).expect("sent");
        match &case.outcome {
            Outcome::Gets(status, body) => {
                let heard = Answer::read(&mut client, case.method == "HEAD");
                let answer = heard.unwrap_or_else(|e| panic!("{}: {e}", case.name));
                assert_eq!(answer.status, *status, "{}: {answer:?}", case.name);
                assert_eq!(answer.ours, *status == 502, "{}: {answer:?}", case.name);
                assert!(answer.ours || answer.body.as_bytes() == body, "{}: {answer:?}", case.name);
            }
            Outcome::Breaks => {
                let end = client.read_to_end(&mut Vec::new()).map_err(|e| e.kind());
                assert_eq!(end, Err(ErrorKind::ConnectionReset), "{}", case.name);
            }
            Outcome::Unsaid => panic!("{}: no outcome", case.name),
        }
        let (status, after) = Client::ask(&proxy, "/innocent");
        assert_eq!((status, after == before), (200, case.reused), "{}: {before}, then {after}", case.name);
    }
}

#[test]
fn what_a_backend_says_between_two_answers_ends_its_connection() {
    // The answer is complete and its connection waits in the pool; then the backend says more.
    let (ask, asked) = channel::<()>();
    let (tell, told) = channel();
    let (asked, tell) = (Mutex::new(asked), Mutex::new(tell));
    let backend = Backend::start(move |mut stream, connection| {
        if connection > 0 {
            while common::respond(&mut stream, 200, "mine") {}
            return;
        }
        common::respond(&mut stream, 200, "mine");
        asked.lock().expect("no panic").recv().expect("the client has its answer");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").expect("sent");
        // evenkeel closes it without having been asked for anything.
        let end = stream.read(&mut [0; 64]).map_err(|e| e.kind());
        tell.lock().expect("no panic").send(end).expect("the test waits");
    });
    let proxy = Proxy::start(&[backend.addr]);
    assert_eq!(Client::ask(&proxy, "/1"), (200, "mine".to_owned()));
    ask.send(()).expect("the backend waits");
    let end = told.recv_timeout(PATIENCE).expect("the connection ends");
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    assert_eq!(Client::ask(&proxy, "/2"), (200, "mine".to_owned()));
    assert_eq!(backend.connections(), 2);
}

/// An answer before the upload is over is an answer to the head alone: the rest of the upload must never
/// stand where the backend, or evenkeel, reads the next request.
#[test]
fn an_upload_that_was_answered_early_is_never_read_as_a_request() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let backend = {
        let heads = heads.clone();
        // A backend with the 0.CL flaw: it answers at once and takes the body for the next request.
        Backend::start(move |mut stream, _| {
            loop {
                let head = read_head(&mut stream);
                let Some(line) = head.lines().next() else { return };
                heads.lock().expect("no panic").push(line.to_owned());
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
        })
    };
    let proxy = Proxy::with(&[backend.addr], |service| service.protocol = Protocol::Http1);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [format!("Content-Length: {}", smuggled.len()), "Transfer-Encoding: chunked".to_owned()] {
        let mut client = proxy.connect();
        client.write_all(format!("POST /first HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes()).expect("sent");
        let answer = read_response(&mut client);
        assert_eq!((status(&answer), field(&answer, "connection")), (200, Some("close")), "{answer}");
        // Too late: fails, or is thrown away.
        let _late = client.write_all(smuggled.as_bytes());
        assert_eq!(Client::ask(&proxy, "/innocent"), (200, "ok".to_owned()));
    }
    let heads = heads.lock().expect("no panic");
    let expected = ["POST /first HTTP/1.1", "GET /innocent HTTP/1.1"].repeat(2);
    assert_eq!(*heads, expected);
}
