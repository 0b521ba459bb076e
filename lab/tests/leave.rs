//! An endpoint leaves, and comes back: by discovery, by the admin API, by weight 0; under HTTP, WebSocket and
//! opaque sessions.

mod common;

use common::peers::{directory, free_port, python};
use common::program::Program;
use common::sockets::{Clients, Pods};
use common::{Backend, Client, Proxy, connect, echo, echoes, eventually, read_head, status};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How an endpoint is made to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Its EndpointSlice says that it is terminating.
    Discovery,
    /// An operator says so.
    Admin,
    /// The configuration gives it no weight.
    Weight,
}

/// How long sessions have that cannot be asked to go.
const GRACE: Duration = Duration::from_secs(4);

/// Two endpoints of a service, of which the first leaves.
struct Service {
    name: &'static str,
    protocol: &'static str,
    listen: SocketAddr,
    endpoints: [SocketAddr; 2],
    /// Where the target is, if that is a file.
    file: PathBuf,
}

impl Service {
    fn configured(&self, way: Way, leaves: bool) -> String {
        let target = match way {
            Way::Discovery => format!("file://{}", self.file.display()),
            _ => {
                let weight = if way == Way::Weight && leaves { ";weight=0" } else { "" };
                format!("{}{weight},{}", self.endpoints[0], self.endpoints[1])
            }
        };
        format!(
            "- name: {}\n  listen: '{}'\n  protocol: {}\n  target: {target}\n  rebalance: off\n  \
             balance: {{slow_start: off, policy: {}}}\n  upstream: {{drain_grace: {}s}}\n",
            self.name,
            self.listen,
            self.protocol,
            if self.protocol == "http" { "round-robin" } else { "least-session" },
            GRACE.as_secs()
        )
    }

    /// Both endpoints as the control plane writes them.
    fn write_slices(&self, leaves: bool) {
        let slice = |(number, endpoint): (usize, &SocketAddr)| {
            let leaves = leaves && number == 0;
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: slice-{number}}}\n\
                 addressType: IPv4\nports: [{{port: {}}}]\nendpoints:\n- addresses: [{}]\n  \
                 conditions: {{ready: {}, serving: true, terminating: {leaves}}}\n",
                endpoint.port(),
                endpoint.ip(),
                !leaves
            )
        };
        let slices: Vec<String> = self.endpoints.iter().enumerate().map(slice).collect();
        let new = self.file.with_extension("new");
        std::fs::write(&new, slices.join("---\n")).expect("written");
        std::fs::rename(new, &self.file).expect("renamed");
    }
}

struct World {
    way: Way,
    program: Program,
    services: [Service; 3],
}

fn configuration(services: &[Service], way: Way, leaves: bool) -> String {
    let services: String = services.iter().map(|service| service.configured(way, leaves)).collect();
    format!("workers: 2\nservices:\n{services}")
}

impl World {
    fn start(way: Way, services: [Service; 3]) -> Self {
        services.iter().for_each(|service| service.write_slices(false));
        Self { way, program: Program::start(&configuration(&services, way, false)), services }
    }

    /// Makes the first endpoint of every service leave, or come back.
    fn set(&self, leaves: bool) {
        match self.way {
            Way::Discovery => self.services.iter().for_each(|service| service.write_slices(leaves)),
            Way::Weight => self.program.becomes(&configuration(&self.services, self.way, leaves)),
            Way::Admin => {
                for service in &self.services {
                    let path = format!("/api/v1/services/{}/endpoints/{}/drain", service.name, service.endpoints[0]);
                    let answer = self.program.ask(if leaves { "POST" } else { "DELETE" }, &path);
                    assert_eq!(status(&answer), 200, "{answer}");
                }
            }
        }
        for service in &self.services {
            eventually("the balancer knows", || {
                let known = self.program.service(service.name);
                let endpoints = known["endpoints"].as_array().expect("a list");
                let address = service.endpoints[0].to_string();
                endpoints.iter().any(|e| e["address"] == address && e["usable"] == !leaves)
            });
        }
    }
}

