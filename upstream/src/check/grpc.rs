//! `grpc.health.v1.Health/Check`, over HTTP/2 by our own engine.

use evenkeel_core::time::Instant;
use evenkeel_wire::grpc::health::{CHECK, Health, request, said};
use evenkeel_wire::grpc::status;
use evenkeel_wire::http2::connection::{Connection, Event};
use evenkeel_wire::http2::forward::grpc_status;
use evenkeel_wire::http2::hpack::Form;
use evenkeel_wire::http2::settings::{Config, Role};
use evenkeel_wire::out::Out;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of an answer's body that are looked at; more is no answer to this question.
const ANSWER: usize = 1024;
/// Bytes read at once.
const READ: usize = 4096;

/// Asks for the health of a service. Whoever calls sees to it that it takes no longer than it may.
pub(super) async fn check(
    service: &str,
    scheme: &str,
    authority: &str,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> Result<(), String> {
    let (mut bytes, mut input) = (Vec::new(), Vec::new());
    // Time is kept outside: no timeout of the connection is looked at.
    let mut connection = Connection::new(Role::Client, &Config::default(), &mut Out::new(&mut bytes), Instant::ZERO);
    let opened = connection.request(false, &mut Out::new(&mut bytes), |writer| {
        for (name, value) in [
            (":method", "POST"),
            (":scheme", scheme),
            (":path", CHECK),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "evenkeel-check"),
        ] {
            writer.put(name, value.as_bytes(), Form::Indexed);
        }
    });
    let Some(own) = opened else { return Err("there is no room for a stream".into()) };
    let asks = request(service);
    let mut out = Out::new(&mut bytes);
    // A new stream has a window of 64 KiB (RFC 9113, section 6.9.2), and no name is that long.
    connection.data(own, &asks, true, &mut out, Instant::ZERO);
    out.spill();
    let mut answer = Answer::default();
    let mut read = [0; READ];
    loop {
        stream.write_all(&bytes).await.map_err(|e| format!("cannot send: {e}"))?;
        bytes.clear();
        match stream.read(&mut read).await.map_err(|e| format!("cannot read: {e}"))? {
            0 => return Err("the endpoint closed its connection before it answered".into()),
            n => input.extend_from_slice(&read[..n]),
        }
        let mut rest = &input[..];
        while let Some(event) = connection.recv(&mut rest, &mut Out::new(&mut bytes), Instant::ZERO) {
            match event {
                Event::Fields { status, fields, end, .. } => {
                    if status >= 200 {
                        answer.status = status;
                    }
                    answer.grpc_status = grpc_status(fields).or(answer.grpc_status);
                    let message =
                        fields.iter().find(|field| field.name() == b"grpc-message").map(|field| field.value());
                    answer.message = message.map_or(answer.message, |text| String::from_utf8_lossy(text).into());
                    if end {
                        return answer.verdict();
                    }
                }
                Event::Data { data, end, .. } => {
                    answer.body.extend_from_slice(data);
                    if answer.body.len() > ANSWER {
                        return Err("the answer is too long".into());
                    }
                    if end {
                        return answer.verdict();
                    }
                }
                Event::Reset { code, .. } => return Err(format!("the endpoint reset the call: {code:?}")),
                Event::Over(failure) => return Err(format!("the answer was not HTTP/2: {}", failure.what)),
                Event::Ready | Event::Pong | Event::Goaway(_) | Event::TooLarge { .. } | Event::Refused(_) => {}
            }
        }
        let used = input.len() - rest.len();
        input.drain(..used);
    }
}

/// What came of an answer.
#[derive(Default)]
struct Answer {
    status: u16,
    grpc_status: Option<u8>,
    message: String,
    body: Vec<u8>,
}

impl Answer {
    fn verdict(self) -> Result<(), String> {
        match (self.status, self.grpc_status) {
            (200, Some(status::OK)) => match said(&self.body) {
                Some(Health::Serving) => Ok(()),
                Some(other) => Err(format!("it is {}", other.as_str())),
                None => Err("the answer was no HealthCheckResponse".into()),
            },
            (200, Some(status::UNIMPLEMENTED)) => Err("the endpoint has no grpc.health.v1.Health".into()),
            (200, Some(status::NOT_FOUND)) => Err("the endpoint knows no service of this name".into()),
            (200, Some(status)) if self.message.is_empty() => Err(format!("gRPC status {status}")),
            (200, Some(status)) => Err(format!("gRPC status {status}: {}", self.message)),
            (status, _) => Err(format!("status {status} of HTTP, and none of gRPC")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evenkeel_wire::grpc::health::response;

    #[test]
    fn only_serving_passes() {
        let verdict = |status, grpc_status, body: &[u8]| {
            Answer { status, grpc_status, message: "why".into(), body: body.to_vec() }.verdict()
        };
        let of = |health| verdict(200, Some(0), &response(health)).err();
        assert_eq!(of(Health::Serving), None);
        assert_eq!(of(Health::NotServing).as_deref(), Some("it is NOT_SERVING"));
        assert_eq!(of(Health::Unknown).as_deref(), Some("it is UNKNOWN"));
        for (status, grpc_status, said) in [
            (200, Some(0), "the answer was no HealthCheckResponse"),
            (200, Some(12), "the endpoint has no grpc.health.v1.Health"),
            (200, Some(5), "the endpoint knows no service of this name"),
            (200, Some(14), "gRPC status 14: why"),
            (404, None, "status 404 of HTTP, and none of gRPC"),
            (503, Some(0), "status 503 of HTTP, and none of gRPC"),
        ] {
            assert_eq!(verdict(status, grpc_status, b"").err().as_deref(), Some(said));
        }
    }
}
