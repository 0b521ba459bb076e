//! Backends that break off, at every point of a turn.

mod common;

use common::{Backend, Proxy, field, read_all, read_head, read_response, reset, respond, status};
use std::io::{Read, Write};
use std::sync::mpsc;

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";

#[test]
fn a_backend_that_is_not_there_costs_no_request() {
    let good = Backend::answering("good");
    let proxy = Proxy::start(&[Backend::nobody(), good.addr]);
    let mut client = proxy.connect();
    for i in 0..20 {
        client.write_all(POST.as_bytes()).expect("sent");
        // Not even a POST: it provably never ran.
        let response = read_response(&mut client);
        assert_eq!((status(&response), response.ends_with("good")), (200, true), "{i}: {response}");
        // The backend does not read bodies; what it gets next must be a head.
        drop(client);
        client = proxy.connect();
    }
}

#[test]
fn no_backend_at_all_is_a_502_that_says_why() {
    let proxy = Proxy::start(&[Backend::nobody()]);
    let response = proxy.get("/");
    assert_eq!(status(&response), 502, "{response}");
    assert_eq!(field(&response, "evenkeel-reason"), Some("connect-failed; phase=connect"), "{response}");
}

#[test]
fn a_stale_pooled_connection_is_replaced_unseen() {
    // Serves one request a connection, then closes it without saying so.
    let backend = Backend::start(|mut stream, _| {
        respond(&mut stream, 200, "once");
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    for _ in 0..50 {
        client.write_all(GET.as_bytes()).expect("sent");
        assert_eq!(status(&read_response(&mut client)), 200);
    }
    assert_eq!(backend.connections(), 50);
}

#[test]
fn a_request_that_may_have_run_is_not_run_again() {
    // The first request on each connection is answered; the second is read and then reset.
    let backend = Backend::start(|mut stream, _| {
        respond(&mut stream, 200, "first");
        let _body = stream.read(&mut [0; 4]);
        if !read_head(&mut stream).is_empty() {
            reset(stream);
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(POST.as_bytes()).expect("sent");
    assert_eq!(status(&read_response(&mut client)), 200);
    client.write_all(POST.as_bytes()).expect("sent");
    let response = read_response(&mut client);
    assert_eq!(status(&response), 502, "{response}");
    assert_eq!(field(&response, "evenkeel-reason"), Some("endpoint-closed; phase=wait"));
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_new_connection_reset_before_its_answer_is_not_tried_again_unless_asked_for() {
    let breaks = |asked: bool| {
        let backend = Backend::start(|mut stream, number| {
            read_head(&mut stream);
            if number == 0 {
                reset(stream);
            } else {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("answered");
                let _end = stream.read(&mut [0]);
            }
        });
        let proxy = Proxy::with(&[backend.addr], |service| service.retry.on_reset = asked);
        status(&proxy.get("/"))
    };
    assert_eq!(breaks(false), 502);
    assert_eq!(breaks(true), 200);
}

#[test]
fn a_truncated_response_never_looks_complete() {
    let heads = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ];
    for head in heads {
        let backend = Backend::start(move |mut stream, _| {
            read_head(&mut stream);
            stream.write_all(head.as_bytes()).expect("sent");
        });
        let proxy = Proxy::start(&[backend.addr]);
        let response = proxy.ask(GET);
        assert!(response.ends_with("<reset>"), "{response:?}");
        assert!(!response.contains("\r\n0\r\n\r\n"), "{response:?}");
    }
}

#[test]
fn a_response_without_length_ends_with_its_connection() {
    let backend = Backend::start(|mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").expect("sent");
    });
    let proxy = Proxy::start(&[backend.addr]);
    // In chunks for HTTP/1.1, so that the client's connection goes on …
    let response = proxy.get("/");
    assert_eq!(field(&response, "transfer-encoding"), Some("chunked"));
    assert!(response.ends_with("9\r\nall of it\r\n0\r\n\r\n"), "{response:?}");
    // … and as it is for HTTP/1.0, whose end is the end of the connection.
    let response = proxy.ask("GET / HTTP/1.0\r\nHost: test\r\n\r\n");
    assert!(response.ends_with("\r\n\r\nall of it"), "{response:?}");
}

#[test]
fn a_response_without_length_that_breaks_off_never_looks_complete() {
    let (written, breaks) = mpsc::channel();
    let breaks = std::sync::Mutex::new(breaks);
    let backend = Backend::start(move |mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").expect("sent");
        breaks.lock().expect("one connection").recv().expect("the client has seen it");
        reset(stream);
    });
    let proxy = Proxy::start(&[backend.addr]);
    let mut client = proxy.connect();
    client.write_all(GET.as_bytes()).expect("sent");
    let head = read_head(&mut client);
    assert_eq!(status(&head), 200);
    let mut part = [0; 9];
    client.read_exact(&mut part).expect("the first chunk");
    assert_eq!(&part, b"4\r\npart\r\n");
    written.send(()).expect("the backend waits");
    assert_eq!(read_all(&mut client), "<reset>");
}

#[test]
fn nonsense_from_a_backend_is_a_502() {
    for nonsense in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 999 Odd\r\n\r\n",
        "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
    ] {
        let backend = Backend::start(move |mut stream, _| {
            read_head(&mut stream);
            stream.write_all(nonsense.as_bytes()).expect("sent");
            let _end = stream.read(&mut [0]);
        });
        let proxy = Proxy::start(&[backend.addr]);
        let response = proxy.get("/");
        assert_eq!(status(&response), 502, "{nonsense:?}: {response}");
        assert_eq!(field(&response, "evenkeel-reason"), Some("endpoint-protocol; phase=wait"), "{nonsense:?}");
    }
}

#[test]
fn bytes_behind_a_response_never_reach_the_next_client() {
    let backend = Backend::start(|mut stream, _| {
        while !read_head(&mut stream).is_empty() {
            let both =
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmineHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
            if stream.write_all(both.as_bytes()).is_err() {
                return;
            }
        }
    });
    let proxy = Proxy::start(&[backend.addr]);
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.write_all(GET.as_bytes()).expect("sent");
        assert!(read_response(&mut client).ends_with("mine"));
    }
    assert_eq!(backend.connections(), 20);
}

#[test]
fn an_endpoint_that_does_not_answer_is_a_504() {
    let backend = Backend::start(|mut stream, _| {
        let _end = stream.read_to_end(&mut Vec::new());
    });
    let proxy = Proxy::with(&[backend.addr], |service| {
        service.timeouts.request = Some(std::time::Duration::from_millis(50));
    });
    let response = proxy.get("/");
    assert_eq!(status(&response), 504, "{response}");
    assert_eq!(field(&response, "evenkeel-reason"), Some("endpoint-timeout; phase=wait"));
}

#[test]
fn an_early_answer_to_an_upload_arrives() {
    // Says no after the head and stops reading.
    let backend = Backend::start(|mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").expect("sent");
    });
    let proxy = Proxy::start(&[backend.addr]);
    for _ in 0..10 {
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 50000000\r\n\r\n";
        client.write_all(head.as_bytes()).expect("sent");
        let mut sender = client.try_clone().expect("a second handle");
        let upload = std::thread::spawn(move || {
            // Ends when nobody reads any more, or when all is sent.
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..200 {
                if sender.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        let response = read_response(&mut client);
        assert_eq!((status(&response), response.ends_with("no")), (413, true), "{response}");
        drop(client);
        upload.join().expect("the uploader ends");
    }
}

#[test]
fn a_503_is_tried_elsewhere_if_configured_and_passed_on_if_not() {
    let ask = |asked: bool, request: &str| {
        let (busy, good) =
            (Backend::start(|mut s, _| while respond(&mut s, 503, "busy") {}), Backend::answering("good"));
        let proxy = Proxy::with(&[busy.addr, good.addr], |service| service.retry.on_unavailable = asked);
        // Whoever is first in turn, one of two is with the busy one.
        let mut statuses = [proxy.ask(request), proxy.ask(request)].map(|response| status(&response));
        statuses.sort_unstable();
        statuses
    };
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(false, get), [200, 503]);
    assert_eq!(ask(true, get), [200, 200]);
    // It answered, so it may have run.
    assert_eq!(ask(true, post), [200, 503]);
}

#[test]
fn a_backend_that_serves_one_connection_at_a_time_is_not_blocked_by_a_warm_link() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if !read_head(&mut stream).is_empty() {
                // The next request, or the end of the test, is of no interest.
                let _gone = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ndone");
            }
        }
    });
    let proxy = Proxy::start(&[addr]);
    for _ in 0..5 {
        assert_eq!(status(&proxy.get("/")), 200);
    }
}
