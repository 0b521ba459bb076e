//! TLS with real clients and servers: OpenSSL, curl, wrk, nginx, Python.

mod common;

use common::peers::{Nginx, Process, Wrk, directory, free_port, have, python};
use common::pki::{Pki, s_client};
use common::sockets::{Clients, Pods};
use common::{Backend, Proxy, eventually, field, read_all, status};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/peers.py");
const GET: &str = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";

/// The server of peers.py.
fn aiohttp(python: &Path) -> (SocketAddr, Process) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Command::new(python);
    command.args([SCRIPT, "serve", &addr.port().to_string()]);
    (addr, Process::start(&mut command, directory("aiohttp")).listening(addr))
}

fn curl(ca: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "20", "--cacert"]).arg(ca).args(arguments);
    command.output().expect("curl runs")
}

fn said(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A service that ends TLS, with more under `tls`.
fn terminating(pki: &Pki, more: &str, backend: SocketAddr, service: &str) -> Proxy {
    let files = pki.sign("server", "/CN=server", "DNS:a.example,DNS:localhost,IP:127.0.0.1");
    Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{backend}', tls: {{{}{more}}}{service}}}\n",
        files.yaml()
    ))
}

#[test]
fn clients_of_other_people_in_both_versions() {
    if !have(&["openssl", "curl", "wrk"]) {
        return;
    }
    let (pki, nginx) = (Pki::new(), Nginx::start());
    let proxy = terminating(&pki, "", nginx.addr, "");
    let url = format!("https://localhost:{}/page", proxy.addr.port());
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        assert_eq!(said(&curl(&pki.ca(), &[version, &[&url]].concat())), "a page of nginx\n");
    }
    // Several on one connection.
    let two = curl(&pki.ca(), &["-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects} ", &url, &url]);
    assert_eq!(said(&two), "1 0 ");
    let load = Wrk::to(&url, 50, 2).done();
    assert!(load.requests > 100 && load.failures == 0, "{load:?}");
    assert!(proxy.metric("evenkeel_tls_handshakes_total", "") >= 53.0);
    // What a client cannot check is refused by it.
    assert!(
        !curl(
            &pki.ca(),
            &[
                "--resolve",
                &format!("b.example:{}:127.0.0.1", proxy.addr.port()),
                &format!("https://b.example:{}/page", proxy.addr.port())
            ]
        )
        .status
        .success()
    );
}

#[test]
fn python_says_everything_over_tls_too() {
    let Some(python) = python() else { return };
    if !have(&["openssl"]) {
        return;
    }
    let pki = Pki::new();
    let (backend, _server) = aiohttp(&python);
    for protocol in ["auto", "http"] {
        let proxy = terminating(&pki, "", backend, &format!(", protocol: {protocol}"));
        let mut command = Command::new(&python);
        command.args([SCRIPT, "ask", &format!("https://localhost:{}", proxy.addr.port())]);
        let out = command.env("SSL_CERT_FILE", pki.ca()).env("REQUESTS_CA_BUNDLE", pki.ca()).output().expect("it runs");
        said(&out);
    }
}

#[test]
fn the_certificate_is_that_of_the_name() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::answering("ok"));
    let one = pki.sign("one", "/CN=one", "DNS:a.example");
    let two = pki.sign("two", "/CN=two", "DNS:*.b.example,DNS:b.example");
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{}', tls: {{certs: [{{{}}}, {{{}}}]}}}}\n",
        backend.addr,
        one.yaml(),
        two.yaml()
    ));
    for (name, subject) in [
        ("a.example", "CN = one"),
        ("b.example", "CN = two"),
        ("X.B.example", "CN = two"),
        ("x.y.b.example", "CN = one"),
        ("nobody.example", "CN = one"),
    ] {
        let page = s_client(proxy.addr, &pki.ca(), &["-servername", name], "");
        assert!(page.contains(&format!("subject={subject}")), "{name}: {page}");
    }
    assert!(s_client(proxy.addr, &pki.ca(), &["-noservername"], "").contains("subject=CN = one"));
}

