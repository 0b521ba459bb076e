//! From YAML to a checked configuration: every value in range, every key known, every problem found.

use super::read::{Found, Problem, Problems, Section, duration, fraction, size, suggest};
use super::tls::{client_tls, is_host, server_tls};
use super::tracing::tracing;
use super::{AccessLog, Affinity, Config, Forwarding, Network, Protocol, Service, UpstreamProtocol};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::{Pace, Policy};
use evenkeel_upstream::check::{self, Kind};
use evenkeel_upstream::target::Target;
use evenkeel_upstream::yaml::{self, Node};
use evenkeel_wire::edge::ProxyVersion;
use std::path::Path;
use std::time::Duration;

/// Where the admin API listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "127.0.0.1:15090";

/// Reads a configuration file.
///
/// # Errors
/// Everything that is wrong with it; or that it cannot be read.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => parse_in(&file, &text, Some(path.parent().unwrap_or(Path::new("")))),
        Err(error) => {
            let message = format!("cannot be read: {error}");
            Err(Problems { file, problems: vec![Problem { line: 1, column: 1, path: String::new(), message }] })
        }
    }
}

/// Reads a configuration; `file` is what errors call it. Files that it names are not looked at.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Config, Problems> {
    parse_in(file, text, None)
}

/// With a directory, paths are relative to it, and the files are looked at.
fn parse_in(file: &str, text: &str, directory: Option<&Path>) -> Result<Config, Problems> {
    let found = Found::default();
    let fail = |problems| Problems { file: file.into(), problems };
    let documents = yaml::parse(text).map_err(|bad| {
        fail(vec![Problem { line: bad.line, column: bad.column, path: String::new(), message: bad.message }])
    })?;
    let nothing = Problem { line: 1, column: 1, path: String::new(), message: "no services: nothing to do".into() };
    let root = match documents.as_slice() {
        [root] if !root.is_null() => root,
        [] | [_] => return Err(fail(vec![nothing])),
        [_, second, ..] => {
            found.add(second, "", "a second document: put everything into one");
            return Err(fail(found.into_problems()));
        }
    };
    let config = config(root, directory, &found);
    let problems = found.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ if problems.is_empty() => Err(fail(vec![nothing])),
        _ => Err(fail(problems)),
    }
}

fn config(root: &Node, directory: Option<&Path>, found: &Found) -> Option<Config> {
    let mut top = Section::open(root, "", found)?;
    let mut config = Config { admin: DEFAULT_ADMIN.parse().ok(), ..Config::new() };
    top.set("name", &mut config.name, "a name of letters, digits, - and _", |text| {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (!text.is_empty() && text.bytes().all(token)).then(|| text.into())
    });
    top.set("admin", &mut config.admin, "an address such as 127.0.0.1:15090, or off", |text| match text {
        "off" => Some(None),
        _ => text.parse().ok().map(Some),
    });
    top.set("workers", &mut config.workers, "auto, or a number from 1 to 256", |text| match text {
        "auto" => Some(None),
        _ => text.parse().ok().filter(|n| (1..=256).contains(n)).map(Some),
    });
    top.set("access_log", &mut config.access_log, "off, text or json", |text| match text {
        "off" => Some(None),
        "text" => Some(Some(AccessLog::Text)),
        "json" => Some(Some(AccessLog::Json)),
        _ => None,
    });
    config.tracing = tracing(&mut top);
    if let (Some(directory), Some(tracing)) = (directory, &mut config.tracing) {
        tracing.resolve(directory);
        if let Err(error) = tracing.client() {
            let node = root.get("tracing");
            top.problem(
                node.and_then(|node| node.get("tls").or(node.get("otlp"))).unwrap_or(root),
                "tracing.tls",
                error,
            );
        }
    }
    top.section("drain", |drain| {
        drain.duration("grace", &mut config.drain.grace);
        drain.set("delay", &mut config.drain.delay, "a duration such as 5s, or off", |text| match text {
            "off" => Some(Duration::ZERO),
            _ => duration(text),
        });
    });
    match top.take("services") {
        None => top.problem(root, "services", "missing: a list with at least one service"),
        Some(node) => match node.list() {
            None => top.problem(node, "services", format!("expected a list, found {}", node.kind())),
            Some([]) => top.problem(node, "services", "empty: there is nothing to do"),
            Some(services) => {
                for (i, node) in services.iter().enumerate() {
                    config.services.extend(service(node, i, directory, found));
                }
                cross_check(services, &config, found);
            }
        },
    }
    top.finish();
    Some(config)
}

