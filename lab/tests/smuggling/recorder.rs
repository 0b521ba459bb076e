//! A server that reads requests as strictly as can be, tells what it saw, and answers each with its own
//! target. Behind evenkeel it shows what evenkeel writes; behind another server, what that one understood.

use crate::cases::Seen;
use crate::common::Backend;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

pub struct Recorder {
    pub addr: SocketAddr,
    pub seen: Receiver<Seen>,
}

/// The bytes are not one request: what the test is to fail with.
struct Malformed(String);

enum Request {
    Whole(Seen),
    /// The connection ended in it, or before it.
    Cut,
}

impl Recorder {
    pub fn start() -> Self {
        let (sender, seen) = channel();
        let sender = std::sync::Mutex::new(sender);
        let backend = Backend::start(move |stream, _| {
            let sender = sender.lock().expect("no panic").clone();
            serve(stream, &sender);
        });
        Self { addr: backend.addr, seen }
    }
}

fn serve(stream: TcpStream, sender: &Sender<Seen>) {
    let mut reader = BufReader::new(stream);
    loop {
        match read(&mut reader) {
            Ok(Request::Whole(seen)) => {
                let (head, target) = (seen.method == "HEAD", seen.target.clone());
                // Fails when the test is over.
                let _over = sender.send(seen);
                let length = target.len();
                let body = if head { "" } else { &target };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Ok(Request::Cut) => return,
            Err(Malformed(what)) => {
                let seen = Seen { method: "malformed".into(), target: what, host: String::new(), body: String::new() };
                let _over = sender.send(seen);
                return;
            }
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Result<Request, Malformed> {
    let Some(start) = line(reader)? else { return Ok(Request::Cut) };
    let parts: Vec<&str> = start.split(' ').collect();
    let &[method, target, "HTTP/1.1"] = &parts[..] else { return Err(Malformed(start)) };
    if method.is_empty() || target.is_empty() {
        return Err(Malformed(start));
    }
    let (mut hosts, mut lengths, mut codings) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let Some(field) = line(reader)? else { return Ok(Request::Cut) };
        if field.is_empty() {
            break;
        }
        let Some((name, value)) = field.split_once(':') else { return Err(Malformed(field)) };
        if !is_token(name) || value.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return Err(Malformed(field));
        }
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts.push(value),
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            // These become the fields above where a gateway writes names as variables (RFC 3875).
            "content_length" | "transfer_encoding" => return Err(Malformed(field)),
            _ => {}
        }
    }
    let mut body = Vec::new();
    match (&lengths[..], &codings[..]) {
        ([], []) => {}
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            let length: u64 = length.parse().map_err(|_| Malformed(length.clone()))?;
            let read = reader.take(length).read_to_end(&mut body);
            if read.is_err() || body.len() as u64 != length {
                return Ok(Request::Cut);
            }
        }
        ([], [coding]) if coding == "chunked" => {
            if !chunks(reader, &mut body)? {
                return Ok(Request::Cut);
            }
        }
        _ => return Err(Malformed(format!("{start}: lengths {lengths:?} and codings {codings:?}"))),
    }
    let seen = Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        host: hosts.join("|"),
        body: body.into_iter().map(char::from).collect(),
    };
    Ok(Request::Whole(seen))
}

/// Reads chunks and trailers; false if the connection ends before they do.
fn chunks(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Result<bool, Malformed> {
    loop {
        let Some(size) = line(reader)? else { return Ok(false) };
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Malformed(size));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|_| Malformed(size))?;
        if size == 0 {
            break;
        }
        let mut chunk = vec![0; size + 2];
        if reader.read_exact(&mut chunk).is_err() {
            return Ok(false);
        }
        if !chunk.ends_with(b"\r\n") {
            return Err(Malformed(String::from_utf8_lossy(&chunk).into_owned()));
        }
        body.extend_from_slice(&chunk[..size]);
    }
    loop {
        match line(reader)? {
            None => return Ok(false),
            Some(end) if end.is_empty() => return Ok(true),
            Some(field) => {
                let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
                let frames = ["host", "content-length", "transfer-encoding", "connection", "content_length"];
                if !is_token(&name) || frames.contains(&name.as_str()) {
                    return Err(Malformed(field));
                }
            }
        }
    }
}

/// A line without its CRLF; `None` at the end of the connection.
fn line(reader: &mut BufReader<TcpStream>) -> Result<Option<String>, Malformed> {
    let mut bytes = Vec::new();
    if reader.read_until(b'\n', &mut bytes).is_err() || !bytes.ends_with(b"\n") {
        return Ok(None);
    }
    let text: String = bytes.iter().map(|&b| char::from(b)).collect();
    match text.strip_suffix("\r\n") {
        Some(line) if !line.contains('\r') => Ok(Some(line.to_owned())),
        _ => Err(Malformed(text)),
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