#[test]
fn http_is_agreed_on_by_alpn_and_auto_passes_on_what_is_not() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::mirror());
    let http = terminating(&pki, "", backend.addr, ", protocol: http");
    let auto = terminating(&pki, "", backend.addr, "");
    for proxy in [&http, &auto] {
        let page = s_client(proxy.addr, &pki.ca(), &["-alpn", "h2,http/1.1"], "");
        assert!(page.contains("ALPN protocol: h2"), "{page}");
        let page = s_client(proxy.addr, &pki.ca(), &["-alpn", "http/1.1"], "");
        assert!(page.contains("ALPN protocol: http/1.1"), "{page}");
    }
    let http1 = terminating(&pki, "", backend.addr, ", protocol: http1");
    let http2 = terminating(&pki, "", backend.addr, ", protocol: http2");
    for proxy in [&http, &auto, &http2] {
        let page = s_client(proxy.addr, &pki.ca(), &["-alpn", "h2"], "");
        assert!(page.contains("ALPN protocol: h2"), "{page}");
    }
    let page = s_client(http1.addr, &pki.ca(), &["-alpn", "h2"], "");
    assert!(page.contains("no application protocol"), "{page}");
    let page = s_client(http2.addr, &pki.ca(), &["-alpn", "http/1.1"], "");
    assert!(page.contains("no application protocol"), "{page}");
    let page = s_client(auto.addr, &pki.ca(), &["-alpn", "mqtt"], "");
    assert!(page.contains("No ALPN negotiated") && page.contains("Verification: OK"), "{page}");
    eventually("it is counted", || http1.metric("evenkeel_session_ends_total", "client-tls") == 1.0);
}

#[test]
fn clients_show_certificates_and_endpoints_are_told_their_subject() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::mirror());
    // A name that would be two lines of a message.
    let client = pki.sign("client", "/O=Ship\r\nX-Evil: yes/CN=ann", "DNS:ann");
    let (cert, key) = (client.cert.display().to_string(), client.key.display().to_string());
    let ca = pki.ca().display().to_string();
    let more = |auth: &str| format!(", client_ca: '{ca}', client_auth: {auth}, client_header: X-Subject");
    let forged = "GET / HTTP/1.1\r\nHost: a\r\nX-Subject: CN=admin\r\nx_subject: CN=root\r\nConnection: close\r\n\r\n";
    let shows = ["-quiet", "-cert", &cert, "-key", &key];

    let required = terminating(&pki, &more("required"), backend.addr, "");
    let answer = s_client(required.addr, &pki.ca(), &shows, forged);
    let subjects: Vec<&str> = answer.lines().filter(|l| l.to_ascii_lowercase().starts_with("x-subject")).collect();
    assert_eq!(subjects.len(), 1, "{answer}");
    assert!(subjects[0].contains("CN=ann") && subjects[0].contains("%0D%0AX-Evil"), "{answer}");
    assert!(!answer.contains("CN=admin") && !answer.contains("CN=root"), "{answer}");
    let answer = s_client(required.addr, &pki.ca(), &["-quiet"], forged);
    assert!(answer.contains("certificate required") && !answer.contains("200 OK"), "{answer}");

    let optional = terminating(&pki, &more("optional"), backend.addr, "");
    let answer = s_client(optional.addr, &pki.ca(), &["-quiet"], forged);
    assert!(answer.contains("200 OK") && !answer.to_ascii_lowercase().contains("subject: cn"), "{answer}");
    assert!(s_client(optional.addr, &pki.ca(), &shows, forged).contains("CN=ann"));
    // One that somebody else signed is worse than none.
    let stranger = Pki::new();
    let other = stranger.sign("other", "/CN=eve", "DNS:eve");
    let (cert, key) = (other.cert.display().to_string(), other.key.display().to_string());
    let answer = s_client(optional.addr, &pki.ca(), &["-quiet", "-cert", &cert, "-key", &key], forged);
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[test]
fn certificates_are_renewed_under_load() {
    if !have(&["openssl", "wrk"]) {
        return;
    }
    let (pki, nginx) = (Pki::new(), Nginx::start());
    let proxy = terminating(&pki, "", nginx.addr, "");
    let wrk = Wrk::to(&format!("https://localhost:{}/page", proxy.addr.port()), 20, 60);
    let subject = || s_client(proxy.addr, &pki.ca(), &["-servername", "localhost"], "");
    assert!(subject().contains("subject=CN = server"));
    for number in 0..3 {
        // The key first, then the certificate: in between they do not fit.
        let name = format!("renewed {number}");
        let fresh = pki.sign("fresh", &format!("/CN={name}"), "DNS:localhost");
        std::fs::copy(&fresh.key, pki.path("server.key")).expect("copied");
        eventually("what does not fit is said", || {
            proxy.metric("evenkeel_events_total", "certificate-failed") == f64::from(number + 1)
        });
        std::fs::copy(&fresh.cert, pki.path("server.crt")).expect("copied");
        eventually("the new one is shown", || subject().contains(&format!("subject=CN = {name}")));
    }
    let load = wrk.stop();
    assert_eq!(load.failures, 0, "{load:?}");
    assert!(proxy.metric("evenkeel_certificate_expiry_timestamp_seconds", "") > 1.7e9);
}