/// What no service can see alone.
fn cross_check(nodes: &[Node], config: &Config, found: &Found) {
    for (i, service) in config.services.iter().enumerate() {
        let before = &config.services[..i];
        let place = |key: &str| nodes.get(i).map(|n| n.get(key).unwrap_or(n));
        if before.iter().any(|s| s.name == service.name)
            && let Some(node) = place("name")
        {
            found.add(node, &format!("services[{i}].name"), format!("there is another service {:?}", service.name));
        }
        for address in &service.listen {
            let fixed = !matches!(address, Address::Ip(addr) if addr.port() == 0);
            // By name several can share an address, and one of them may be for all other names.
            let apart = |other: &Service| other.sni.iter().all(|name| !service.sni.contains(name));
            let shares = |other: &Service| (!other.sni.is_empty() || !service.sni.is_empty()) && apart(other);
            if fixed
                && let Some(other) = before.iter().find(|s| s.listen.contains(address) && !shares(s))
                && let Some(node) = place("listen")
            {
                let message = format!("service {:?} listens on {address} already: two can share it by sni", other.name);
                found.add(node, &format!("services[{i}].listen"), message);
            }
            if fixed
                && let Some(other) = before.iter().find(|s| s.listen.contains(address))
                && other.accept_proxy != service.accept_proxy
                && let Some(node) = place("accept_proxy")
            {
                let message = format!("must be that of service {:?}, with which it shares {address}", other.name);
                found.add(node, &format!("services[{i}].accept_proxy"), message);
            }
        }
    }
}

fn service(node: &Node, index: usize, directory: Option<&Path>, found: &Found) -> Option<Service> {
    let mut section = Section::open(node, format!("services[{index}]"), found)?;
    let mut service = Service::new("", Vec::new(), Vec::new());
    match section.take("name") {
        None => section.problem(node, "name", "missing: every service has a name"),
        Some(_) => section.set("name", &mut service.name, "a name", |t| (!t.trim().is_empty()).then(|| t.into())),
    }
    service.listen = one_or_more(&mut section, "listen", |text| {
        text.parse::<Address>().map_err(|error| match text.parse::<u16>() {
            Ok(port) => format!("expected an address: write 127.0.0.1:{port}, or 0.0.0.0:{port} for everybody"),
            Err(_) => error.to_string(),
        })
    });
    service.targets = one_or_more(&mut section, "target", |text| text.parse::<Target>().map_err(|e| e.to_string()));
    if let Some(protocol) = protocol(&mut section) {
        service.protocol = protocol;
    }
    service.tls = server_tls(&mut section);
    if section.node.get("sni").is_some() {
        service.sni = one_or_more(&mut section, "sni", |text| match text.strip_prefix("*.").unwrap_or(text) {
            name if is_host(name) => Ok(text.to_ascii_lowercase()),
            _ => Err("expected a name such as a.example or *.a.example".into()),
        });
    }
    if section.node.get("accept_proxy").is_some() {
        service.accept_proxy = one_or_more(&mut section, "accept_proxy", |text| text.parse::<Network>());
    }
    upstream(&mut section, &mut service);
    balance(&mut section, &mut service);
    section.section("health", |health| self::health(health, &mut service));
    retry(&mut section, &mut service);
    section.section("timeouts", |timeouts| {
        let limits = &mut service.timeouts;
        timeouts.set("request", &mut limits.request, "a duration such as 15s, or off", optional_duration);
        timeouts.duration("idle", &mut limits.idle);
        timeouts.duration("first_byte", &mut limits.first_byte);
        timeouts.duration("stall", &mut limits.stall);
        timeouts.set("ping", &mut limits.ping, "a duration such as 5m, or off", optional_duration);
        timeouts.set("max_age", &mut limits.max_age, "a duration such as 1h, or off", optional_duration);
        timeouts.set("max_stream_age", &mut limits.max_stream_age, "a duration such as 1h, or off", optional_duration);
        timeouts.duration("header", &mut limits.header);
        timeouts.duration("detect", &mut limits.detect);
    });
    section.section("limits", |limits| {
        let l = &mut service.limits;
        limits.count("sessions", &mut l.sessions, 1);
        limits.set(
            "sessions_per_source",
            &mut l.sessions_per_source,
            "a whole number from 1 up, or off",
            number_or_off,
        );
        limits.set("upgrades", &mut l.upgrades, "a whole number from 1 up, or off", number_or_off);
        limits.set("upgrade_rate", &mut l.upgrade_rate, "a rate such as 500/s, or off", |text| match text {
            "off" => Some(None),
            _ => rate(text).map(Some),
        });
        limits.duration("upgrade_wait", &mut l.upgrade_wait);
        limits.set("body_bytes", &mut l.body_bytes, "a size such as 10MiB, or off", |text| match text {
            "off" => Some(None),
            _ => size(text).map(|n| Some(n as u64)),
        });
        limits.set("body_rate", &mut l.body_rate, "bytes per second such as 100, or off", |text| match text {
            "off" => Some(None),
            _ => size(text.strip_suffix("/s").unwrap_or(text)).filter(|&n| n > 0).map(|n| Some(n as u64)),
        });
        limits.size("header_bytes", &mut l.header_bytes, 1024..=16 << 20);
        limits.set("header_fields", &mut l.header_fields, "a number from 1 to 256", |text| {
            text.parse().ok().filter(|n| (1..=256).contains(n))
        });
        limits.size("uri_bytes", &mut l.uri_bytes, 64..=1 << 20);
        limits.set("streams", &mut l.streams, "a number from 1 to 10000", |text| {
            text.parse().ok().filter(|n| (1..=10_000).contains(n))
        });
        limits.count("queue", &mut l.queue, 0);
        limits.duration("queue_timeout", &mut l.queue_timeout);
        limits.size("buffer", &mut l.buffer, 4096..=64 << 20);
    });
    section.section("http", |http| {
        http.boolean("via", &mut service.http.via);
        http.set("x_forwarded", &mut service.http.x_forwarded, "keep, append, replace or remove", forwarding);
        http.set("forwarded", &mut service.http.forwarded, "keep, append, replace or remove", forwarding);
        http.boolean("reason", &mut service.http.reason);
    });
    section.section("grpc", |grpc| grpc.boolean("health", &mut service.grpc_health));
    rebalance(&mut section, &mut service);
    section.later("postgres");
    edge(&section, &service);
    if let Some(directory) = directory {
        service.resolve(directory);
        check_files(&section, &service);
    }
    section.finish();
    Some(service)
}

