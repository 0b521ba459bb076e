//! The access log: a line for each request, however it ends.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The program, killed with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only if it is gone already.
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The head that comes next; empty at the end of the connection.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// Answers with 204, switches protocols, or says nothing and tells that it does.
fn backend(silent: std::sync::mpsc::Sender<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let silent = silent.clone();
            std::thread::spawn(move || {
                loop {
                    let head = head(&mut stream);
                    let answer = match head.split(' ').nth(1) {
                        None => return,
                        Some("/silent") => {
                            silent.send(()).expect("the test is there");
                            continue;
                        }
                        Some("/chat") => "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n",
                        Some(_) => "HTTP/1.1 204 Nothing\r\n\r\n",
                    };
                    stream.write_all(answer.as_bytes()).expect("sent");
                }
            });
        }
    });
    addr
}

fn line(log: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    log.read_line(&mut line).expect("a line");
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
}

#[test]
fn every_request_has_a_line_however_it_ends() {
    let (silent, waits) = std::sync::mpsc::channel();
    let backend = backend(silent);
    let listen = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-access.yaml", std::process::id()));
    // Nothing is recorded, so nobody looks for the collector.
    let config = format!(
        "admin: off\naccess_log: json\ntracing: {{otlp: 'http://127.0.0.1:9', sample: 0%}}\n\
         services: [{{name: a, listen: '{listen}', target: '{backend}', protocol: http}}]\n"
    );
    std::fs::write(&file, config).expect("written");
    let mut program = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    program.args(["proxy", "-c"]).arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(program.spawn().expect("it runs"));
    let mut log = BufReader::new(running.0.stdout.take().expect("a pipe"));
    let mut said = BufReader::new(running.0.stderr.take().expect("a pipe")).lines();
    assert!(said.any(|line| line.expect("text").contains("listening")), "it ended");

    let ask = |request: String| {
        let mut stream = TcpStream::connect(listen).expect("it listens");
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    };
    let mut plain = ask(concat!(
        "GET /plain HTTP/1.1\r\nHost: a\r\n",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\n\r\n"
    )
    .into());
    assert!(head(&mut plain).starts_with("HTTP/1.1 204"));
    let logged = line(&mut log);
    assert_eq!((&logged["target"], &logged["status"]), (&"/plain".into(), &204.into()));
    assert_eq!(logged["endpoint"], backend);
    // That which the endpoint got: our span in the client's trace.
    let parent = logged["traceparent"].as_str().expect("a text");
    assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && parent.ends_with("-00"), "{parent}");
    assert!(!parent.contains("b7ad6b7169203331"), "{parent}");

    let mut chat = ask("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n".into());
    assert!(head(&mut chat).starts_with("HTTP/1.1 101"));
    drop(chat);
    let logged = line(&mut log);
    assert_eq!((&logged["target"], &logged["status"]), (&"/chat".into(), &101.into()));

    let gone = ask("GET /silent HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n".into());
    waits.recv().expect("the backend has it");
    // In the middle of its body.
    drop(gone);
    let logged = line(&mut log);
    assert_eq!((&logged["target"], &logged["status"]), (&"/silent".into(), &Value::Null));
    assert_eq!(logged["cause"], "client-closed");
    std::fs::remove_file(file).expect("removed");
}