/// nginx that ends TLS and, with a client authority, wants certificates.
fn nginx_tls(pki: &Pki, names: &str, client_ca: bool) -> (SocketAddr, Process) {
    let home = directory("nginx-tls");
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let files = pki.sign("nginx", "/CN=nginx", names);
    std::fs::copy(&files.cert, home.join("crt")).expect("copied");
    std::fs::copy(&files.key, home.join("key")).expect("copied");
    let verify = match client_ca {
        true => format!("ssl_client_certificate {}; ssl_verify_client on;", pki.ca().display()),
        false => String::new(),
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", home.display()))
        .concat();
    let config = format!(
        "daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen {addr} ssl; ssl_certificate {home}/crt; ssl_certificate_key {home}/key; {verify}\n\
         location / {{ return 200 \"name=$ssl_server_name client=$ssl_client_s_dn reused=$ssl_session_reused\\n\"; }} }} }}\n",
        home = home.display()
    );
    std::fs::write(home.join("nginx.conf"), config).expect("written");
    let mut command = Command::new("nginx");
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin");
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).arg("-e").arg(home.join("error.log"));
    (addr, Process::start(&mut command, home).listening(addr))
}

#[test]
fn endpoints_are_spoken_to_over_tls_and_must_be_who_they_should_be() {
    if !have(&["openssl", "nginx"]) {
        return;
    }
    let pki = Pki::new();
    let (addr, _nginx) = nginx_tls(&pki, "DNS:shop.example,IP:127.0.0.1", false);
    let ca = pki.ca().display().to_string();
    let stranger = Pki::new();
    let to = |tls: &str| {
        Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{addr}', upstream: {{tls: {tls}}}, health: {{check: {{http: {{path: /}}, every: 100ms}}}}}}\n"
        ))
    };
    let answer = to(&format!("{{ca: '{ca}', sni: shop.example}}")).get("/");
    assert!(status(&answer) == 200 && answer.contains("name=shop.example"), "{answer}");
    // By its address, which the certificate has, too.
    assert_eq!(status(&to(&format!("{{ca: '{ca}'}}")).get("/")), 200);
    assert_eq!(status(&to("{verify: false}").get("/")), 200);
    for wrong in [
        format!("{{ca: '{ca}', sni: other.example}}"),
        // Somebody else signs, or the system trusts: neither knows who signed it.
        format!("{{ca: '{}', sni: shop.example}}", stranger.ca().display()),
        "'on'".into(),
    ] {
        let proxy = to(&wrong);
        let answer = proxy.get("/");
        // With or without a verdict of the health check.
        let reason = field(&answer, "evenkeel-reason").unwrap_or_default();
        assert!(reason.starts_with("endpoint-tls") || reason.starts_with("no-endpoint"), "{answer}");
        eventually("the check says why", || proxy.admin("/api/v1/services/test").contains("invalid peer certificate"));
    }

    let many = to(&format!("{{ca: '{ca}', sni: shop.example}}"));
    let mut client = common::Client::of(&many);
    for _ in 0..50 {
        assert_eq!(status(&client.get("/")), 200);
    }
    assert!(many.metric("evenkeel_connects_total", "") <= 2.0, "links are used again");
}

