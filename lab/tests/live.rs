//! What the admin API says of the present: the stream, how endpoints stand, how old sessions are.

mod common;

use common::{Backend, Client, Proxy, connect, eventually, field, read_head, status};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A stream of moments.
struct Moments {
    stream: BufReader<TcpStream>,
    /// Of the last one.
    id: String,
}

impl Moments {
    fn follow(proxy: &Proxy, query: &str) -> Self {
        let mut stream = ask_live(proxy, query);
        let head = read_head(&mut stream);
        assert_eq!((status(&head), field(&head, "content-type")), (200, Some("text/event-stream")));
        Self { stream: BufReader::new(stream), id: String::new() }
    }

    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.stream.read_line(&mut line).expect("a line") > 0, "the stream ended");
            // An event is a chunk, so its lines are whole.
            if let Some(id) = line.strip_prefix("id: ") {
                self.id = id.trim().into();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }
}

fn ask_live(proxy: &Proxy, query: &str) -> TcpStream {
    let mut stream = connect(proxy.running.admin.expect("an admin API"));
    stream.write_all(format!("GET /api/v1/live{query} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
    stream
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)).expect("JSON")
}

/// Echoes bytes after a greeting: a server that speaks first.
fn greeter() -> Backend {
    Backend::start(|mut stream, _| {
        let mut byte = *b"!";
        while stream.write_all(&byte).is_ok() && stream.read(&mut byte).is_ok_and(|n| n == 1) {}
    })
}

/// A session that has an endpoint.
fn greeted(proxy: &Proxy) -> TcpStream {
    let mut stream = proxy.connect();
    stream.read_exact(&mut [0]).expect("a greeting");
    stream
}

