//! Large bodies and streams, which move inside the kernel: nothing is lost, added or counted wrong, whoever is slow
//! or goes away; and where the kernel will not, they are read and written.

mod common;

use common::peers::{Nginx, directory, free_port, have};
use common::program::Program;
use common::{Backend, Proxy, connect, eventually, field, read_all, read_head, read_response, status};
use evenkeel_proxy::config::Protocol;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const MEGABYTE: usize = 1 << 20;

/// Bytes that are all different, so that none can take the place of another.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = vec![0; length.next_multiple_of(8)];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Are they the same? Says where not, instead of printing all of them.
fn assert_same(heard: &[u8], said: &[u8]) {
    if heard != said {
        let differs = heard.iter().zip(said).position(|(a, b)| a != b);
        panic!("{} bytes instead of {}; the first that differs is {differs:?}", heard.len(), said.len());
    }
}

fn spliced(proxy: &Proxy) -> usize {
    proxy.metric("evenkeel_spliced_bytes_total", "") as usize
}

fn read_exactly(stream: &mut impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("all of it");
    bytes
}

/// Serves the same bytes to everybody, whatever is asked; what comes before them depends on the path. What is sent
/// to it is taken first.
fn server(content: Arc<Vec<u8>>) -> Backend {
    Backend::start(move |mut stream, _| {
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            if let Some(length) = field(&head, "content-length") {
                let body = read_exactly(&mut stream, length.parse().expect("a number"));
                assert_same(&body, &content);
            }
            let head = match path {
                "/close" => "HTTP/1.1 200 OK\r\n\r\n".into(),
                _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()),
            };
            if stream.write_all(&[head.as_bytes(), &content].concat()).is_err() || path == "/close" {
                return;
            }
        }
    })
}

/// Sends back what it gets.
fn echo() -> Backend {
    Backend::start(|mut stream, _| {
        let mut room = vec![0; 256 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut room) {
            if stream.write_all(&room[..n]).is_err() {
                return;
            }
        }
    })
}

/// Runs curl and returns what it says at the end.
fn curl(arguments: &[&str]) -> String {
    let out =
        Command::new("curl").args(["--silent", "--show-error", "--fail", "--noproxy", "*"]).args(arguments).output();
    let out = out.expect("curl runs");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn nginx_and_curl_exchange_files_of_a_hundred_megabytes() {
    if !have(&["nginx", "curl"]) {
        return;
    }
    let nginx = Nginx::start();
    let proxy = Proxy::start(&[nginx.addr]);
    let home = directory("files");
    let (sent, got) = (home.join("sent"), home.join("got"));
    let read = |path: &Path| std::fs::read(path).expect("a file");
    let text = |path: &Path| path.display().to_string();
    for megabytes in [1, 100] {
        let content = noise(megabytes * MEGABYTE + 7);
        std::fs::write(&sent, &content).expect("written");
        let url = format!("http://{}/put/{megabytes}", proxy.addr);
        let before = spliced(&proxy);
        curl(&["-T", &text(&sent), "-H", "Expect:", &url]);
        assert_same(&read(&nginx.home().join(format!("put/{megabytes}"))), &content);
        let up = spliced(&proxy);
        assert!(up - before > content.len() / 2, "{} spliced", up - before);
        // Twice on one connection, so that the second follows a body that was spliced.
        let said = curl(&["-o", &text(&got), "-w", "%{num_connects} ", &url, "-o", &text(&got), &url]);
        assert_eq!(said, "1 0 ");
        assert_same(&read(&got), &content);
        let down = spliced(&proxy) - up;
        assert!(down > content.len(), "{down} spliced");
    }
    std::fs::remove_dir_all(home).expect("removed");
}

#[test]
fn every_byte_is_counted_once() {
    let content = Arc::new(noise(10 * MEGABYTE));
    let backend = server(content.clone());
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", content.len());
    client.write_all(&[request.as_bytes(), &content].concat()).expect("sent");
    let head = read_head(&mut client);
    assert_same(&read_exactly(&mut client, content.len()), &content);
    let count = |name: &str| proxy.metric(name, "") as usize;
    assert_eq!(count("evenkeel_client_bytes_received_total"), request.len() + content.len());
    assert_eq!(count("evenkeel_client_bytes_sent_total"), head.len() + content.len());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len());
    assert_eq!(count("evenkeel_endpoint_bytes_received_total"), answer.len() + content.len());
    let forwarded = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n";
    assert_eq!(count("evenkeel_endpoint_bytes_sent_total"), request.len() + forwarded.len() + content.len());
    let spliced = spliced(&proxy);
    assert!((content.len()..=2 * content.len()).contains(&spliced), "{spliced} spliced");
}

