//! Every key, its default and why: the source of `docs/config.md`.

use std::fmt::Write;

/// One key of the configuration.
pub(super) struct Key {
    /// Where it stands; `services[].` keys belong to a service.
    pub(super) path: &'static str,
    /// What it takes.
    pub(super) takes: &'static str,
    /// As one would write it; empty: there is none, or the key is required.
    pub(super) default: &'static str,
    /// What it does, and why the default is what it is.
    pub(super) meaning: &'static str,
}

const fn key(path: &'static str, takes: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { path, takes, default, meaning }
}

/// In the order of the manual.
pub(super) const KEYS: &[Key] = &[
    key(
        "name",
        "name",
        "evenkeel",
        "What this evenkeel calls itself in `Via`, and its identity in rank order: give replicas different names if they serve few sessions each.",
    ),
    key(
        "admin",
        "address, `off`",
        "127.0.0.1:15090",
        "Where the admin API listens. Loopback: it shows clients and can drain endpoints.",
    ),
    key(
        "workers",
        "`auto`, 1 to 256",
        "auto",
        "Threads that move bytes. `auto`: the CPUs that the cgroup grants; more would only wait for each other.",
    ),
    key(
        "access_log",
        "`off`, `text`, `json`",
        "off",
        "One line a request on standard output. Off: it costs more than the request itself.",
    ),
    key(
        "tracing",
        "map, `off`",
        "off",
        "Takes part in traces (W3C Trace Context) and sends a span for each request of those that are recorded to a collector: [tracing.md](tracing.md). Off: `traceparent` and `tracestate` are passed on untouched.",
    ),
    key(
        "tracing.otlp",
        "URL",
        "",
        "Where the collector takes OTLP over HTTP: `http://127.0.0.1:4318`. Spans go to `/v1/traces` below it, as JSON.",
    ),
    key(
        "tracing.tls",
        "map, `on`",
        "",
        "For an `https://` URL, if it needs more than the system's roots: the keys of `services[].upstream.tls`. Its files are read when the configuration is.",
    ),
    key(
        "tracing.sample",
        "fraction",
        "1%",
        "Of the traces that begin here: the part that is recorded. Whether a trace that a request came with is recorded has been decided by who began it.",
    ),
    key("tracing.service", "name", "evenkeel", "`service.name` of the spans."),
    key(
        "tracing.headers",
        "map of fields",
        "",
        "Further fields of each request to the collector, such as `{authorization: 'Bearer …'}`.",
    ),
    key(
        "tracing.timeout",
        "duration",
        "5s",
        "How long the collector may take to answer. Nobody waits for it but the spans behind.",
    ),
    key(
        "tracing.queue",
        "count",
        "4096",
        "Spans that wait to be sent; further ones are dropped and counted. The longest waiting span has about 5 KiB.",
    ),
    key(
        "drain.grace",
        "duration",
        "30s",
        "From SIGTERM to the last cut: Kubernetes' own default for `terminationGracePeriodSeconds`.",
    ),
    key(
        "drain.delay",
        "duration, `off`",
        "5s",
        "From SIGTERM, when `/readyz` turns to 503, to the closing of listeners: who sends clients here learns of it late (kube-proxy, load balancers), and until then they are served. A part of the grace, at most half of it. Ctrl-C does not wait.",
    ),
    key("services", "list", "", "The services, at least one."),
    key("services[].name", "name", "", "Its name in metrics, logs and the admin API; each once."),
    key(
        "services[].listen",
        "address or list",
        "",
        "Where clients connect: `127.0.0.1:8080`, `[::]:8080`, `unix:///run/app.sock`.",
    ),
    key(
        "services[].target",
        "target or list",
        "",
        "Where its endpoints come from: `10.0.0.1:80,10.0.0.2:80;weight=2`, `file:///etc/endpoints.yaml`, `dns://catalog.shop.svc:8080`, `srv://_http._tcp.catalog.shop.svc`. Several are merged.",
    ),
    key(
        "services[].protocol",
        "`auto`, `http`, `http1`, `http2`, `grpc`, `websocket`, `tcp`",
        "auto",
        "What clients speak. `auto` looks at the first bytes of both sides and takes what is not HTTP for opaque. `http` is HTTP/1.1, or HTTP/2 by prior knowledge; `http1` and `http2` are one of the two. `grpc` is `http2`, `websocket` is `http`: upgrades are followed in either. What endpoints speak is said by `upstream.protocol`. Over TLS it is agreed on by ALPN, where `http` and `auto` offer both.",
    ),
    key(
        "services[].tls.cert",
        "path",
        "",
        "Clients come over TLS that ends here: the certificate chain, PEM. Paths are relative to this file. Changed files are read again within a second.",
    ),
    key("services[].tls.key", "path", "", "The private key of `cert`, PEM."),
    key(
        "services[].tls.certs",
        "list of `{cert, key}`",
        "",
        "Several certificates: the one that has the name which the client asks for (SNI), else the first.",
    ),
    key(
        "services[].tls.client_ca",
        "path",
        "",
        "Who signs the certificates of clients, PEM. Without it clients need none.",
    ),
    key(
        "services[].tls.client_auth",
        "`required`, `optional`",
        "required",
        "With `client_ca`: must a client have a certificate, or must it only be good if there is one?",
    ),
    key(
        "services[].tls.client_header",
        "field name",
        "",
        "Tells endpoints the subject of the client's certificate in this request field. What clients send under this name is dropped, certificate or not.",
    ),
    key("services[].tls.min_version", "`1.2`, `1.3`", "1.2", "Clients that know older versions only are refused."),
    key(
        "services[].sni",
        "name or list",
        "",
        "Only TLS clients that ask for one of these names (`a.example`, `*.a.example`). Several services can then listen on one address; one without `sni` gets the rest. Without `tls` the connection is passed on unread, and TLS ends at the endpoint.",
    ),
    key(
        "services[].accept_proxy",
        "network or list",
        "",
        "Clients from these networks (`10.0.0.0/8`) are proxies that begin with a PROXY header, version 1 or 2. From anywhere else such a header is not taken for one.",
    ),
    key(
        "services[].upstream.protocol",
        "`auto`, `http1`, `http2`",
        "auto",
        "What endpoints speak, if it is HTTP. `auto`: what their client speaks, and HTTP/2 for `protocol: http2` and `grpc`; but a client that agreed on HTTP/2 over TLS says nothing about them, so they are spoken to in HTTP/1.1 then, unless it is gRPC. With `upstream.tls` endpoints choose by ALPN what requests of HTTP/2 are passed on in. `http1` and `http2`: that, whatever clients speak; `http2` is spoken by prior knowledge, or agreed on by ALPN with `upstream.tls`.",
    ),
    key(
        "services[].upstream.tls",
        "map, `on`, `off`",
        "off",
        "Endpoints are spoken to over TLS. `on`: with the system's roots. Names are checked.",
    ),
    key("services[].upstream.tls.ca", "path, `system`", "system", "Who signs the certificates of endpoints, PEM."),
    key(
        "services[].upstream.tls.sni",
        "name",
        "",
        "The name that is asked for, and that the certificate must have. Without it: the name in a `dns://` target, else the address of the endpoint.",
    ),
    key("services[].upstream.tls.verify", "boolean", "true", "`false` believes whoever answers. For tests."),
    key("services[].upstream.tls.cert", "path", "", "Our own certificate, for endpoints that want one; with `key`."),
    key("services[].upstream.tls.key", "path", "", "Its private key."),
    key(
        "services[].upstream.send_proxy",
        "`v1`, `v2`, `off`",
        "off",
        "Each connection to an endpoint begins with a PROXY header that names the client. Such a connection is never used for another client: an HTTP client's next request opens a new one, unless it goes to the same endpoint.",
    ),
    key(
        "services[].upstream.connect_timeout",
        "duration",
        "1s",
        "Inside a cluster a connection takes a millisecond, or one lost SYN (1 s): longer means the endpoint is gone.",
    ),
    key(
        "services[].upstream.max_idle",
        "count",
        "1024",
        "Idle connections kept, for each worker and endpoint: as many as may be open, for closing one in order to open another costs both sides more than keeping it for `idle_timeout`.",
    ),
    key(
        "services[].upstream.idle_timeout",
        "duration",
        "60s",
        "An idle connection is closed after this: before most servers would (nginx: 75 s).",
    ),
    key(
        "services[].upstream.max_age",
        "duration, `off`",
        "off",
        "HTTP/2: how old a connection to an endpoint may become, give or take a tenth; then its requests are finished on it, and others go over a new one.",
    ),
    key(
        "services[].upstream.drain_grace",
        "duration",
        "30s",
        "An endpoint that leaves (terminating, gone from discovery, weight 0, drained by an operator) gets no new requests. WebSocket sessions on it are asked to come back (1012), spread over 80 % of this; opaque connections are closed at its end. Kubernetes gives a Pod 30 s.",
    ),
    key(
        "services[].upstream.max_connections",
        "count, `off`",
        "off",
        "Connections for each worker and endpoint; further requests and sessions wait in a queue. Off: a session needs one at a time, so `limits.sessions` bounds them.",
    ),
    key(
        "services[].balance.policy",
        "policy",
        "",
        "Who gets the next request or session: `peak-ewma` (the default for requests), `least-session` (the default for sessions), `least-request`, `round-robin`, `weighted`, `ring-hash`, `maglev`, and `random`: what a Service does, one draw per connection, as a baseline.",
    ),
    key(
        "services[].balance.slow_start",
        "duration, `off`",
        "10s",
        "A new endpoint begins with a tenth of its weight and gets all of it after this: caches and JITs are cold. Off by itself while most of the capacity is new.",
    ),
    key(
        "services[].balance.panic",
        "fraction",
        "50%",
        "When fewer endpoints than this are fit, all are used: the checks are then more likely wrong than the endpoints.",
    ),
    key(
        "services[].balance.affinity",
        "`source`, `{header: NAME}`, `{cookie: NAME}`",
        "source",
        "The key that `ring-hash` and `maglev` hash; the source address where the header or cookie is absent.",
    ),
    key(
        "services[].rebalance",
        "map, `off`",
        "",
        "When sessions that stay open (WebSocket) move to other endpoints: they are asked to come back (Close 1012). `off`: never, for clients that cannot reconnect. Without it, moving pauses for 10 minutes if most clients that were asked did not come back.",
    ),
    key(
        "services[].rebalance.skew",
        "1.01 to 100",
        "1.10",
        "Highest share ÷ fair share above which sessions move, until it is 1.03: chance alone makes 1.1 of 500 sessions an endpoint.",
    ),
    key(
        "services[].rebalance.moves_per_second",
        "fraction, number",
        "5%",
        "How many, as a part of all sessions or as a number. 5 %: three of five new endpoints are full after 12 s, and no endpoint is stormed.",
    ),
    key(
        "services[].rebalance.cool_down",
        "duration, `off`",
        "60s",
        "Sessions opened since the first move of the last so many seconds stay where they are: they are most likely those that were moved.",
    ),
    key(
        "services[].rebalance.per_endpoint",
        "rate",
        "50/s",
        "Sessions that one endpoint loses, at most: closing and opening costs it, too.",
    ),
    key(
        "services[].health.outlier.consecutive",
        "count, `off`",
        "5",
        "Failures in a row (no connection, broken connection, invalid answer, no answer in time, 5xx but 501 and 505) that eject an endpoint.",
    ),
    key(
        "services[].health.outlier.deviation",
        "1 to 100, `off`",
        "off",
        "Ejects an endpoint whose failure rate over 10 s is this many scaled median deviations above the median. Off: it needs 100 requests per endpoint in that time to mean something.",
    ),
    key(
        "services[].health.outlier.ejection",
        "duration",
        "30s",
        "First ejection, ± 20 %; the next ones are two, three … times as long.",
    ),
    key("services[].health.outlier.max_ejection", "duration", "300s", "Longest ejection."),
    key(
        "services[].health.outlier.max_ejected",
        "fraction",
        "10%",
        "Most endpoints ejected at once, at least one: passive checks must not take a service down.",
    ),
    key(
        "services[].health.check",
        "map",
        "",
        "An active check: `tcp: {}`, `http: {path: /ready, host: NAME, status: 200-399}` or `grpc: {service: NAME, host: NAME}` (`grpc.health.v1`, for which SERVING passes; without `service`, of the server as a whole), with the keys below. Without one, only requests show whether an endpoint is well.",
    ),
    key("services[].health.check.every", "duration", "5s", "How often, ± 10 %."),
    key("services[].health.check.timeout", "duration", "1s", "How long one check may take."),
    key(
        "services[].health.check.unhealthy",
        "count",
        "3",
        "Failures in a row that make an endpoint unhealthy (the first check counts at once).",
    ),
    key("services[].health.check.healthy", "count", "2", "Successes in a row that make it healthy again."),
    key(
        "services[].retry.attempts",
        "1 to 5",
        "2",
        "Tries in all. Two: the second goes to another endpoint; a third would rarely help and multiplies an outage.",
    ),
    key(
        "services[].retry.budget",
        "fraction",
        "20%",
        "Retries as a share of requests over 10 s: an outage grows by this much at most.",
    ),
    key("services[].retry.reserve", "per second", "1", "Retries that are allowed without traffic."),
    key(
        "services[].retry.on",
        "list of `connect`, `reset`, `unavailable`",
        "[connect]",
        "`connect`: no connection, the request never ran. `reset`: the connection broke before the first byte of an answer; idempotent requests only. `unavailable`: 503; idempotent requests only; or, whatever the method, a gRPC call whose whole answer is UNAVAILABLE, or the bare CANCELLED of a server that shuts down. A pooled connection that its server closed in the meantime is always replaced, for idempotent requests or if nothing was sent.",
    ),
    key(
        "services[].retry.buffer",
        "size",
        "64KiB",
        "Bytes of a request kept for a retry; larger requests are not tried again once sent.",
    ),
    key(
        "services[].timeouts.request",
        "duration, `off`",
        "15s",
        "From the end of a request to the first byte of its answer; then 504.",
    ),
    key(
        "services[].timeouts.idle",
        "duration",
        "1h",
        "A session on which nothing is said ends after this: connections are meant to stay open.",
    ),
    key(
        "services[].timeouts.first_byte",
        "duration",
        "5m",
        "A client of an `http` or `auto` service that says nothing (and whose server does not, either) is closed after this. Long, for pools and browsers connect ahead of need, and a silent session costs less than 1 KiB.",
    ),
    key(
        "services[].timeouts.header",
        "duration",
        "10s",
        "From the first byte of a request head to its end; then 408. Also what a PROXY header and a TLS handshake of a client may take.",
    ),
    key(
        "services[].timeouts.stall",
        "duration",
        "5m",
        "How long what waits for the window of an HTTP/2 stream may wait without any of it getting on, in either direction; then the stream is reset with `CANCEL`. What waits is `limits.buffer` at most, and 1 MiB for a session.",
    ),
    key(
        "services[].timeouts.ping",
        "duration, `off`",
        "5m",
        "HTTP/2: a connection with requests under way, of a client or to an endpoint, on which its peer says nothing for so long is sent a PING, and is closed if that is not answered within as long again (ten seconds at most). gRPC servers take more than one in five minutes for abuse unless told otherwise.",
    ),
    key(
        "services[].timeouts.max_age",
        "duration, `off`",
        "off",
        "HTTP/2: how old a client's connection may become, give or take a tenth; then it is told to go (GOAWAY) and its requests are finished. Without need here, where each request finds its endpoint; for load balancers in front of several evenkeels.",
    ),
    key(
        "services[].timeouts.max_stream_age",
        "duration, `off`",
        "off",
        "gRPC: how old a call may become, give or take a tenth; then it ends with status 14 (UNAVAILABLE) and `grpc-retry-pushback-ms`, so that its client begins another, which finds an endpoint of its own. For streams that would stay where they are for ever.",
    ),
    key(
        "services[].timeouts.detect",
        "duration",
        "5ms",
        "How long `protocol: auto` waits for a client that says nothing before it connects to an endpoint, to see whether the server speaks first. Not done where `upstream.protocol` says that endpoints speak HTTP.",
    ),
    key(
        "services[].limits.sessions",
        "count",
        "10000",
        "Client connections at once; further ones get 503 if they speak HTTP, and are closed.",
    ),
    key(
        "services[].limits.sessions_per_source",
        "count, `off`",
        "off",
        "Of these, from one client address (IPv6: from one /64); further ones get the same. Clients of Unix sockets have none and are not counted so. Off: behind a gateway or a sidecar all clients have one address.",
    ),
    key(
        "services[].limits.upgrades",
        "count, `off`",
        "off",
        "Upgraded sessions (WebSocket) at once; more is 503. Off: `limits.sessions` bounds them.",
    ),
    key(
        "services[].limits.upgrade_rate",
        "rate, `off`",
        "500/s",
        "Upgrades let in per second for each endpoint that can be used. When everybody comes back at the same time, they wait their turn: a handshake costs an endpoint more than most messages.",
    ),
    key(
        "services[].limits.upgrade_wait",
        "duration",
        "5s",
        "How long an upgrade may wait for its turn; who would have to wait longer gets 503 with `Retry-After`. Less than the 10 s after which most clients give up.",
    ),
    key("services[].limits.body_bytes", "size, `off`", "off", "A request body; more is 413."),
    key(
        "services[].limits.body_rate",
        "size per second, `off`",
        "100",
        "A request body must come this fast on the average, after 10 s; slower is 408. Time in which the endpoint is the slower one does not count.",
    ),
    key("services[].limits.header_bytes", "size", "64KiB", "A head, start line included; more is 431."),
    key("services[].limits.header_fields", "1 to 256", "100", "Fields of a head; more is 431."),
    key(
        "services[].limits.uri_bytes",
        "size",
        "8KiB",
        "A request target; more is 414 (RFC 9112 recommends 8,000 at least).",
    ),
    key(
        "services[].limits.streams",
        "1 to 10000",
        "100",
        "Requests at once of one HTTP/2 session; further ones are refused with `REFUSED_STREAM`, and clients that know the limit wait. RFC 9113 recommends 100 at least.",
    ),
    key(
        "services[].limits.queue",
        "count",
        "1024",
        "Requests of a service that may wait for a connection, in each worker; more is 503.",
    ),
    key("services[].limits.queue_timeout", "duration", "1s", "How long one waits; then 503."),
    key(
        "services[].limits.buffer",
        "size",
        "64KiB",
        "Bytes kept for a side that does not read; above it the other side is not read from either.",
    ),
    key(
        "services[].http.via",
        "boolean",
        "false",
        "Adds `Via`, which makes loops visible (RFC 9110, section 7.6.3). Off: nginx and IIS compress nothing for requests that have it.",
    ),
    key(
        "services[].http.x_forwarded",
        "`keep`, `append`, `replace`, `remove`",
        "append",
        "`X-Forwarded-For` and `-Proto` (`Host` itself is passed on as it came). `append` believes what clients say: use `replace` at the edge of a trusted network.",
    ),
    key(
        "services[].http.forwarded",
        "`keep`, `append`, `replace`, `remove`",
        "keep",
        "`Forwarded` (RFC 7239). `keep`: few servers read it.",
    ),
    key(
        "services[].grpc.health",
        "`true`, `false`",
        "false",
        "Whether evenkeel answers `grpc.health.v1` itself, for this service by its name or by none: SERVING while it has an endpoint to use and does not leave. If not, these calls pass like any others.",
    ),
    key(
        "services[].http.reason",
        "boolean",
        "true",
        "Adds `Evenkeel-Reason: cause; phase=…` to answers that evenkeel made itself.",
    ),
];

