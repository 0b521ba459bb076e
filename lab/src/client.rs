//! A minimal client: one connection, one request after another, and who answered.

use crate::http2::{Heard, Part, Side, framed, message, value};
use crate::pod::Kind;
use evenkeel_wire::http2::settings::Role;
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// A response head or line longer than this is an error.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// One open connection of a client.
#[derive(Debug)]
pub struct Connection {
    line: Line,
    kind: Kind,
    /// Read, not yet consumed.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Line {
    Plain(TcpStream),
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Streams(Box<Side>),
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// HTTP status; 200 for a line or a message. Of gRPC: the call's status, or 200 if that is OK.
    pub status: u16,
    /// Name of the Pod that answered; empty if the answer is not a Pod's.
    pub pod: String,
    /// May another request follow on this connection?
    pub keep: bool,
}

/// How a connection came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// The client was told to come back (WebSocket Close 1001, 1012; GOAWAY).
    Asked,
    /// Without a word that says so.
    Lost,
}

impl Connection {
    /// Connects to a Pod, or to a proxy in front of Pods.
    ///
    /// # Errors
    /// Those of `connect`, or of the WebSocket handshake.
    pub async fn open(address: SocketAddr, kind: Kind) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let line = match kind {
            Kind::Http | Kind::Line => Line::Plain(stream),
            Kind::WebSocket => {
                let handshake = tokio_tungstenite::client_async(format!("ws://{address}/"), stream);
                Line::WebSocket(Box::new(handshake.await.map_err(io::Error::other)?.0))
            }
            Kind::Http2 | Kind::Grpc => Line::Streams(Box::new(Side::new(stream, Role::Client))),
        };
        Ok(Self { line, kind, buffer: Vec::new() })
    }

    /// Sends request `number` and waits for its answer.
    ///
    /// # Errors
    /// The connection broke, or what came is not an answer to this request. `Interrupted`: the client was
    /// told to come back.
    pub async fn ask(&mut self, number: u64) -> io::Result<Answer> {
        match self.kind {
            Kind::Http => {
                let request = format!("GET /{number} HTTP/1.1\r\nHost: demo\r\n\r\n");
                self.plain()?.write_all(request.as_bytes()).await?;
                self.http_answer().await
            }
            Kind::Line => {
                self.plain()?.write_all(format!("{number}\n").as_bytes()).await?;
                self.line_answer(number).await
            }
            Kind::WebSocket => self.message_answer(number).await,
            Kind::Http2 | Kind::Grpc => self.stream_answer(number).await,
        }
    }

    /// Waits, between two requests, until the other side closes or says something unasked.
    /// Cancelling it loses nothing.
    pub async fn closed(&mut self) -> Closed {
        match &mut self.line {
            Line::Plain(stream) => {
                // Whatever ends the wait (EOF, a reset, stray bytes), the connection is of no more use.
                let _ = stream.peek(&mut [0]).await;
                Closed::Lost
            }
            Line::WebSocket(socket) => match socket.next().await {
                Some(Ok(Message::Close(close))) => {
                    // Sends the answer to it, and sees to the end of the connection.
                    let _ = socket.close(None).await;
                    told(close.as_ref())
                }
                _ => Closed::Lost,
            },
            Line::Streams(side) => loop {
                match side.hear().await {
                    Ok(Heard::Goaway) => return Closed::Asked,
                    Ok(Heard::Over) | Err(_) => return Closed::Lost,
                    Ok(_) => {}
                }
            },
        }
    }

    fn plain(&mut self) -> io::Result<&mut TcpStream> {
        match &mut self.line {
            Line::Plain(stream) => Ok(stream),
            Line::WebSocket(_) | Line::Streams(_) => Err(invalid("frames are no plain connection")),
        }
    }

    async fn message_answer(&mut self, number: u64) -> io::Result<Answer> {
        let Line::WebSocket(socket) = &mut self.line else { return Err(invalid("no WebSocket")) };
        socket.send(Message::text(number.to_string())).await.map_err(io::Error::other)?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return answered(&text, number);
                }
                Some(Ok(Message::Close(close))) => {
                    let _ = socket.close(None).await;
                    return Err(match told(close.as_ref()) {
                        Closed::Asked => io::Error::new(io::ErrorKind::Interrupted, "told to come back"),
                        Closed::Lost => io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed: {close:?}")),
                    });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer")),
            }
        }
    }

    async fn stream_answer(&mut self, number: u64) -> io::Result<Answer> {
        let grpc = self.kind == Kind::Grpc;
        let Line::Streams(side) = &mut self.line else { return Err(invalid("no HTTP/2")) };
        let (path, mut fields) = (format!("/{number}"), vec![(":scheme", "http"), (":authority", "demo")]);
        fields.extend(match grpc {
            false => [(":method", "GET"), (":path", &*path)].to_vec(),
            true => [
                (":method", "POST"),
                (":path", "/demo.Pods/Ask"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ]
            .to_vec(),
        });
        let told = || io::Error::new(io::ErrorKind::Interrupted, "told to come back");
        let stream = side.request(&fields, !grpc).ok_or_else(told)?;
        if grpc && !side.data(stream, &framed(number.to_string().as_bytes()), true).await? {
            return Err(invalid("the call was not wanted"));
        }
        let (mut told, mut body) = (Vec::new(), Vec::new());
        loop {
            let end = match side.hear().await? {
                Heard::Fields(of, Part::Head | Part::Trailers, fields, end) if of == stream => {
                    told.extend(fields);
                    end
                }
                Heard::Data(of, data, end) if of == stream => {
                    body.extend_from_slice(&data);
                    end
                }
                Heard::Reset(of) if of == stream => return Err(invalid("the stream was reset")),
                Heard::Over => {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was complete"));
                }
                _ => false,
            };
            if end {
                break;
            }
        }
        let number_of = |name: &str| value(&told, name).parse::<u16>().ok();
        let status = number_of(":status").unwrap_or(0);
        if !grpc {
            return Ok(Answer { status, pod: value(&told, "x-pod").to_owned(), keep: true });
        }
        match (status, number_of("grpc-status")) {
            (200, Some(0)) => {
                let text = message(&body).and_then(|message| std::str::from_utf8(message).ok()).unwrap_or_default();
                answered(text, number)
            }
            (200, Some(status)) => Ok(Answer { status, pod: String::new(), keep: true }),
            _ => Err(invalid("an answer without a status of gRPC")),
        }
    }

    async fn http_answer(&mut self) -> io::Result<Answer> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(&self.buffer).map_err(|e| invalid(&format!("not an HTTP response: {e}")))? {
                httparse::Status::Complete(end) => {
                    let field = |name: &str| {
                        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                        found.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
                    };
                    let length = field("content-length")
                        .and_then(|value| value.parse::<usize>().ok())
                        .ok_or_else(|| invalid("a response without Content-Length"))?;
                    let answer = Answer {
                        status: head.code.unwrap_or(0),
                        pod: field("x-pod").unwrap_or_default().to_owned(),
                        keep: !field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
                    };
                    self.consume(end + length).await?;
                    return Ok(answer);
                }
                httparse::Status::Partial => self.more().await?,
            }
        }
    }

    async fn line_answer(&mut self, number: u64) -> io::Result<Answer> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = std::str::from_utf8(&line).map_err(|_| invalid("a line that is not text"))?;
                return answered(line.trim_end(), number);
            }
            self.more().await?;
        }
    }

    async fn consume(&mut self, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            self.more().await?;
        }
        self.buffer.drain(..length);
        Ok(())
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.buffer.len() > MAX_HEAD_BYTES {
            return Err(invalid("a response of more than 64 KiB"));
        }
        let Line::Plain(stream) = &mut self.line else { return Err(invalid("no plain connection")) };
        match stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was complete")),
            _ => Ok(()),
        }
    }
}