#[test]
fn what_follows_a_spliced_body_is_read() {
    let content = Arc::new(noise(MEGABYTE));
    let backend = server(content.clone());
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    let mut writer = client.try_clone().expect("a second handle");
    let body = content.clone();
    // All at once, so that each head comes right behind a body.
    let sender = std::thread::spawn(move || {
        let post = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for _ in 0..5 {
            writer.write_all(&[post.as_bytes(), &body, get].concat()).expect("sent");
        }
    });
    for _ in 0..10 {
        assert_eq!(status(&read_head(&mut client)), 200);
        assert_same(&read_exactly(&mut client, content.len()), &content);
    }
    sender.join().expect("all sent");
    assert!(spliced(&proxy) > 5 * content.len());
    assert_eq!(backend.connections(), 1, "a link goes back to its pool after a spliced body");
}

#[test]
fn a_body_that_ends_with_its_connection() {
    let content = Arc::new(noise(20 * MEGABYTE));
    let backend = server(content.clone());
    let proxy = Proxy::start(&[backend.addr]);
    for (version, moves) in [("1.0", true), ("1.1", false)] {
        let before = spliced(&proxy);
        let mut client = proxy.connect();
        write!(client, "GET /close HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
        let head = read_head(&mut client);
        let mut body = Vec::new();
        client.read_to_end(&mut body).expect("a clean end");
        if field(&head, "transfer-encoding").is_some() {
            body = unchunked(&body);
        }
        assert_same(&body, &content);
        // Who speaks HTTP/1.1 gets it in chunks, which somebody has to make.
        assert_eq!(spliced(&proxy) - before > content.len() / 2, moves, "HTTP/{version}");
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let line = bytes.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
        let size = std::str::from_utf8(&bytes[..line]).ok().and_then(|line| usize::from_str_radix(line, 16).ok());
        let size = size.expect("a size");
        if size == 0 {
            return content;
        }
        content.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 2 + size + 2..];
    }
}

#[test]
fn an_opaque_stream_comes_back_as_it_went() {
    let content = Arc::new(noise(50 * MEGABYTE));
    let echo = echo();
    let proxy = Proxy::with(&[echo.addr], |service| service.protocol = Protocol::Tcp);
    let mut client = proxy.connect();
    let (mut writer, said) = (client.try_clone().expect("a second handle"), content.clone());
    let sender = std::thread::spawn(move || {
        writer.write_all(&said).expect("sent");
        writer.shutdown(Shutdown::Write).expect("half-closed");
    });
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).expect("a clean end");
    sender.join().expect("all sent");
    assert_same(&heard, &content);
    let spliced = spliced(&proxy);
    assert!(spliced > content.len(), "{spliced} spliced in both directions");
}

#[test]
fn small_messages_are_not_spliced() {
    let echo = echo();
    let proxy = Proxy::with(&[echo.addr], |service| service.protocol = Protocol::Tcp);
    let mut client = proxy.connect();
    for _ in 0..100 {
        client.write_all(&[b'x'; 4000]).expect("sent");
        read_exactly(&mut client, 4000);
    }
    assert_eq!(spliced(&proxy), 0);
}