#[test]
fn an_answer_that_ends_without_a_goodbye_does_not_look_whole() {
    if !have(&["openssl"]) {
        return;
    }
    let pki = Pki::new();
    let files = pki.sign("endpoint", "/CN=endpoint", "IP:127.0.0.1");
    let chain = vec![CertificateDer::from_pem_file(&files.cert).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(&files.key).expect("PEM");
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let config = Arc::new(config.expect("they fit"));
    for goodbye in [true, false] {
        let config = config.clone();
        // The end of the connection is the end of the body; whether that is its true end only TLS can say.
        let endpoint = Backend::start(move |stream, _| {
            let connection = rustls::ServerConnection::new(config.clone()).expect("settings that fit");
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut request = [0; 1024];
            if stream.read(&mut request).is_ok_and(|n| n > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it?").expect("sent");
                if goodbye {
                    stream.conn.send_close_notify();
                }
                stream.flush().expect("sent");
            }
        });
        let proxy = Proxy::yaml(&format!(
            "- {{name: test, listen: '127.0.0.1:0', target: '{}', upstream: {{tls: {{ca: '{}'}}}}}}\n",
            endpoint.addr,
            pki.ca().display()
        ));
        let answer = proxy.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.contains("all of it?"), "{answer}");
        assert_eq!(answer.ends_with("<reset>"), !goodbye, "{answer}");
        assert_eq!(answer.contains("\r\n0\r\n\r\n"), goodbye, "{answer}");
    }
}

#[test]
fn endpoints_that_want_a_certificate_get_ours() {
    if !have(&["openssl", "nginx"]) {
        return;
    }
    let pki = Pki::new();
    let (addr, _nginx) = nginx_tls(&pki, "IP:127.0.0.1", true);
    let own = pki.sign("own", "/CN=evenkeel", "DNS:evenkeel");
    let ca = pki.ca().display().to_string();
    let to = |more: &str| {
        let target = format!("target: '{addr}', upstream: {{tls: {{ca: '{ca}'{more}}}}}");
        Proxy::yaml(&format!("- {{name: test, listen: '127.0.0.1:0', {target}}}\n"))
    };
    let answer = to(&format!(", {}", own.yaml())).get("/");
    assert!(answer.contains("client=CN=evenkeel"), "{answer}");
    let answer = to("").get("/");
    assert!(answer.contains("No required SSL certificate"), "nginx says so over HTTP: {answer}");
}

#[test]
fn tls_is_passed_on_unread_by_its_name() {
    if !have(&["openssl", "nginx", "curl"]) {
        return;
    }
    let pki = Pki::new();
    let (one, _one) = nginx_tls(&pki, "DNS:one.example", false);
    let (two, _two) = nginx_tls(&pki, "DNS:*.two.example", false);
    let own = pki.sign("own", "/CN=own", "DNS:own.example");
    let plain = Backend::answering("plain");
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listen = format!("listen: '{at}'");
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, {listen}, target: '{one}', sni: one.example}}\n\
         - {{name: b, {listen}, target: '{two}', sni: '*.two.example', protocol: tcp}}\n\
         - {{name: c, {listen}, target: '{}', sni: own.example, tls: {{{}}}}}\n",
        plain.addr,
        own.yaml()
    ));
    let ask = |name: &str| {
        let resolve = format!("{name}:{}:127.0.0.1", at.port());
        curl(&pki.ca(), &["--resolve", &resolve, &format!("https://{name}:{}/", at.port())])
    };
    assert!(said(&ask("one.example")).contains("name=one.example"));
    assert!(said(&ask("x.two.example")).contains("name=x.two.example"));
    assert_eq!(said(&ask("own.example")), "plain");
    // A name that nobody has, and bytes that are no TLS.
    let page = s_client(at, &pki.ca(), &["-servername", "nobody.example"], "");
    assert!(page.contains("unrecognized name"), "{page}");
    assert_eq!(proxy.get("/"), "");
    for (service, sessions) in [("test", 1.0), ("b", 1.0), ("c", 1.0)] {
        eventually("each session is counted where it went", || {
            proxy.metric("evenkeel_session_ends_total", &format!("service=\"{service}\",cause=\"done\"")) == sessions
        });
    }
    assert_eq!(proxy.metric("evenkeel_sessions", ""), 0.0);
}

#[test]
fn tls_and_plain_text_share_an_address() {
    if !have(&["openssl", "curl"]) {
        return;
    }
    let pki = Pki::new();
    let own = pki.sign("own", "/CN=own", "DNS:own.example");
    let (plain, inside) = (Backend::answering("plain"), Backend::answering("inside"));
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::yaml(&format!(
        "- {{name: a, listen: '{at}', target: '{}', sni: own.example, tls: {{{}}}}}\n\
         - {{name: test, listen: '{at}', target: '{}', protocol: http}}\n",
        inside.addr,
        own.yaml(),
        plain.addr
    ));
    let resolve = format!("own.example:{}:127.0.0.1", at.port());
    let page = curl(&pki.ca(), &["--resolve", &resolve, &format!("https://own.example:{}/", at.port())]);
    assert_eq!(said(&page), "inside");
    assert!(proxy.get("/").ends_with("plain"));
}