#[test]
fn the_stream_tells_what_happens() {
    let backends = ["one", "two"].map(Backend::answering);
    let proxy = Proxy::start(&[backends[0].addr, backends[1].addr]);
    let mut moments = Moments::follow(&proxy, "");
    let first = moments.next();
    let added = first["events"].as_array().expect("a list").iter().filter(|e| e["kind"] == "added").count();
    assert_eq!((added, &first["services"][0]["turns"], &first["unready"]), (2, &0.into(), &Value::Null), "{first}");
    let mut client = Client::of(&proxy);
    (0..10).for_each(|_| assert_eq!(status(&client.get("/")), 200));
    let drain = format!("/api/v1/services/test/endpoints/{}/drain", backends[0].addr);
    assert!(proxy.admin_ask("POST", &drain).contains(" 200 "));
    let (mut last, mut events) = (first.clone(), Vec::new());
    while last["services"][0]["endpoints"][0]["state"] != "drained"
        && last["services"][0]["endpoints"][1]["state"] != "drained"
        || last["services"][0]["turns"] != 10
    {
        last = moments.next();
        events.extend(last["events"].as_array().expect("a list").clone());
    }
    assert_eq!(events.len(), 1, "each is told once: {events:?}");
    assert_eq!(events[0]["kind"], "drained");
    let service = &last["services"][0];
    assert!(service["turns_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{service}");
    assert!(service["headline"].is_string() && service["why"].as_array().is_some_and(|w| w.len() > 1), "{service}");
    // Skew is remembered from second to second.
    let remembered = |moment: &Value| moment["services"][0]["skew_history"].as_array().map_or(0, Vec::len);
    while remembered(&last) <= remembered(&first) {
        last = moments.next();
    }
}

#[test]
fn it_is_asked_for_one_service_and_so_many_endpoints() {
    let many: Vec<SocketAddr> = (1..=100).map(|i| SocketAddr::from(([127, 2, 0, i], 9))).collect();
    let proxy = Proxy::start(&many);
    for (query, shown) in [("", 12), ("?endpoints=3", 3), ("?service=test&endpoints=1000", 100)] {
        let moment = Moments::follow(&proxy, query).next();
        let service = &moment["services"][0];
        assert_eq!(service["endpoints"].as_array().map(Vec::len), Some(shown), "{query}");
        assert_eq!(service["endpoints_more"], 100 - shown, "{query}");
    }
    let moment = Moments::follow(&proxy, "?service=other").next();
    assert!(moment["services"][0]["endpoints"].is_null(), "{moment}");
}

#[test]
fn followers_are_limited_and_a_place_is_given_back() {
    let one = Backend::answering("one");
    let proxy = Proxy::start(&[one.addr]);
    let mut followers: Vec<Moments> = (0..64).map(|_| Moments::follow(&proxy, "")).collect();
    let refused = read_head(&mut ask_live(&proxy, ""));
    assert_eq!(status(&refused), 503);
    // They share what is looked at: there was not a look for each.
    followers.iter_mut().for_each(|follower| drop(follower.next()));
    let looks: BTreeSet<&str> = followers.iter().map(|f| f.id.as_str()).collect();
    assert!(looks.len() < 32 && !looks.contains(""), "{looks:?}");
    followers.pop();
    eventually("there is a place", || status(&read_head(&mut ask_live(&proxy, ""))) == 200);
}

#[test]
fn an_ejected_endpoint_says_since_when_for_how_long_and_why() {
    let one = Backend::answering("one");
    let nobody = Backend::nobody();
    let proxy = Proxy::with(&[one.addr, nobody], |service| service.retry.attempts = 2);
    let its = || {
        let mut service = proxy.service();
        let endpoints = service["endpoints"].as_array_mut().expect("a list");
        endpoints.iter_mut().find(|e| e["address"] == nobody.to_string()).expect("it is known").take()
    };
    eventually("ejected", || {
        proxy.get("/");
        its()["state"] == "ejected"
    });
    let its = its();
    let seconds = |key: &str| its[key].as_f64().unwrap_or_else(|| panic!("{key} in {its}"));
    // 30 s ± 20 %, from when it was ejected.
    assert!((24.0..=36.1).contains(&(seconds("state_seconds") + seconds("state_left_seconds"))), "{its}");
    assert!(its["state_reason"].as_str().is_some_and(|r| r.ends_with(" failures in a row")), "{its}");
    assert!(its["why"].as_str().is_some_and(|w| w.starts_with("not picked: it was ejected ")), "{its}");
    let why = body(&proxy.admin(&format!("/api/v1/services/test/endpoints/{nobody}/why")));
    let said = why["sentences"].to_string();
    assert!(said.contains("It is not picked: it was ejected ") && said.contains(" connect-failed"), "{said}");
    let why = body(&proxy.admin("/api/v1/services/test/why"));
    assert!(
        why["sentences"].to_string().contains(&format!("1 of 2 endpoints are picked: {nobody} is ejected")),
        "{why}"
    );
}

#[test]
fn a_service_that_fails_says_so_first() {
    let proxy = Proxy::start(&[Backend::nobody(), Backend::nobody()]);
    let said = |path: &str| body(&proxy.admin(&format!("/api/v1/services/test{path}/why")))["sentences"].clone();
    assert_eq!(said("")[0], "It has had no requests yet.");
    (0..3).for_each(|_| assert_eq!(status(&proxy.get("/")), 502));
    let sentences = said("");
    assert_eq!(sentences[0], "100.0 % of its requests failed in the last 10 s.");
    assert_eq!(sentences[1], "None of its 3 requests has reached an endpoint.");
    assert!(sentences.to_string().contains("Of 3 requests so far 3 failed: 3 connect-failed."), "{sentences}");
    let endpoint = proxy.service()["endpoints"][0]["address"].as_str().expect("an address").to_owned();
    let sentences = said(&format!("/endpoints/{endpoint}")).to_string();
    assert!(sentences.contains("It has failed ") && sentences.contains(" of them in the last 10 s: "), "{sentences}");
}

#[test]
fn ages_are_of_all_sessions_and_of_each_endpoint() {
    let (one, two) = (greeter(), greeter());
    let proxy = Proxy::with(&[one.addr, two.addr], |service| {
        service.balance.core.session_policy = evenkeel_core::balancer::Policy::LeastSession;
    });
    let why = |path: &str| body(&proxy.admin(&format!("/api/v1/services/test{path}/why")))["session_ages"].clone();
    assert_eq!(why(""), Value::Null);
    let first = greeted(&proxy);
    // The first is older than the others by as much as a person could tell.
    eventually("some age", || why("")["youngest"].as_f64().is_some_and(|age| age >= 0.3));
    let others: Vec<TcpStream> = (0..3).map(|_| greeted(&proxy)).collect();
    let ages = why("");
    let number = |ages: &Value, key: &str| ages[key].as_f64().unwrap_or_else(|| panic!("{key} in {ages}"));
    assert_eq!(ages["count"], 4);
    assert!(number(&ages, "oldest") >= number(&ages, "youngest") + 0.25, "{ages}");
    assert!(number(&ages, "median") <= number(&ages, "oldest") - 0.25, "{ages}");
    let counts = [one.addr, two.addr].map(|addr| why(&format!("/endpoints/{addr}"))["count"].clone());
    assert_eq!(counts, [2, 2]);
    drop((first, others));
    eventually("gone", || why("").is_null());
}

#[test]
fn many_services_stay_a_short_message() {
    let backend = Backend::answering("one");
    let target = format!("{},127.3.0.1:9,127.3.0.2:9", backend.addr);
    let mut config = evenkeel_proxy::config::Config::new();
    (config.workers, config.admin) = (Some(1), Some(SocketAddr::from(([127, 0, 0, 1], 0))));
    for i in 0..300 {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let target = target.parse().expect("a target");
        config.services.push(evenkeel_proxy::config::Service::new(format!("s{i}"), vec![listen], vec![target]));
    }
    let running = evenkeel_proxy::start(config).expect("it starts");
    let evenkeel_core::address::Address::Ip(addr) = running.listening["s0"][0] else { panic!("TCP") };
    let proxy = Proxy { running, addr };
    let moment = Moments::follow(&proxy, "").next();
    let services = moment["services"].as_array().expect("a list");
    assert_eq!(services.len(), 300);
    assert_eq!(services.iter().filter(|s| s["endpoints"].is_array()).count(), 8);
    assert!(moment.to_string().len() < 512 * 1024, "{} bytes", moment.to_string().len());
    // What is wrong comes first.
    let drain = "/api/v1/services/s222/endpoints/127.3.0.1:9/drain";
    assert!(proxy.admin_ask("POST", drain).contains(" 200 "));
    let mut moments = Moments::follow(&proxy, "");
    eventually("shown", || {
        let moment = moments.next();
        moment["services"][222]["endpoints"].is_array()
    });
}