#[test]
fn unix_sockets_splice_like_others() {
    let home = directory("spliced");
    let (front, back) = (home.join("front"), home.join("back"));
    let listener = std::os::unix::net::UnixListener::bind(&back).expect("bound");
    let content = Arc::new(noise(20 * MEGABYTE));
    let body = content.clone();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut head = vec![0; 4096];
        while let Ok(1..) = stream.read(&mut head) {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).expect("sent");
            stream.write_all(&body).expect("sent");
        }
    });
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: 'unix://{}', target: 'unix://{}'}}\n",
        front.display(),
        back.display()
    ));
    let mut client = UnixStream::connect(&front).expect("it listens");
    // The second answer comes over the link of the first: nobody else takes it.
    for _ in 0..2 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(read_exactly(&mut client, 1));
        }
        assert_same(&read_exactly(&mut client, content.len()), &content);
    }
    assert!(spliced(&proxy) > content.len());
    drop(proxy);
    std::fs::remove_dir_all(home).expect("removed");
}

/// A large frame: its header, then payload that nobody looks at.
#[test]
fn a_large_websocket_message_is_spliced_and_the_session_still_understood() {
    let backend = Backend::start(|mut stream, _| {
        read_head(&mut stream);
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(head).expect("sent");
        let mut room = vec![0; 256 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut room) {
            if stream.write_all(&room[..n]).is_err() {
                return;
            }
        }
    });
    // Sessions are told to go at some time within the grace.
    let mut proxy = Proxy::grace(&[backend.addr], std::time::Duration::from_secs(1));
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").expect("sent");
    assert_eq!(status(&read_head(&mut client)), 101);
    let payload = noise(10 * MEGABYTE);
    let frame = [&[0x82, 127][..], &(payload.len() as u64).to_be_bytes(), &payload].concat();
    for _ in 0..2 {
        let (mut writer, frame) = (client.try_clone().expect("a second handle"), frame.clone());
        let sender = std::thread::spawn(move || writer.write_all(&frame).expect("sent"));
        let heard = read_exactly(&mut client, 10 + payload.len());
        sender.join().expect("all sent");
        assert_same(&heard[10..], &payload);
    }
    assert!(spliced(&proxy) > 2 * payload.len());
    // Where frames begin is known as before: a Close fits between two of them.
    proxy.running.drain();
    assert_eq!(read_exactly(&mut client, 1), [0x88]);
}