#[test]
fn a_session_counts_for_the_service_that_its_name_leads_to() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::answering("ok"));
    let own = pki.sign("own", "/CN=own", "DNS:a.example,DNS:b.example");
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '{at}', target: '{to}', sni: a.example, tls: {{{files}}}}}\n\
         - {{name: b, listen: '{at}', target: '{to}', sni: b.example, tls: {{{files}}}, limits: {{sessions: 1}}}}\n",
        to = backend.addr,
        files = own.yaml()
    ));
    let ask = |name: &str| s_client(at, &pki.ca(), &["-quiet", "-servername", name], GET);
    let ca = pki.ca();
    // One that stays.
    let staying = std::thread::spawn(move || {
        s_client(at, &ca, &["-quiet", "-servername", "b.example"], "GET / HTTP/1.1\r\nHost: b\r\n\r\n")
    });
    eventually("it is there", || proxy.metric("evenkeel_sessions", "service=\"b\"") == 1.0);
    for _ in 0..3 {
        assert!(!ask("b.example").contains("HTTP/1.1"), "there is room for one");
        assert!(ask("a.example").contains("HTTP/1.1 200"), "and beside it for others");
    }
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", "service=\"b\",limit=\"sessions\""), 3.0);
    assert_eq!(proxy.metric("evenkeel_sessions", "service=\"b\""), 1.0);
    drop(proxy);
    staying.join().expect("it ended with the proxy");
}

#[test]
fn large_bodies_and_slow_readers() {
    let Some(python) = python() else { return };
    if !have(&["openssl", "curl"]) {
        return;
    }
    let pki = Pki::new();
    let (backend, _server) = aiohttp(&python);
    let proxy = terminating(&pki, "", backend, "");
    let home = directory("bodies");
    let file = home.join("upload");
    std::fs::write(&file, (0..8_000_000u32).flat_map(|i| (i as u8).to_le_bytes()).collect::<Vec<u8>>())
        .expect("written");
    let url = format!("https://localhost:{}/echo", proxy.addr.port());
    let page = said(&curl(&pki.ca(), &["--data-binary", &format!("@{}", file.display()), &url]));
    assert!(page.contains("\"length\": 8000000"), "{page}");
    let page = said(&curl(&pki.ca(), &["-T", &file.display().to_string(), "-H", "Transfer-Encoding: chunked", &url]));
    assert!(page.contains("\"length\": 8000000"), "{page}");
    // Down, at a pace at which everything in between fills up.
    let url = format!("https://localhost:{}/stream?n=40000", proxy.addr.port());
    let page = said(&curl(&pki.ca(), &["--limit-rate", "300k", &url]));
    assert!(page.starts_with("piece 0\n") && page.ends_with("piece 39999\n"), "{} bytes", page.len());
    std::fs::remove_dir_all(home).expect("removed");
}

#[test]
fn opaque_bytes_over_tls_and_a_server_that_speaks_first() {
    if !have(&["openssl"]) {
        return;
    }
    let pki = Pki::new();
    // Speaks first, says again what it hears, and goes.
    let backend = Backend::start(|mut stream, _| {
        stream.write_all(b"hello\n").expect("sent");
        let mut heard = [0; 11];
        stream.read_exact(&mut heard).expect("some words");
        stream.write_all(&heard).expect("sent");
    });
    let proxy = terminating(&pki, "", backend.addr, ", protocol: tcp");
    let heard = s_client(proxy.addr, &pki.ca(), &["-quiet"], "some words\n");
    assert!(heard.contains("hello\nsome words\n") && !heard.contains("unexpected eof"), "{heard}");
    eventually("both ended it", || proxy.metric("evenkeel_session_ends_total", "cause=\"done\"") == 1.0);
}

