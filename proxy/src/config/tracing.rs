//! The section `tracing`: where spans go, and how many.

use super::read::{Section, fraction};
use super::tls::{client_tls, is_host};
use super::{ClientTls, Protocol};
use crate::tls;
use evenkeel_upstream::yaml::{Node, Value};
use std::fmt;
use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Spans of turns, sent to a collector.
#[derive(Clone, PartialEq, Debug)]
pub struct Tracing {
    /// Where it takes OTLP.
    pub collector: Collector,
    /// How it is spoken to over TLS; `None`: in the clear.
    pub tls: Option<ClientTls>,
    /// Of the traces that begin here: the part that is recorded.
    pub sample: f64,
    /// `service.name` of the spans.
    pub service: String,
    /// Further fields of requests to the collector.
    pub headers: Vec<(String, String)>,
    /// How long the collector may take to answer.
    pub timeout: Duration,
    /// Spans that wait to be sent.
    pub queue: usize,
}

impl Tracing {
    /// Spans for this collector, every default filled in.
    pub fn new(collector: Collector) -> Self {
        let tls = collector.https.then(ClientTls::default);
        let (service, headers) = ("evenkeel".into(), Vec::new());
        Self { collector, tls, sample: 0.01, service, headers, timeout: Duration::from_secs(5), queue: 4096 }
    }

    /// What its collector is met with, over TLS.
    ///
    /// # Errors
    /// A file that cannot be read or used, named.
    pub(crate) fn client(&self) -> Result<Option<tls::Client>, String> {
        let client = |config| tls::client(config, Some(&self.collector.host), Protocol::Http1);
        self.tls.as_ref().map(client).transpose()
    }

    /// Makes relative paths relative to `directory`.
    pub(super) fn resolve(&mut self, directory: &Path) {
        if let Some(tls) = &mut self.tls {
            tls.resolve(directory);
        }
    }
}

/// The URL of a collector that takes OTLP over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collector {
    /// `https://`.
    pub https: bool,
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// 80 or 443 if the URL names none.
    pub port: u16,
    /// Where traces go.
    pub path: String,
}

/// Where traces go, below the URL of a collector.
const TRACES: &str = "/v1/traces";

impl Collector {
    /// Host and port as they are written.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}{}", if self.https { "s" } else { "" }, self.authority(), self.path)
    }
}

impl FromStr for Collector {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (https, rest) = match text.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| ())?),
            _ => (authority, if https { 443 } else { 80 }),
        };
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match address {
            Some(address) => address.parse::<Ipv6Addr>().map_err(|_| ())?.to_string(),
            None if is_host(host) => host.to_owned(),
            None => return Err(()),
        };
        let path = path.trim_end_matches('/');
        if port == 0 || !path.bytes().all(|byte| matches!(byte, 0x21..=0x7E) && byte != b'?' && byte != b'#') {
            return Err(());
        }
        let path = format!("{}{TRACES}", path.strip_suffix(TRACES).unwrap_or(path));
        Ok(Self { https, host, port, path })
    }
}

/// The section, or `off`.
pub(super) fn tracing(top: &mut Section<'_>) -> Option<Tracing> {
    if top.node.get("tracing").and_then(Node::text) == Some("off") {
        top.take("tracing");
        return None;
    }
    let mut found = None;
    top.section("tracing", |tracing| {
        const URL: &str = "the URL of a collector, such as http://127.0.0.1:4318";
        if tracing.node.get("otlp").is_none() {
            tracing.problem(tracing.node, "otlp", format!("missing: {URL}, or tracing: off"));
        }
        let collector = tracing.value("otlp", URL, |text| text.parse().ok());
        // The other keys are looked at even where there is no collector.
        let nowhere = Collector { https: false, host: String::new(), port: 0, path: String::new() };
        let known = collector.is_some();
        let mut config = Tracing::new(collector.unwrap_or(nowhere));
        if let Some(tls) = client_tls(tracing) {
            if known && !config.collector.https {
                let node = tracing.node.get("tls").unwrap_or(tracing.node);
                tracing.problem(node, "tls", "is for a collector with an https:// URL");
            }
            config.tls = Some(tls);
        }
        tracing.set("sample", &mut config.sample, "a fraction such as 1%", fraction);
        tracing.set("service", &mut config.service, "a name", |text| (!text.trim().is_empty()).then(|| text.into()));
        if let Some(node) = tracing.take("headers") {
            config.headers = headers(tracing, node);
        }
        tracing.duration("timeout", &mut config.timeout);
        tracing.set("queue", &mut config.queue, "a number from 1 to 1048576", |text| {
            text.parse().ok().filter(|n| (1..=1 << 20).contains(n))
        });
        found = known.then_some(config);
    });
    found
}

/// What evenkeel says itself.
const OURS: [&str; 6] = ["connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"];

fn headers(section: &Section<'_>, node: &Node) -> Vec<(String, String)> {
    let Value::Map(pairs) = &node.value else {
        section.problem(node, "headers", format!("expected a map of fields, found {}", node.kind()));
        return Vec::new();
    };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let mut fields = Vec::new();
    for (key, value) in pairs {
        let name = key.text().unwrap_or_default();
        let place = format!("headers.{name}");
        if name.is_empty() || !name.bytes().all(token) {
            section.problem(key, "headers", format!("{name:?} is no name of a field"));
        } else if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
            section.problem(key, &place, "evenkeel says this itself");
        } else {
            match value.text().filter(|text| text.bytes().all(|byte| matches!(byte, 0x20..=0x7E))) {
                Some(text) => fields.push((name.to_owned(), text.to_owned())),
                // It may be a secret: not repeated.
                None => section.problem(value, &place, "expected printable ASCII"),
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_are_urls() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector.observability:4318/", "http://collector.observability:4318/v1/traces"),
            ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
            ("https://otlp.example/tenant/7", "https://otlp.example:443/tenant/7/v1/traces"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
            ("http://[::1]", "http://[::1]:80/v1/traces"),
        ] {
            assert_eq!(text.parse::<Collector>().map(|url| url.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "grpc://a:4317",
            "http://",
            "http://:4318",
            "http://a:0",
            "http://a:x",
            "http://a:65536",
            "http://user@a:4318",
            "http://a:4318/?x=1",
            "http://a:4318/#x",
            "http://a b:4318",
            "http://[::1:4318",
        ] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
    }
}