/// The start of what a client was to get of a body that did not come whole.
fn part_of(client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut room = vec![0; 64 * 1024];
    loop {
        match client.read(&mut room) {
            Ok(0) => return (bytes, false),
            Ok(n) => bytes.extend_from_slice(&room[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, true),
            Err(error) => panic!("{error} after {} bytes", bytes.len()),
        }
    }
}

#[test]
fn an_endpoint_that_dies_in_a_body_makes_no_whole_one() {
    let content = Arc::new(noise(20 * MEGABYTE));
    let body = content.clone();
    let backend = Backend::start(move |mut stream, number| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * body.len()).expect("sent");
        stream.write_all(&body).expect("sent");
        if number % 2 == 1 {
            common::reset(stream);
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    for _ in 0..4 {
        let mut client = proxy.connect();
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert_eq!(status(&read_head(&mut client)), 200);
        let (part, reset) = part_of(&mut client);
        assert!(reset, "a clean end would look like a whole body");
        assert_same(&part, &content[..part.len()]);
    }
    assert!(spliced(&proxy) > 0);
    eventually("all sessions are over", || proxy.service()["sessions"] == 0);
    let failed = proxy.metric("evenkeel_turn_failures_total", "cause=\"endpoint-closed\"");
    assert_eq!(failed, 4.0);
}

#[test]
fn clients_that_go_in_a_body_take_their_links_along() {
    let content = Arc::new(noise(20 * MEGABYTE));
    let backend = server(content.clone());
    let proxy = Proxy::start(&[backend.addr]);
    for upload in [false, true] {
        for leaves_with_reset in [false, true] {
            let mut client = proxy.connect();
            if upload {
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", content.len());
                client.write_all(head.as_bytes()).expect("sent");
                client.write_all(&content[..10 * MEGABYTE]).expect("sent");
            } else {
                client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
                read_exactly(&mut client, MEGABYTE);
            }
            if leaves_with_reset {
                common::reset(client)
            } else {
                drop(client)
            }
            eventually("the session is over", || proxy.service()["sessions"] == 0);
        }
    }
    assert!(spliced(&proxy) > 0);
    eventually("their links are closed", || proxy.metric("evenkeel_links", "") == 0.0);
    // And the next one is served.
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    read_head(&mut client);
    assert_same(&read_exactly(&mut client, content.len()), &content);
}

/// The endpoint has nothing more to say, but listens on, later. What the client says meanwhile, up to its end, is on
/// its way to it, some of it in sockets and some of it here.
#[test]
fn who_has_said_everything_still_hears_everything() {
    for piece in [8 * 1024, MEGABYTE] {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (heard, result) = std::sync::mpsc::channel();
        let wait = std::sync::Mutex::new(wait);
        let backend = Backend::start(move |mut stream, _| {
            stream.write_all(b"welcome").expect("sent");
            stream.shutdown(Shutdown::Write).expect("half-closed");
            wait.lock().expect("one at a time").recv().expect("the test goes on");
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes);
            heard.send((bytes, end)).expect("the test waits");
        });
        let proxy = Proxy::with(&[backend.addr], |service| service.protocol = Protocol::Tcp);
        let mut client = proxy.connect();
        assert_eq!(read_all(&mut client), "welcome");
        let count = |name: &str| proxy.metric(name, "") as usize;
        let received = || count("evenkeel_client_bytes_received_total");
        let content = noise(64 * MEGABYTE);
        let mut said = 0;
        // Until the endpoint's socket takes no more, and something waits here.
        for piece in content.chunks(piece) {
            client.write_all(piece).expect("sent");
            said += piece.len();
            eventually("something came", || received() + piece.len() > said);
            if received() > count("evenkeel_endpoint_bytes_sent_total") {
                break;
            }
        }
        client.shutdown(Shutdown::Write).expect("half-closed");
        eventually("the end is noticed, or could be", || received() + piece >= said);
        go.send(()).expect("the backend waits");
        let (bytes, end) = result.recv().expect("an end");
        end.expect("a clean one");
        assert_same(&bytes, &content[..said]);
    }
}

/// A client that takes little at once.
fn slow(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("an option");
    socket.connect(&addr.into()).expect("the listener is there");
    let mut stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(common::PATIENCE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    stream
}

/// Pipes that a process has open, by their two ends.
fn pipes(program: &Program) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).expect("Linux");
    let targets = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("pipe:")).count() / 2
}

/// One service on that address, for one worker.
fn config(listen: SocketAddr, backend: &Backend) -> String {
    let service = format!("{{name: test, listen: '{listen}', target: '{}', protocol: http}}", backend.addr);
    format!("workers: 1\nservices:\n- {service}\n")
}

#[test]
fn slow_readers_hold_up_a_bounded_number_of_pipes() {
    const READERS: usize = 100;
    let content = Arc::new(noise(16 * MEGABYTE));
    let sent = Arc::new(AtomicU64::new(0));
    let (body, counter) = (content.clone(), sent.clone());
    let backend = Backend::start(move |mut stream, _| {
        read_head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).expect("sent");
        for piece in body.chunks(64 * 1024) {
            stream.write_all(piece).expect("sent");
            counter.fetch_add(piece.len() as u64, SeqCst);
        }
    });
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let program = Program::start(&config(listen, &backend));
    let mut readers: Vec<TcpStream> = (0..READERS).map(|_| slow(listen)).collect();
    // As many as there may be; the others' bytes wait in their sockets, and in a buffer.
    eventually("every pipe is taken", || pipes(&program) == 64);
    for reader in &mut readers {
        assert_eq!(status(&read_head(reader)), 200);
    }
    assert!(pipes(&program) <= 64);
    let whole = READERS as u64 * content.len() as u64;
    assert!(sent.load(SeqCst) < whole, "somebody swallows what nobody reads");
    let reading = readers.into_iter().map(|mut reader| {
        let content = content.clone();
        std::thread::spawn(move || assert_same(&read_exactly(&mut reader, content.len()), &content))
    });
    reading.collect::<Vec<_>>().into_iter().for_each(|reader| reader.join().expect("all of it"));
    eventually("most pipes are closed", || pipes(&program) <= 8);
}