#[test]
fn garbage_and_half_handshakes_harm_nobody_else() {
    if !have(&["openssl", "curl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::answering("ok"));
    let proxy = terminating(&pki, "", backend.addr, ", timeouts: {header: 1s}");
    let mut silent: Vec<TcpStream> = (0..200).map(|_| proxy.connect()).collect();
    // A ClientHello that never ends.
    for client in &mut silent[100..] {
        client.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").expect("sent");
    }
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x02\x01\x00",
        b"\x16\x03\x01\x00\x04\x0e\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x80\x2e\x01\x03\x01",
        &[0xFF; 40_000],
    ] {
        let mut client = proxy.connect();
        // It may be told to go before it has said everything.
        let _gone = client.write_all(garbage);
        let _half = client.shutdown(std::net::Shutdown::Write);
        let heard = read_all(&mut client);
        assert!(!heard.contains("HTTP/1.1 200"), "{heard}");
    }
    let url = format!("https://localhost:{}/", proxy.addr.port());
    assert_eq!(said(&curl(&pki.ca(), &[&url])), "ok");
    for client in &mut silent {
        // Up to an end, not up to a timeout of ours.
        read_all(client);
    }
    eventually("nobody is left", || proxy.metric("evenkeel_sessions", "") == 0.0);
    assert_eq!(proxy.metric("evenkeel_limit_hits_total", "limit=\"header\""), 200.0);
    assert_eq!(said(&curl(&pki.ca(), &[&url])), "ok");
}

#[test]
fn old_versions_are_refused_if_one_says_so() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::answering("ok"));
    let proxy = terminating(&pki, ", min_version: 1.3", backend.addr, "");
    assert!(s_client(proxy.addr, &pki.ca(), &["-tls1_3", "-quiet"], GET).contains("HTTP/1.1 200"));
    assert!(s_client(proxy.addr, &pki.ca(), &["-tls1_2"], "").contains("protocol version"));
    let any = terminating(&pki, "", backend.addr, "");
    assert!(s_client(any.addr, &pki.ca(), &["-tls1_2", "-quiet"], GET).contains("HTTP/1.1 200"));
    // Nobody should speak these any more, and OpenSSL has to be talked into it.
    let old = s_client(any.addr, &pki.ca(), &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "");
    assert!(old.contains("no peer certificate available"), "{old}");
}

#[test]
fn a_drain_ends_tls_sessions_with_a_goodbye() {
    if !have(&["openssl"]) {
        return;
    }
    let (pki, backend) = (Pki::new(), Backend::answering("ok"));
    let mut proxy = terminating(&pki, "", backend.addr, "");
    let addr = proxy.addr;
    let ca = pki.ca();
    let client =
        std::thread::spawn(move || s_client(addr, &ca, &["-quiet", "-ign_eof"], "GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    eventually("it was served", || backend.connections() == 1 && proxy.metric("evenkeel_turns_active", "") == 0.0);
    proxy.running.drain();
    assert!(proxy.running.wait(Duration::from_secs(10)), "all sessions are over");
    let heard = client.join().expect("it ends");
    assert!(heard.contains("HTTP/1.1 200") && !heard.contains("unexpected eof"), "{heard}");
}

#[test]
fn websocket_sessions_over_tls_are_moved_and_told_to_go() {
    let Some(python) = python() else { return };
    if !have(&["openssl"]) {
        return;
    }
    let pki = Pki::new();
    let pods = Pods::start(&python, 2);
    let files = pki.sign("server", "/CN=server", "DNS:localhost");
    let mut proxy = Proxy::yaml(&format!(
        "- {{name: test, listen: '127.0.0.1:0', target: '{},{}', protocol: websocket, tls: {{{}}}, upstream: {{drain_grace: 2s}}}}\n",
        pods.addrs[0],
        pods.addrs[1],
        files.yaml()
    ));
    let clients = Clients::secure(&python, proxy.addr.port(), &pki.ca(), 40);
    assert_eq!(pods.open().iter().sum::<u64>(), 40);
    let drain = format!("/api/v1/services/test/endpoints/{}/drain", pods.addrs[0]);
    assert_eq!(status(&proxy.admin_ask("POST", &drain)), 200);
    eventually("all are on the other Pod", || pods.open() == [0, 40]);
    proxy.running.drain();
    eventually("all are told", || pods.open() == [0, 0]);
    assert!(proxy.running.wait(common::PATIENCE));
    let seen = clients.stop_when_closed();
    assert_eq!(
        (&seen["codes"]["1001"], &seen["failed"], &seen["mismatched"]),
        (&40.into(), &0.into(), &0.into()),
        "{seen}"
    );
    assert!(seen["codes"]["1012"].as_u64().is_some_and(|moved| (15..=25).contains(&moved)), "{seen}");
}