/// What TLS and the rest of a service make impossible for each other.
fn edge(section: &Section<'_>, service: &Service) {
    let problem = |key: &str, message: &str| {
        section.problem(section.node.get(key).unwrap_or(section.node), key, message);
    };
    let http = matches!(service.protocol, Protocol::Http | Protocol::Http1 | Protocol::Http2);
    if !service.sni.is_empty() && service.tls.is_none() && http {
        problem("sni", "http needs tls here: without it TLS is passed on unread (protocol: tcp or auto)");
    }
    let tcp = service.protocol == Protocol::Tcp;
    if tcp && service.tls.as_ref().is_some_and(|tls| tls.client_header.is_some()) {
        problem("tls", "client_header: tcp has no fields: use protocol http or auto");
    }
    if tcp && service.upstream.protocol != UpstreamProtocol::Auto {
        problem("upstream", "protocol: tcp is passed on unread: use protocol http or auto for what is HTTP");
    }
    let http2 = service.protocol == Protocol::Http2 || service.upstream.protocol == UpstreamProtocol::Http2;
    if http2 && service.upstream.send_proxy.is_some() {
        problem(
            "upstream",
            "send_proxy: HTTP/2 connections are shared by clients, so none can name one: use http.x_forwarded",
        );
    }
}

/// Certificates and keys that cannot be used are known before anybody needs them.
fn check_files(section: &Section<'_>, service: &Service) {
    if let Some(tls) = &service.tls
        && let Err(error) = crate::tls::server(tls, service.protocol, service.shares_links())
    {
        section.problem(section.node.get("tls").unwrap_or(section.node), "tls", error);
    }
    if let Some(tls) = &service.upstream.tls
        && let Err(error) = crate::tls::client(tls, service.host(), service.protocol)
    {
        let node = section.node.get("upstream").and_then(|upstream| upstream.get("tls"));
        section.problem(node.unwrap_or(section.node), "upstream.tls", error);
    }
}

/// A value, or a list of them; at least one.
fn one_or_more<T>(section: &mut Section<'_>, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    let Some(node) = section.take(key) else {
        let place = section.node;
        section.problem(place, key, "missing");
        return Vec::new();
    };
    let items = node.list().unwrap_or(std::slice::from_ref(node));
    if items.is_empty() {
        section.problem(node, key, "empty");
    }
    let mut values = Vec::new();
    for item in items {
        match item.text().map(&parse) {
            Some(Ok(value)) => values.push(value),
            Some(Err(error)) => section.problem(item, key, error),
            None => section.problem(item, key, format!("expected a word, found {}", item.kind())),
        }
    }
    values
}