#[test]
fn without_descriptors_bodies_are_read_and_written() {
    let content = Arc::new(noise(10 * MEGABYTE));
    let backend = server(content.clone());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    // Of 300, 64 are kept back.
    let shell = ["sh", "-c", "ulimit -n 300; exec \"$0\" \"$@\""];
    let program = Program::under(&shell, &config(listen, &backend));
    let spliced = || program.metric("evenkeel_spliced_bytes_total{service=\"test\"}");
    let get = |client: &mut TcpStream| {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        assert_eq!(status(&read_head(client)), 200);
        assert_same(&read_exactly(client, content.len()), &content);
    };
    let mut client = connect(listen);
    let others: Vec<TcpStream> = (0..300).map(|_| connect(listen)).collect();
    eventually("clients wait", || program.log().contains("too many open files"));
    get(&mut client);
    assert_eq!(spliced(), 0.0);
    drop(others);
    eventually("they are gone", || program.service("test")["sessions"] == 1);
    get(&mut client);
    assert!(spliced() > 0.0);
}

#[test]
fn a_kernel_that_will_not_splice_is_not_asked_again() {
    if !have(&["strace"]) {
        return;
    }
    let content = Arc::new(noise(10 * MEGABYTE));
    let backend = server(content.clone());
    // Never; from the second filling of a pipe on; when there is something in one.
    for (first, works) in [(1, false), (3, true), (4, true)] {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let inject = format!("inject=splice:error=EINVAL:when={first}+");
        let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=splice", "-e", &inject];
        let program = Program::under(&strace, &config(listen, &backend));
        let mut client = connect(listen);
        for _ in 0..2 {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", content.len());
            client.write_all(&[head.as_bytes(), &content].concat()).expect("sent");
            assert_eq!(status(&read_head(&mut client)), 200);
            assert_same(&read_exactly(&mut client, content.len()), &content);
        }
        let spliced = program.metric("evenkeel_spliced_bytes_total{service=\"test\"}") as usize;
        assert_eq!((spliced > 0, spliced < content.len()), (works, true), "{spliced} spliced");
        assert_eq!(pipes(&program), 0, "it keeps no pipes for nothing");
    }
}

#[test]
fn a_drain_lets_a_spliced_body_end() {
    let content = Arc::new(noise(20 * MEGABYTE));
    let backend = server(content.clone());
    let mut proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    assert_eq!(status(&read_head(&mut client)), 200);
    eventually("it is under way", || spliced(&proxy) > 0);
    proxy.running.drain();
    assert_same(&read_exactly(&mut client, content.len()), &content);
    assert!(proxy.running.wait(common::PATIENCE), "the session is over");
}

/// An answer of some megabytes, and then a client that asks for something small: as usual.
#[test]
fn a_small_answer_after_a_large_one() {
    let backend = Backend::start(|mut stream, _| {
        loop {
            let head = read_head(&mut stream);
            let Some(size) = head.split(['/', ' ']).nth(2).and_then(|size| size.parse::<usize>().ok()) else { return };
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").expect("sent");
            stream.write_all(&vec![b'x'; size]).expect("sent");
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    for size in [4 * MEGABYTE, 5, 4 * MEGABYTE, 0, 20_000, 100_000] {
        write!(client, "GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let response = read_response(&mut client);
        assert_eq!(response.split_once("\r\n\r\n").map(|(_, body)| body.len()), Some(size));
    }
    assert_eq!(backend.connections(), 1);
}