/// Answers with its name; requests for `/hold` wait until the gate opens.
struct Page {
    backend: Backend,
    requests: Arc<AtomicUsize>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Page {
    fn start(name: &'static str) -> Self {
        let (requests, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(false), Condvar::new())));
        let (count, held) = (requests.clone(), gate.clone());
        let backend = Backend::start(move |mut stream, _| {
            loop {
                let head = read_head(&mut stream);
                if head.is_empty() {
                    return;
                }
                count.fetch_add(1, SeqCst);
                if head.starts_with("GET /hold ") {
                    let open = held.0.lock().expect("no thread panics");
                    drop(held.1.wait_while(open, |open| !*open).expect("no thread panics"));
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { backend, requests, gate }
    }

    fn open(&self) {
        *self.gate.0.lock().expect("no thread panics") = true;
        self.gate.1.notify_all();
    }
}

fn an_endpoint_leaves_and_comes_back(way: Way) {
    let Some(python) = python() else { return };
    let home = directory("slices");
    let (pages, pods, echoing) =
        ([Page::start("first"), Page::start("second")], Pods::start(&python, 2), [echo(), echo()]);
    let service = |name: &'static str, protocol, endpoints: [SocketAddr; 2]| Service {
        name,
        protocol,
        listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
        endpoints,
        file: home.join(name),
    };
    let world = World::start(
        way,
        [
            service("web", "http", [pages[0].backend.addr, pages[1].backend.addr]),
            service("chat", "websocket", [pods.addrs[0], pods.addrs[1]]),
            service("raw", "tcp", [echoing[0].addr, echoing[1].addr]),
        ],
    );
    let [web, chat, raw] = [0, 1, 2].map(|i| world.services[i].listen);
    // Two answers under way, one at each; sessions of both kinds on both.
    let mut waiting: Vec<Client> = (0..2).map(|_| Client(connect(web))).collect();
    for client in &mut waiting {
        client.0.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    }
    eventually("one waits at each", || pages.iter().all(|page| page.requests.load(SeqCst) == 1));
    let mut client = Client(connect(web));
    let mut sockets = Clients::with(&python, chat, 40, &["--say", "0.5"]);
    assert_eq!(pods.open(), [20, 20]);
    // By the endpoint that they are on.
    let talk = || {
        let mut session = connect(raw);
        assert!(echoes(&mut session));
        session
    };
    let mut opaque = vec![talk()];
    opaque.insert(echoing[0].connections(), talk());
    assert_eq!((echoing[0].connections(), echoing[1].connections()), (1, 1));

    let began = Instant::now();
    world.set(true);
    // No new turns; what is under way finishes where it is, and its session goes on elsewhere.
    eventually("workers know", || (0..20).all(|_| client.get("/").ends_with("second")));
    let before = pages[0].requests.load(SeqCst);
    assert!((0..100).all(|_| client.get("/").ends_with("second")));
    pages.iter().for_each(Page::open);
    let mut finished: Vec<String> = waiting.iter_mut().map(|c| common::read_response(&mut c.0)).collect();
    finished.sort();
    assert!(finished[0].ends_with("first") && finished[1].ends_with("second"), "{finished:?}");
    assert!(waiting.iter_mut().all(|client| client.get("/").ends_with("second")));
    assert_eq!(pages[0].requests.load(SeqCst), before);
    let newcomers: Vec<_> = (0..4).map(|_| talk()).collect();
    assert_eq!((echoing[0].connections(), echoing[1].connections()), (1, 5));
    // WebSocket sessions are asked, and land elsewhere; those that are there already are not.
    eventually("sessions moved", || pods.open() == [0, 40]);
    let seen = sockets.seen();
    assert_eq!(
        (&seen["moves"], &seen["most_moves"], &seen["codes"]["1012"]),
        (&20.into(), &1.into(), &20.into()),
        "{seen}"
    );
    // Opaque ones have the grace, and no more.
    assert!(echoes(&mut opaque[0]));
    assert!(matches!(opaque[0].read(&mut [0]), Ok(0)), "closed, not reset");
    assert!(began.elapsed() >= GRACE, "{:?}", began.elapsed());
    assert!(echoes(&mut opaque[1]), "the other one is not touched");

    world.set(false);
    eventually("it is asked again", || client.get("/").ends_with("first"));
    // It has no session, the other one five.
    eventually("it has opaque sessions", || {
        drop(talk());
        echoing[0].connections() > 1
    });
    let more = Clients::with(&python, chat, 20, &["--say", "0.5"]);
    assert_eq!(pods.open(), [20, 40]);
    for clients in [sockets, more] {
        let seen = clients.stop();
        assert_eq!(
            (&seen["failed"], &seen["refused"], &seen["mismatched"]),
            (&0.into(), &0.into(), &0.into()),
            "{seen}"
        );
    }
    drop(newcomers);
    std::fs::remove_dir_all(home).expect("removed");
}

#[test]
fn by_discovery() {
    an_endpoint_leaves_and_comes_back(Way::Discovery);
}

#[test]
fn by_the_admin_api() {
    an_endpoint_leaves_and_comes_back(Way::Admin);
}

#[test]
fn by_weight_zero() {
    an_endpoint_leaves_and_comes_back(Way::Weight);
}

#[test]
fn a_session_of_which_nobody_said_anything_yet_has_the_grace_too() {
    // The server waits for the client, the client for nothing.
    let silent = Backend::start(|mut stream, _| drop(stream.read(&mut [0])));
    let other = echo();
    let proxy = Proxy::with(&[silent.addr, other.addr], |service| {
        service.upstream.drain_grace = Duration::from_secs(2);
        service.balance.core.slow_start = Duration::ZERO;
    });
    let mut sessions = vec![proxy.connect(), proxy.connect()];
    eventually("each has a link", || (silent.connections(), other.connections()) == (1, 1));
    let began = Instant::now();
    let drain = format!("/api/v1/services/test/endpoints/{}/drain", silent.addr);
    assert_eq!(status(&proxy.admin_ask("POST", &drain)), 200);
    eventually("one is closed", || {
        sessions.retain_mut(|session| {
            session.set_nonblocking(true).expect("an option");
            !matches!(session.read(&mut [0]), Ok(0))
        });
        sessions.len() == 1
    });
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    sessions[0].set_nonblocking(false).expect("an option");
    assert!(echoes(&mut sessions[0]), "the other one is not touched");
}