fn protocol(section: &mut Section<'_>) -> Option<Protocol> {
    let node = section.take("protocol")?;
    match node.text() {
        Some("auto") => Some(Protocol::Auto),
        Some("http" | "websocket") => Some(Protocol::Http),
        Some("http1") => Some(Protocol::Http1),
        Some("http2" | "grpc") => Some(Protocol::Http2),
        Some("tcp") => Some(Protocol::Tcp),
        Some(later @ ("postgres" | "amqp" | "rsocket")) => {
            section.problem(
                node,
                "protocol",
                format!("{later} is not supported in this version: auto and tcp pass it on"),
            );
            None
        }
        other => {
            let hint = suggest(
                other.unwrap_or_default(),
                ["auto", "http", "http1", "http2", "grpc", "websocket", "tcp"].into_iter(),
            );
            section.problem(node, "protocol", format!("unknown protocol{hint}"));
            None
        }
    }
}

fn upstream(section: &mut Section<'_>, service: &mut Service) {
    section.section("upstream", |upstream| {
        let u = &mut service.upstream;
        upstream.duration("connect_timeout", &mut u.connect_timeout);
        upstream.count("max_idle", &mut u.max_idle, 0);
        upstream.duration("idle_timeout", &mut u.idle_timeout);
        upstream.set("max_age", &mut u.max_age, "a duration such as 1h, or off", optional_duration);
        upstream.duration("drain_grace", &mut u.drain_grace);
        upstream.set("max_connections", &mut u.max_connections, "a whole number from 1 up, or off", number_or_off);
        upstream.set("send_proxy", &mut u.send_proxy, "v1, v2 or off", |text| match text {
            "off" => Some(None),
            "v1" => Some(Some(ProxyVersion::V1)),
            "v2" => Some(Some(ProxyVersion::V2)),
            _ => None,
        });
        u.tls = client_tls(upstream);
        upstream.set("protocol", &mut u.protocol, "auto, http1 or http2", |text| match text {
            "auto" => Some(UpstreamProtocol::Auto),
            "http1" => Some(UpstreamProtocol::Http1),
            "http2" => Some(UpstreamProtocol::Http2),
            _ => None,
        });
    });
}

fn number_or_off(text: &str) -> Option<Option<usize>> {
    match text {
        "off" => Some(None),
        _ => text.parse().ok().filter(|&n| n > 0).map(Some),
    }
}

fn balance(section: &mut Section<'_>, service: &mut Service) {
    section.section("balance", |balance| {
        let core = &mut service.balance.core;
        if let Some(node) = balance.take("policy") {
            match node.text().and_then(policy) {
                Some(policy) => (core.turn_policy, core.session_policy) = (policy, policy),
                None => {
                    let hint =
                        suggest(node.text().unwrap_or_default(), Policy::ALL.iter().map(|policy| policy.as_str()));
                    balance.problem(node, "policy", format!("unknown policy{hint}"));
                }
            }
        }
        balance.set("slow_start", &mut core.slow_start, "a duration such as 10s, or off", |text| {
            optional_duration(text).map(|d| d.unwrap_or_default())
        });
        balance.set("panic", &mut core.panic_threshold, "a fraction such as 50%", fraction);
        if let Some(node) = balance.take("affinity") {
            match affinity(node) {
                Some(affinity) => service.balance.affinity = affinity,
                None => balance.problem(node, "affinity", "expected source, {header: NAME} or {cookie: NAME}"),
            }
        }
        balance.later("zone");
    });
}

fn rebalance(section: &mut Section<'_>, service: &mut Service) {
    let r = &mut service.balance.core.rebalance;
    if section.node.get("rebalance").and_then(Node::text) == Some("off") {
        section.take("rebalance");
        r.enabled = false;
        return;
    }
    section.section("rebalance", |rebalance| {
        rebalance.set("skew", &mut r.skew, "a number from 1.01 to 100", |text| {
            text.parse().ok().filter(|skew| (1.01..=100.0).contains(skew))
        });
        rebalance.set("moves_per_second", &mut r.pace, "a part such as 5%, or a number such as 20", |text| {
            let fraction = text.ends_with('%').then(|| fraction(text)).flatten().filter(|&f| f > 0.0);
            fraction.map(Pace::Fraction).or_else(|| rate(text).map(Pace::PerSecond))
        });
        rebalance.set("cool_down", &mut r.cool_down, "a duration such as 60s, or off", |text| {
            optional_duration(text).map(|d| d.unwrap_or_default())
        });
        rebalance.set("per_endpoint", &mut r.per_endpoint, "a rate such as 50/s", rate);
        rebalance.later("max_age");
    });
}

/// `50/s` or `50`: more than nothing, per second.
fn rate(text: &str) -> Option<f64> {
    text.strip_suffix("/s").unwrap_or(text).parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1e6)
}

fn affinity(node: &Node) -> Option<Affinity> {
    let token = |node: &Node| {
        let text = node.text()?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        (!text.is_empty() && text.bytes().all(valid)).then(|| text.to_owned())
    };
    match (node.text(), node.get("header"), node.get("cookie")) {
        (Some("source"), ..) => Some(Affinity::Source),
        (None, Some(name), None) => token(name).map(Affinity::Header),
        (None, None, Some(name)) => token(name).map(Affinity::Cookie),
        _ => None,
    }
}

