//! Clients and servers by other people: aiohttp, requests, curl, nginx, a Prometheus parser.

mod common;

use common::peers::{Nginx, Process, directory, free_port, have, python};
use common::{Backend, Client, Proxy, field, status};
use evenkeel_proxy::config::Protocol;
use std::net::SocketAddr;
use std::process::{Command, Output};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/peers.py");

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn succeeded(out: &Output) -> String {
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{said}\n{complained}");
    said.into_owned()
}

#[test]
fn aiohttp_and_requests_see_what_an_aiohttp_server_says() {
    let Some(python) = python() else { return };
    let servers: Vec<(SocketAddr, Process)> = (0..2)
        .map(|_| {
            let port = free_port();
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let mut command = Command::new(&python);
            command.args([SCRIPT, "serve", &port.to_string()]);
            (addr, Process::start(&mut command, directory("aiohttp")).listening(addr))
        })
        .collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|(addr, _)| *addr).collect();
    for protocol in [Protocol::Auto, Protocol::Http1] {
        let proxy = Proxy::with(&addresses, |service| service.protocol = protocol);
        succeeded(&run(Command::new(&python).args([SCRIPT, "ask", &format!("http://{}", proxy.addr)])));
        let service = proxy.service();
        let turns: Vec<u64> =
            service["endpoints"].as_array().expect("endpoints").iter().filter_map(|e| e["turns"].as_u64()).collect();
        assert!(turns.len() == 2 && turns[0].abs_diff(turns[1]) <= 2, "in turn: {turns:?}");
    }
}

#[test]
fn curl_and_nginx_through_everything_curl_can_say() {
    if !have(&["curl", "nginx"]) {
        return;
    }
    let nginx = Nginx::start();
    let proxy = Proxy::start(&[nginx.addr]);
    let url = |path: &str| format!("http://{}{path}", proxy.addr);
    let curl = |arguments: &[&str]| {
        run(Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(arguments))
    };
    assert_eq!(succeeded(&curl(&[&url("/page")])), "a page of nginx\n");
    // Several on one connection, and what curl counts as connections opened.
    let two = succeeded(&curl(&[
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "%{num_connects} ",
        &url("/page"),
        &url("/page"),
    ]));
    assert_eq!(two, "1 0 ");
    for version in ["--http1.0", "--http1.1"] {
        assert_eq!(succeeded(&curl(&[version, &url("/page")])), "a page of nginx\n");
    }
    let head = succeeded(&curl(&["--head", &url("/page")]));
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Content-Length: 16"), "{head}");
    let code = |arguments: &[&str]| succeeded(&curl(&[&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat()));
    assert_eq!(code(&[&url("/nothing")]), "204");
    assert_eq!(code(&[&url("/missing")]), "404");
    assert_eq!(code(&["--range", "2-5", &url("/page")]), "206");
    // Refused by nginx before the body is sent: curl waits for 100 (Continue) and gets the final answer.
    let file = directory("curl").join("upload");
    std::fs::write(&file, vec![b'u'; 3_000_000]).expect("written");
    let upload = format!("@{}", file.display());
    assert_eq!(code(&["-H", "Expect: 100-continue", "--data-binary", &upload, &url("/page")]), "405");
    assert_eq!(code(&["-H", "Transfer-Encoding: chunked", "--data-binary", &upload, &url("/page")]), "405");
    // Absolute form, as clients of a configured proxy send it.
    assert_eq!(succeeded(&curl(&["--proxy", &url(""), &format!("http://{}/page", nginx.addr)])), "a page of nginx\n");
    assert_eq!(code(&["--request", "TRACE", &url("/page")]), "405");
    std::fs::remove_dir_all(file.parent().expect("a directory")).expect("removed");
}

#[test]
fn the_metrics_are_openmetrics_and_count_what_happened() {
    let Some(python) = python() else { return };
    let backend = Backend::answering("x");
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = Client::of(&proxy);
    for _ in 0..7 {
        assert_eq!(status(&client.get("/")), 200);
    }
    let admin = proxy.running.admin.expect("an admin API");
    let names = succeeded(&run(Command::new(python).args([SCRIPT, "metrics", &format!("http://{admin}/metrics")])));
    for name in ["evenkeel_requests", "evenkeel_sessions", "evenkeel_skew_ratio"] {
        assert!(names.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} in {names}");
    }
    let page = proxy.admin("/metrics");
    let requests = page.lines().find(|l| l.starts_with("evenkeel_requests_total{") && l.contains("test"));
    assert!(requests.is_some_and(|l| l.ends_with(" 7")), "{requests:?}");
}

#[test]
fn every_path_of_the_openapi_document_answers() {
    let backend = Backend::answering("x");
    let proxy = Proxy::start(&[backend.addr]);
    assert_eq!(status(&proxy.get("/")), 200);
    let document = proxy.admin("/openapi.json");
    let body = document.split_once("\r\n\r\n").expect("a body").1;
    let document: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 10, "{paths:?}");
    for (path, operations) in paths {
        // Streams have no end; they have tests of their own.
        if operations["get"]["responses"]["200"]["content"]["text/event-stream"].is_object() {
            continue;
        }
        let path = path.replace("{name}", "test").replace("{address}", &backend.addr.to_string());
        for method in operations.as_object().expect("operations").keys() {
            let answer = proxy.admin_ask(&method.to_uppercase(), &path);
            assert!((200..300).contains(&status(&answer)), "{method} {path}: {answer}");
        }
    }
    for (path, wanted) in [("/api/v1/services/nobody", 404), ("/nowhere", 404)] {
        let answer = proxy.admin(path);
        assert_eq!(status(&answer), wanted, "{answer}");
        assert!(answer.contains("remedy"), "{path}: {answer}");
    }
}

