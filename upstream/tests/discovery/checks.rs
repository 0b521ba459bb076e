//! Active checks against servers that pass, fail and hang.

use crate::service::Service;
use evenkeel_upstream::check::{Config, Dial, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn config(kind: Kind) -> Option<Config> {
    let every = Duration::from_millis(20);
    Some(Config { kind, every, timeout: Duration::from_millis(200), unhealthy: 3, healthy: 2, dial: Dial::default() })
}

fn http() -> Option<Config> {
    config(Kind::Http { path: "/healthz".into(), host: None, status: (200, 299) })
}

/// A server that answers with the present status; 0: not at all.
async fn server(status: u16) -> (String, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let status = Arc::new(AtomicU16::new(status));
    let present = status.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let present = present.clone();
            tokio::spawn(async move {
                let mut request = [0; 512];
                // A check that gave up is not this server's concern.
                let _gone = stream.read(&mut request).await;
                let status = match present.load(Ordering::Relaxed) {
                    _ if !request.starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:") => 400,
                    0 => std::future::pending().await,
                    status => status,
                };
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
                let _gone = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, status)
}

#[tokio::test]
async fn an_endpoint_is_used_again_when_it_passes_again() {
    let (first, status) = server(200).await;
    let (second, _) = server(204).await;
    let (third, _) = server(200).await;
    let mut all = [&*first, &*second, &*third];
    all.sort_unstable();
    let service = Service::checked(&all.join(","), http());
    service.becomes(&all).await;
    for failing in [503, 0] {
        status.store(failing, Ordering::Relaxed);
        let others: Vec<&str> = all.iter().copied().filter(|a| *a != first).collect();
        service.becomes(&others).await;
        status.store(200, Ordering::Relaxed);
        service.becomes(&all).await;
    }
    // Down and up, twice; a first impression that confirms what was assumed is no change.
    assert_eq!(service.health_facts().len(), 4);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_a_tcp_check() {
    let (alive, _) = server(200).await;
    let (other, _) = server(200).await;
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound").to_string()
    };
    let mut alive = [&*alive, &*other];
    alive.sort_unstable();
    let service = Service::checked(&format!("{dead},{}", alive.join(",")), config(Kind::Tcp));
    service.becomes(&alive).await;
    let views = service.pump.explain().await;
    let view = views.endpoints.iter().find(|v| v.endpoint.address.to_string() == dead).expect("it is known");
    assert!(view.explanation.contains("cannot connect"), "{}", view.explanation);
}