fn health(section: &mut Section<'_>, service: &mut Service) {
    section.section("outlier", |outlier| {
        let o = &mut service.balance.core.outlier;
        outlier.set("consecutive", &mut o.consecutive, "a number from 1 up, or off", |text| match text {
            "off" => Some(None),
            _ => text.parse().ok().filter(|&n| n > 0).map(Some),
        });
        outlier.set("deviation", &mut o.deviation, "a number from 1 to 100, or off", |text| match text {
            "off" => Some(None),
            _ => text.parse().ok().filter(|k| (1.0..=100.0).contains(k)).map(Some),
        });
        outlier.duration("ejection", &mut o.ejection);
        outlier.duration("max_ejection", &mut o.max_ejection);
        outlier.set("max_ejected", &mut o.max_ejected, "a fraction such as 10%", fraction);
    });
    let mut config = check::Config {
        kind: Kind::Tcp,
        every: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        unhealthy: 3,
        healthy: 2,
        // Known when certificates are read.
        dial: check::Dial::default(),
    };
    let mut kinds = 0;
    section.section("check", |check| {
        if check.take("tcp").is_some() {
            kinds += 1;
        }
        if check.node.get("http").is_some() {
            kinds += 1;
            let (mut path, mut host, mut status) = (String::from("/"), None, (200, 399));
            check.section("http", |http| {
                http.set("path", &mut path, "a path that begins with /", |text| {
                    (text.starts_with('/') && text.bytes().all(|b| (0x21..=0x7E).contains(&b))).then(|| text.into())
                });
                http.set("host", &mut host, "a host name", |text| {
                    text.bytes().all(|b| (0x21..=0x7E).contains(&b)).then(|| Some(text.into()))
                });
                http.set("status", &mut status, "a status such as 200, or a range such as 200-399", status_range);
            });
            config.kind = Kind::Http { path, host, status };
        } else {
            check.take("http");
        }
        if check.node.get("grpc").is_some() {
            kinds += 1;
            let (mut service, mut host) = (String::new(), None);
            check.section("grpc", |grpc| {
                grpc.set("service", &mut service, "the name of a service, such as shop.Catalog", |text| {
                    text.bytes().all(|b| (0x21..=0x7E).contains(&b)).then(|| text.into())
                });
                grpc.set("host", &mut host, "a host name", |text| {
                    text.bytes().all(|b| (0x21..=0x7E).contains(&b)).then(|| Some(text.into()))
                });
            });
            config.kind = Kind::Grpc { service, host };
        } else {
            check.take("grpc");
        }
        check.duration("every", &mut config.every);
        check.duration("timeout", &mut config.timeout);
        let streak = |text: &str| text.parse().ok().filter(|&n: &u32| n > 0);
        check.set("unhealthy", &mut config.unhealthy, "a number from 1 up", streak);
        check.set("healthy", &mut config.healthy, "a number from 1 up", streak);
        if kinds != 1 {
            let place = check.node;
            check.problem(place, "", "expected exactly one of tcp: {}, http: {path: /} and grpc: {service: NAME}");
        }
    });
    if kinds == 1 {
        service.check = Some(config);
    }
}

fn status_range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    ((100..=599).contains(&low) && (low..=599).contains(&high)).then_some((low, high))
}

fn retry(section: &mut Section<'_>, service: &mut Service) {
    section.section("retry", |retry| {
        let r = &mut service.retry;
        retry.set("attempts", &mut r.attempts, "a number from 1 to 5", |text| {
            text.parse().ok().filter(|n| (1..=5).contains(n))
        });
        retry.set("budget", &mut r.budget, "a fraction such as 20%", fraction);
        retry.set("reserve", &mut r.reserve, "retries per second, 0 to 1000", |text| {
            text.parse().ok().filter(|n| (0.0..=1000.0).contains(n))
        });
        retry.size("buffer", &mut r.buffer, 0..=16 << 20);
        let Some(node) = retry.take("on") else { return };
        (r.on_connect, r.on_reset, r.on_unavailable) = (false, false, false);
        let Some(items) = node.list() else {
            return retry.problem(node, "on", format!("expected a list, found {}", node.kind()));
        };
        for item in items {
            match item.text() {
                Some("connect") => r.on_connect = true,
                Some("reset") => r.on_reset = true,
                Some("unavailable") => r.on_unavailable = true,
                Some("refused-stream") => retry.problem(item, "on", "refused-stream is not supported in this version"),
                other => {
                    let known = ["connect", "reset", "unavailable"].into_iter();
                    retry.problem(
                        item,
                        "on",
                        format!("unknown condition{}", suggest(other.unwrap_or_default(), known)),
                    );
                }
            }
        }
    });
}