#[test]
fn an_operator_drains_an_endpoint_and_takes_it_back() {
    let backends = [Backend::answering("one"), Backend::answering("two")];
    let proxy = Proxy::start(&[backends[0].addr, backends[1].addr]);
    let mut client = Client::of(&proxy);
    let mut bodies = |n: usize| {
        let mut seen: Vec<String> =
            (0..n).map(|_| client.get("/").split("\r\n\r\n").nth(1).unwrap_or("").into()).collect();
        seen.sort();
        seen.dedup();
        seen
    };
    assert_eq!(bodies(10), ["one", "two"]);
    let drain = format!("/api/v1/services/test/endpoints/{}/drain", backends[0].addr);
    let answer = proxy.admin_ask("POST", &drain);
    assert!((200..300).contains(&status(&answer)), "{answer}");
    common::eventually("drained", || bodies(10) == ["two"]);
    let answer = proxy.admin_ask("DELETE", &drain);
    assert!((200..300).contains(&status(&answer)), "{answer}");
    common::eventually("back", || bodies(10) == ["one", "two"]);
    let wrong = proxy.admin_ask("POST", "/api/v1/services/test/endpoints/127.0.0.1:1/drain");
    assert_eq!(status(&wrong), 404, "{wrong}");
}

#[test]
fn the_admin_page_and_probes() {
    let backend = Backend::answering("x");
    let mut proxy = Proxy::start(&[backend.addr]);
    assert_eq!(status(&proxy.admin("/livez")), 200);
    common::eventually("ready", || status(&proxy.admin("/readyz")) == 200);
    let page = proxy.admin("/");
    assert!(page.contains("<table") && page.contains(&backend.addr.to_string()), "{page}");
    assert_eq!(field(&page, "content-type"), Some("text/html; charset=utf-8"));
    // A session keeps the drain from ending, so that readiness can be seen to turn.
    let mut client = Client::of(&proxy);
    assert_eq!(status(&client.get("/")), 200);
    proxy.running.drain();
    common::eventually("not ready", || status(&proxy.admin("/readyz")) == 503);
    drop(client);
    assert!(proxy.running.wait(common::PATIENCE));
}