/// A complete example; a test parses it.
pub(super) const EXAMPLE: &str = "\
admin: 127.0.0.1:15090
drain: { grace: 30s, delay: 5s }
services:
  - name: catalog
    listen: 127.0.0.1:8080
    target: dns://catalog.shop.svc:8080
    health:
      check: { http: { path: /ready }, every: 5s }
    retry: { attempts: 2, budget: 20%, on: [connect, reset] }
  - name: cache
    listen: [127.0.0.1:6379, 'unix:///run/cache.sock']
    target: file:///etc/evenkeel/cache.yaml
    protocol: tcp
";

/// `docs/config.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Generated from the program by `cargo xtask generate`; a test compares them.\n\n\
         `evenkeel check FILE` reads a file and says everything that is wrong with it, with line and column.\n\
         Durations are written `250ms`, `30s`, `5m`, `1h`, `1d`; sizes `64KiB`, `1MiB`, `16KB` or bytes; fractions `20%` or `0.2`.\n\
         Unknown keys are errors. A file may have one megabyte; YAML aliases are not read.\n\n```yaml\n",
    );
    text.push_str(EXAMPLE);
    text.push_str("```\n\n| Key | Takes | Default | What and why |\n|---|---|---|---|\n");
    for key in KEYS {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        // Writing into a string cannot fail.
        let _infallible = writeln!(text, "| `{}` | {} | {default} | {} |", key.path, key.takes, key.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_example_is_valid() {
        parse("example", EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    }

    #[test]
    fn the_manual_is_the_one_of_this_program() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
        let manual = std::fs::read_to_string(path).unwrap_or_default();
        assert!(manual == reference(), "docs/config.md is out of date: run cargo xtask generate");
    }

    /// Sections that a key cannot stand in alone, and what must be beside it.
    const BESIDE: [(&str, &str); 4] = [
        ("tracing", "otlp: 'http://127.0.0.1:4318'"),
        ("services[].health.check", "tcp: {}"),
        ("services[].tls", "cert: a, key: b, client_ca: c"),
        ("services[].upstream.tls", "ca: system"),
    ];

    /// Writes a key as YAML: `a.b[].c` with `value` becomes nested maps. `None`: only what must be beside it.
    fn yaml(path: &str, value: Option<&str>) -> String {
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        let key = path.rsplit_once('.').map_or(path, |(_, key)| key);
        let beside = BESIDE.iter().find(|&&(known, _)| known == section).map(|&(_, beside)| beside);
        let mut inner = match (beside, value) {
            (Some(beside), Some(value)) if beside.contains(&format!("{key}:")) => format!("{key}: {value}"),
            (Some(beside), Some(value)) => format!("{beside}, {key}: {value}"),
            (Some(beside), None) => beside.into(),
            (None, Some(value)) => format!("{key}: {value}"),
            (None, None) => String::new(),
        };
        if !inner.is_empty() {
            let parts = section.trim_start_matches("services[]").split('.').rev().filter(|part| !part.is_empty());
            parts.for_each(|part| inner = format!("{part}: {{{inner}}}"));
        }
        let base = "services: [{name: a, listen: '127.0.0.1:80', target: '10.0.0.1:80'";
        if path.starts_with("services[]") { format!("{base}, {inner}}}]") } else { format!("{base}}}]\n{inner}") }
    }

    #[test]
    fn every_documented_default_is_the_default() {
        for key in KEYS.iter().filter(|k| !k.default.is_empty()) {
            let read = |value| parse("it", &yaml(key.path, value)).unwrap_or_else(|e| panic!("{}: {e}", key.path));
            assert_eq!(read(Some(key.default)), read(None), "{}", key.path);
        }
    }
}