fn optional_duration(text: &str) -> Option<Option<Duration>> {
    match text {
        "off" => Some(None),
        _ => duration(text).filter(|d| !d.is_zero()).map(Some),
    }
}

fn forwarding(text: &str) -> Option<Forwarding> {
    Some(match text {
        "keep" => Forwarding::Keep,
        "append" => Forwarding::Append,
        "replace" => Forwarding::Replace,
        "remove" => Forwarding::Remove,
        _ => return None,
    })
}

/// A policy by name.
pub fn policy(name: &str) -> Option<Policy> {
    Policy::ALL.into_iter().find(|policy| policy.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tracing;

    const SERVICE: &str = "services:\n- name: a\n  listen: 127.0.0.1:80\n  target: 10.0.0.1:80\n";

    /// The service above with something under it.
    fn with(more: &str) -> Result<Service, String> {
        let text = format!("{SERVICE}{more}");
        parse("e.yaml", &text).map(|c| c.services[0].clone()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_small_file_has_every_default() {
        let config = parse("e.yaml", SERVICE).unwrap();
        let expected = Service::new("a", vec!["127.0.0.1:80".parse().unwrap()], vec!["10.0.0.1:80".parse().unwrap()]);
        assert_eq!(config.services, [expected]);
        assert_eq!(config.admin, DEFAULT_ADMIN.parse().ok());
    }

    #[test]
    fn everything_can_be_said() {
        let service = with(
            "  protocol: http\n  upstream: {protocol: http2, connect_timeout: 2s, max_idle: 5, idle_timeout: 1m, max_connections: 7}\n\
             \x20 balance: {policy: maglev, slow_start: off, panic: 30%, affinity: {cookie: sid}}\n\
             \x20 health:\n    check: {http: {path: /ok, host: h, status: 200-204}, every: 1s, timeout: 500ms, unhealthy: 2, healthy: 1}\n\
             \x20   outlier: {consecutive: off, deviation: 6, ejection: 5s, max_ejection: 1m, max_ejected: 0.5}\n\
             \x20 retry: {attempts: 3, budget: 10%, reserve: 5, on: [connect, reset, unavailable], buffer: 1KiB}\n\
             \x20 timeouts: {request: off, idle: 1h, header: 1s, detect: 20ms}\n\
             \x20 limits: {sessions: 5, header_bytes: 8KiB, header_fields: 10, uri_bytes: 100, queue: 0, queue_timeout: 1ms, buffer: 1MiB}\n\
             \x20 http: {via: false, x_forwarded: remove, forwarded: replace, reason: false}\n",
        )
        .unwrap();
        assert_eq!((service.protocol, service.upstream.protocol), (Protocol::Http, UpstreamProtocol::Http2));
        assert_eq!(service.balance.core.turn_policy, Policy::Maglev);
        assert_eq!(service.balance.affinity, Affinity::Cookie("sid".into()));
        assert_eq!(service.balance.core.slow_start, Duration::ZERO);
        assert_eq!(
            service.check.unwrap().kind,
            Kind::Http { path: "/ok".into(), host: Some("h".into()), status: (200, 204) }
        );
        assert_eq!((service.retry.attempts, service.retry.on_unavailable, service.retry.buffer), (3, true, 1024));
        assert_eq!((service.timeouts.request, service.limits.sessions, service.http.via), (None, 5, false));
    }

    #[test]
    fn spans_have_a_collector_and_every_default() {
        let tracing = |more: &str| parse("e.yaml", &format!("{SERVICE}tracing: {more}\n")).unwrap().tracing;
        assert_eq!(tracing("off"), None);
        let plain = Tracing::new("http://127.0.0.1:4318".parse().unwrap());
        assert_eq!(tracing("{otlp: 'http://127.0.0.1:4318'}").as_ref(), Some(&plain));
        let all = tracing(
            "{otlp: 'https://a.example/x', tls: {sni: b.example}, sample: 10%, service: edge, timeout: 1s, queue: 7, \
             headers: {Authorization: 'Bearer x'}}",
        )
        .unwrap();
        assert_eq!((all.sample, all.service.as_str(), all.queue), (0.1, "edge", 7));
        assert_eq!(all.tls.and_then(|tls| tls.sni).as_deref(), Some("b.example"));
        assert_eq!(all.headers, [("Authorization".to_owned(), "Bearer x".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_said_with_place_and_remedy() {
        for (more, error) in [
            ("  tagret: x\n", "e.yaml:5:3: services[0].tagret: unknown key: did you mean \"target\"?"),
            (
                "  balance: {policy: peek-ewma}\n",
                "e.yaml:5:21: services[0].balance.policy: unknown policy: did you mean \"peak-ewma\"?",
            ),
            (
                "  timeouts: {idle: 5}\n",
                "e.yaml:5:20: services[0].timeouts.idle: expected a duration such as 250ms or 30s, found \"5\"",
            ),
            (
                "  timeouts: {idle: 0s}\n",
                "e.yaml:5:20: services[0].timeouts.idle: expected a duration such as 250ms or 30s, found \"0s\"",
            ),
            (
                "  timeouts: {idle: [1]}\n",
                "e.yaml:5:20: services[0].timeouts.idle: expected a duration such as 250ms or 30s, found a list",
            ),
            ("  timeouts: 5s\n", "e.yaml:5:13: services[0].timeouts: expected a map, found a word"),
            (
                "  limits: {header_bytes: 64K}\n",
                "e.yaml:5:26: services[0].limits.header_bytes: expected a size such as 64KiB, from 1024 to 16777216 bytes, found \"64K\"",
            ),
            (
                "  limits: {sessions: 0}\n",
                "e.yaml:5:22: services[0].limits.sessions: expected a whole number from 1 up, found \"0\"",
            ),
            (
                "  retry: {budget: 200%}\n",
                "e.yaml:5:19: services[0].retry.budget: expected a fraction such as 20%, found \"200%\"",
            ),
            (
                "  retry: {on: [conect]}\n",
                "e.yaml:5:16: services[0].retry.on: unknown condition: did you mean \"connect\"?",
            ),
            ("  retry: {on: connect}\n", "e.yaml:5:15: services[0].retry.on: expected a list, found a word"),
            (
                "  protocol: amqp\n",
                "e.yaml:5:13: services[0].protocol: amqp is not supported in this version: auto and tcp pass it on",
            ),
            ("  protocol: htpp\n", "e.yaml:5:13: services[0].protocol: unknown protocol: did you mean \"http\"?"),
            ("  tls: {cert: a}\n", "e.yaml:5:8: services[0].tls.key: missing: there is a cert"),
            (
                "  tls: {}\n",
                "e.yaml:5:8: services[0].tls.cert: missing: TLS needs a certificate (cert, key), or several (certs)",
            ),
            (
                "  tls: {cert: a, key: b, client_auth: optional}\n",
                "e.yaml:5:39: services[0].tls.client_auth: needs client_ca: who signs the certificates of clients?",
            ),
            (
                "  tls: {cert: a, key: b, client_ca: c, client_header: 'x y'}\n",
                "e.yaml:5:55: services[0].tls.client_header: expected a field name such as X-Client-Subject, found \"x y\"",
            ),
            (
                "  sni: a.example\n  protocol: http\n",
                "e.yaml:5:8: services[0].sni: http needs tls here: without it TLS is passed on unread (protocol: tcp or auto)",
            ),
            ("  sni: 'a b'\n", "e.yaml:5:8: services[0].sni: expected a name such as a.example or *.a.example"),
            (
                "  accept_proxy: 10.0.0.0/33\n",
                "e.yaml:5:17: services[0].accept_proxy: expected a network such as 10.0.0.0/8, or an address, found \"10.0.0.0/33\"",
            ),
            (
                "  upstream: {send_proxy: v3}\n",
                "e.yaml:5:26: services[0].upstream.send_proxy: expected v1, v2 or off, found \"v3\"",
            ),
            (
                "  upstream: {protocol: h2}\n",
                "e.yaml:5:24: services[0].upstream.protocol: expected auto, http1 or http2, found \"h2\"",
            ),
            (
                "  protocol: tcp\n  upstream: {protocol: http1}\n",
                "e.yaml:6:13: services[0].upstream: protocol: tcp is passed on unread: use protocol http or auto for what is HTTP",
            ),
            (
                "  upstream: {protocol: http2, send_proxy: v2}\n",
                "e.yaml:5:13: services[0].upstream: send_proxy: HTTP/2 connections are shared by clients, so none can name one: use http.x_forwarded",
            ),
            (
                "  accept_proxy: 10.0.0.0/8\n  sni: a.example\n- name: b\n  listen: 127.0.0.1:80\n  target: 10.0.0.1:80\n  sni: b.example\n",
                "e.yaml:7:3: services[1].accept_proxy: must be that of service \"a\", with which it shares 127.0.0.1:80",
            ),
            (
                "  health: {check: {every: 5s}}\n",
                "e.yaml:5:19: services[0].health.check.: expected exactly one of tcp: {}, http: {path: /} and grpc: {service: NAME}",
            ),
            (
                "  health: {check: {grpc: {service: 'a b', name: c}}}\n",
                "e.yaml:5:36: services[0].health.check.grpc.service: expected the name of a service, such as shop.Catalog, found \"a b\"\n\
                 e.yaml:5:43: services[0].health.check.grpc.name: unknown key: expected one of service, host",
            ),
            (
                "  health: {check: {http: {status: 700}}}\n",
                "e.yaml:5:35: services[0].health.check.http.status: expected a status such as 200, or a range such as 200-399, found \"700\"",
            ),
            (
                "  balance: {affinity: {heder: x}}\n",
                "e.yaml:5:23: services[0].balance.affinity: expected source, {header: NAME} or {cookie: NAME}",
            ),
            ("  http: {via: maybe}\n", "e.yaml:5:15: services[0].http.via: expected true or false, found \"maybe\""),
            (
                "- name: a\n  listen: 127.0.0.1:81\n  target: 10.0.0.1:80\n",
                "e.yaml:5:9: services[1].name: there is another service \"a\"",
            ),
            (
                "- name: b\n  listen: 127.0.0.1:80\n  target: 10.0.0.1:80\n",
                "e.yaml:6:11: services[1].listen: service \"a\" listens on 127.0.0.1:80 already: two can share it by sni",
            ),
            (
                "- name: b\n  listen: 8080\n  target: 10.0.0.1:80\n",
                "e.yaml:6:11: services[1].listen: expected an address: write 127.0.0.1:8080, or 0.0.0.0:8080 for everybody",
            ),
            (
                "- name: b\n  listen: 127.0.0.1:81\n  target: k8://shop/a\n",
                "e.yaml:7:11: services[1].target: unknown scheme \"k8\": did you mean \"k8s://\"?",
            ),
            (
                "- listen: []\n  target: 10.0.0.1:80\n",
                "e.yaml:5:3: services[1].name: missing: every service has a name\ne.yaml:5:11: services[1].listen: empty",
            ),
            ("  name: again\n", "e.yaml:5:3: key \"name\" stands here twice"),
            ("admin: here\n", "e.yaml:5:8: admin: expected an address such as 127.0.0.1:15090, or off, found \"here\""),
            (
                "tracing: {sample: 1%}\n",
                "e.yaml:5:10: tracing.otlp: missing: the URL of a collector, such as http://127.0.0.1:4318, or tracing: off",
            ),
            (
                "tracing: {otlp: '127.0.0.1:4317', sample: 2, sevice: a}\n",
                "e.yaml:5:17: tracing.otlp: expected the URL of a collector, such as http://127.0.0.1:4318, found \"127.0.0.1:4317\"\n\
                 e.yaml:5:43: tracing.sample: expected a fraction such as 1%, found \"2\"\n\
                 e.yaml:5:46: tracing.sevice: unknown key: did you mean \"service\"?",
            ),
            (
                "tracing: {otlp: 'http://a:4318', tls: {ca: system}, queue: 0}\n",
                "e.yaml:5:39: tracing.tls: is for a collector with an https:// URL\n\
                 e.yaml:5:60: tracing.queue: expected a number from 1 to 1048576, found \"0\"",
            ),
            (
                "tracing: {otlp: 'http://a:4318', headers: {'x y': a, Host: b, authorization: \"\\u00e9\"}}\n",
                "e.yaml:5:44: tracing.headers: \"x y\" is no name of a field\n\
                 e.yaml:5:54: tracing.headers.Host: evenkeel says this itself\n\
                 e.yaml:5:78: tracing.headers.authorization: expected printable ASCII",
            ),
            ("tracing: on\n", "e.yaml:5:10: tracing: expected a map, found a word"),
            ("workers: 0\n", "e.yaml:5:10: workers: expected auto, or a number from 1 to 256, found \"0\""),
            ("drian: {grace: 1s}\n", "e.yaml:5:1: drian: unknown key: did you mean \"drain\"?"),
        ] {
            assert_eq!(with(more).unwrap_err(), error, "{more}");
        }
        for (text, error) in [
            ("", "e.yaml:1:1: no services: nothing to do"),
            ("workers: 1\n", "e.yaml:1:1: services: missing: a list with at least one service"),
            ("services: []\n", "e.yaml:1:11: services: empty: there is nothing to do"),
            ("[]\n", "e.yaml:1:1: expected a map, found a list"),
            ("services: {a: b}\n", "e.yaml:1:11: services: expected a list, found a map"),
            ("a: 1\n---\nb: 2\n", "e.yaml:3:1: a second document: put everything into one"),
        ] {
            assert_eq!(parse("e.yaml", text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn all_problems_are_found_at_once_in_order() {
        let error = with("  retry: {budget: x}\n  timeouts: {idle: y}\nworkers: z\n").unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
    }
}
