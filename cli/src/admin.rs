//! A client of the admin API of a running evenkeel.

use evenkeel_proxy::config::DEFAULT_ADMIN;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take. Workers have a second to say how old their sessions are.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Where an evenkeel is asked.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Admin {
    /// Where its admin API listens: HOST:PORT, or http://HOST:PORT
    #[arg(long = "admin", value_name = "ADDRESS", default_value = DEFAULT_ADMIN, value_parser = address)]
    address: String,
}

/// `host:port`, however it was written.
fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match bare.rsplit_once(':') {
        _ if bare.contains('/') => Err("expected HOST:PORT, or http://HOST:PORT".into()),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(bare.into()),
        _ => Err("expected HOST:PORT, or http://HOST:PORT".into()),
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody is there, or what is there speaks otherwise.
    Unreachable { address: String, error: String },
    /// It said no, and why.
    Refused { error: String, remedy: String, near: Vec<String> },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, error } => {
                write!(f, "no evenkeel answers at {address} ({error}): is one running, and is --admin its address?")
            }
            Self::Refused { error, near, .. } if !near.is_empty() => {
                write!(f, "{error}: did you mean {}?", near.join(" or "))
            }
            Self::Refused { error, remedy, .. } => write!(f, "{error}: {remedy}"),
        }
    }
}

impl Admin {
    /// The JSON document at `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Error> {
        let answer = async {
            let (response, _connection) = self.ask(path).await?;
            self.read(response).await
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(self.unreachable("it takes too long")))
    }

    /// The stream of moments at `path`.
    pub(crate) async fn follow(&self, path: &str) -> Result<Moments, Error> {
        let asked = timeout(PATIENCE, self.ask(path)).await;
        let (response, connection) = asked.unwrap_or_else(|_| Err(self.unreachable("it takes too long")))?;
        if response.status() != StatusCode::OK {
            return Err(match timeout(PATIENCE, self.read(response)).await {
                Ok(Err(error)) => error,
                _ => self.unreachable("it answers, but not as an evenkeel does"),
            });
        }
        let (admin, body) = (self.clone(), response.into_body());
        Ok(Moments { admin, body, buffer: Vec::new(), _connection: connection })
    }

    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, Connection), Error> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unreachable(e))?;
        // It ends with the sender; what goes wrong is seen in the answer.
        let connection = Connection(tokio::spawn(async move { drop(connection.await) }));
        let request = Request::get(path).header(HOST, &self.address).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| self.unreachable(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.unreachable(error))?;
        Ok((response, connection))
    }

    /// The document of an answer, or what a refusal says.
    async fn read(&self, response: Response<Incoming>) -> Result<Value, Error> {
        let status = response.status();
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = limited.collect().await.map_err(|error| self.unreachable(error))?.to_bytes();
        let value: Option<Value> = serde_json::from_slice(&body).ok();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match value {
            Some(value) if status == StatusCode::OK => Ok(value),
            Some(value) if text(&value["error"]).is_some() => Err(Error::Refused {
                error: text(&value["error"]).unwrap_or_default(),
                remedy: text(&value["remedy"]).unwrap_or_default(),
                near: value["did_you_mean"].as_array().into_iter().flatten().filter_map(text).collect(),
            }),
            _ => Err(self.unreachable("it answers, but not as an evenkeel does")),
        }
    }

    fn unreachable(&self, error: impl fmt::Display) -> Error {
        Error::Unreachable { address: self.address.clone(), error: error.to_string() }
    }
}

/// The task that drives a connection; it ends with the answer that is read from it.
#[derive(Debug)]
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Server-sent events, one moment each.
#[derive(Debug)]
pub(crate) struct Moments {
    admin: Admin,
    body: Incoming,
    buffer: Vec<u8>,
    _connection: Connection,
}

impl Moments {
    /// The next moment. They come once a second: silence is an error.
    pub(crate) async fn next(&mut self) -> Result<Value, Error> {
        let read = async {
            loop {
                if let Some(data) = event(&mut self.buffer) {
                    return serde_json::from_str(&data).map_err(|error| error.to_string());
                }
                match self.body.frame().await {
                    Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("it ended the stream".into()),
                }
                if self.buffer.len() > MAX_ANSWER_BYTES {
                    return Err("it never ends a message".into());
                }
            }
        };
        let read = timeout(PATIENCE, read).await.unwrap_or_else(|_| Err("it fell silent".into()));
        read.map_err(|error| self.admin.unreachable(error))
    }
}

/// Takes the first whole event that has data out of the buffer (WHATWG HTML, section 9.2.6; our server
/// ends lines with LF).
fn event(buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let lines: Vec<u8> = buffer.drain(..end + 2).collect();
        let lines = String::from_utf8_lossy(&lines);
        let data: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("data:")).collect();
        if !data.is_empty() {
            return Some(data.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_scheme() {
        for good in ["127.0.0.1:15090", "http://127.0.0.1:15090", "http://127.0.0.1:15090/", "[::1]:1", "pod-1:80"] {
            assert!(address(good).is_ok_and(|a| good.contains(&a) && !a.contains('/')), "{good}");
        }
        for bad in ["", "127.0.0.1", ":80", "https://127.0.0.1:15090", "http://a:80/x", "a:70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn events_are_taken_one_by_one_and_comments_skipped() {
        let mut buffer = b":\n\nevent: moment\nid: 1\ndata: {\"a\":\ndata: 1}\n\ndata: 2\n".to_vec();
        assert_eq!(event(&mut buffer).as_deref(), Some("{\"a\":\n1}"));
        assert_eq!(event(&mut buffer), None, "not whole yet");
        buffer.push(b'\n');
        assert_eq!(event(&mut buffer).as_deref(), Some("2"));
        assert!(buffer.is_empty());
    }
}