/// What a line or a message says.
fn answered(text: &str, number: u64) -> io::Result<Answer> {
    match text.split_once(' ') {
        Some((pod, echo)) if echo.parse() == Ok(number) => Ok(Answer { status: 200, pod: pod.to_owned(), keep: true }),
        _ => Err(invalid(&format!("{text:?} does not answer request {number}"))),
    }
}

/// Does the close code ask for another connection?
fn told(close: Option<&CloseFrame>) -> Closed {
    match close.map(|close| close.code) {
        Some(CloseCode::Away | CloseCode::Restart) => Closed::Asked,
        _ => Closed::Lost,
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{Behaviour, Fault, Pod};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn answers_name_their_pod_in_every_protocol() {
        for kind in [Kind::Http, Kind::Line, Kind::WebSocket, Kind::Http2, Kind::Grpc] {
            let pod = Pod::start("pod-7", kind, Behaviour::default()).unwrap();
            block_on(async {
                let mut connection = Connection::open(pod.addr(), kind).await.unwrap();
                for number in 0..3 {
                    let answer = connection.ask(number).await.unwrap();
                    assert_eq!(answer, Answer { status: 200, pod: "pod-7".into(), keep: true });
                }
            });
            assert_eq!((pod.counts().requests, pod.counts().connections), (3, 1));
        }
    }

    #[test]
    fn a_pod_that_stops_says_goaway_and_a_call_can_fail() {
        for (kind, status) in [(Kind::Http2, 503), (Kind::Grpc, 14)] {
            let pod = Pod::start("pod-1", kind, Behaviour { status: 503, ..Behaviour::default() }).unwrap();
            block_on(async {
                let mut connection = Connection::open(pod.addr(), kind).await.unwrap();
                assert_eq!(connection.ask(0).await.unwrap().status, status);
                pod.behave(Behaviour { body: 1 << 20, ..Behaviour::default() });
                assert_eq!(connection.ask(1).await.unwrap().pod, "pod-1");
                assert_eq!(pod.stop().responses, 2);
                assert_eq!(connection.closed().await, Closed::Asked);
            });
        }
    }

    #[test]
    fn a_truncated_answer_is_an_error_and_a_close_is_noticed() {
        let truncate = Behaviour { fault: Fault::Truncate, body: 100, ..Behaviour::default() };
        let pod = Pod::start("pod-1", Kind::Http, truncate).unwrap();
        block_on(async {
            let mut connection = Connection::open(pod.addr(), Kind::Http).await.unwrap();
            assert_eq!(connection.ask(0).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            pod.behave(Behaviour { fault: Fault::CloseAfter(1), ..Behaviour::default() });
            let mut connection = Connection::open(pod.addr(), Kind::Http).await.unwrap();
            assert!(connection.ask(1).await.unwrap().keep);
            connection.closed().await;
        });
    }
}
