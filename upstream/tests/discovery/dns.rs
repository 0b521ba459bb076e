//! Endpoints from DNS: real messages over UDP, from a server that can also fail.

use crate::service::Service;
use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

/// What a name server says of every question.
#[derive(Clone, Debug)]
enum Zone {
    Records(Vec<(&'static str, RData)>),
    Fails(ResponseCode),
    /// It hears nothing.
    Silent,
}

struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    questions: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let (zone, questions) = (Arc::new(Mutex::new(zone)), Arc::new(AtomicUsize::new(0)));
        let (present, asked) = (zone.clone(), questions.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                asked.fetch_add(1, Ordering::Relaxed);
                let question = Message::from_vec(&buffer[..length]).expect("a question");
                let zone = present.lock().expect("no panic").clone();
                if let Some(answer) = answer(&question, zone) {
                    socket.send_to(&answer, from).await.expect("sent");
                }
            }
        });
        Self { address, zone, questions }
    }

    fn says(&self, zone: Zone) {
        *self.zone.lock().expect("no panic") = zone;
    }

    fn asked(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }
}

fn answer(question: &Message, zone: Zone) -> Option<Vec<u8>> {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    let query = question.queries.first().expect("one question").clone();
    let (name, kind) = (query.name().clone(), query.query_type());
    answer.add_query(query);
    match zone {
        Zone::Silent => return None,
        Zone::Fails(code) => answer.metadata.response_code = code,
        Zone::Records(records) => {
            for (owner, data) in records {
                if data.record_type() == kind && Name::from_ascii(owner).expect("a name") == name {
                    answer.add_answer(Record::from_rdata(name.clone(), 1, data));
                }
            }
        }
    }
    Some(answer.to_vec().expect("a message"))
}

fn a(last: u8) -> RData {
    RData::A(A::new(10, 0, 0, last))
}

fn pods(last: &[u8]) -> Zone {
    Zone::Records(last.iter().map(|&last| ("pods.test.", a(last))).collect())
}

#[tokio::test]
async fn addresses_follow_the_answer_within_its_time_to_live() {
    let server = NameServer::start(pods(&[2, 1])).await;
    let service = Service::of(&format!("dns://pods.test.:80?server={}", server.address));
    service.becomes(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    server.says(pods(&[2, 3]));
    service.becomes(&["10.0.0.2:80", "10.0.0.3:80"]).await;
}

#[tokio::test]
async fn whatever_the_server_fails_with_the_last_good_set_stays() {
    let server = NameServer::start(pods(&[1])).await;
    let service = Service::of(&format!("dns://pods.test.:80?server={}", server.address));
    service.becomes(&["10.0.0.1:80"]).await;
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NXDomain] {
        server.says(Zone::Fails(code));
        service.complains("pods.test.").await;
        assert_eq!(service.usable().await, ["10.0.0.1:80"]);
        server.says(pods(&[1]));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !service.is_well() {
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(5)).await;
        }
    }
    server.says(Zone::Records(Vec::new()));
    service.complains("pods.test.").await;
    assert_eq!(service.usable().await, ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_silent_server_is_complained_of() {
    let server = NameServer::start(Zone::Silent).await;
    let service = Service::of(&format!("dns://pods.test.:80?server={}", server.address));
    service.complains("pods.test.").await;
    assert_eq!(service.usable().await, [""; 0]);
    server.says(pods(&[1]));
    service.becomes(&["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn a_failed_endpoint_makes_it_ask_again_but_not_more_than_once_a_second() {
    let server = NameServer::start(pods(&[1])).await;
    let service = Service::of(&format!("dns://pods.test.:80?server={}", server.address));
    service.becomes(&["10.0.0.1:80"]).await;
    let before = (server.asked(), Instant::now());
    while before.1.elapsed() < Duration::from_secs(3) {
        service.pump.refresh();
        sleep(Duration::from_millis(10)).await;
    }
    let asked = server.asked() - before.0;
    assert!((2..=4).contains(&asked), "{asked} questions in three seconds");
}

#[tokio::test]
async fn ipv6_where_there_is_no_ipv4() {
    let six = RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    let server = NameServer::start(Zone::Records(vec![("pods.test.", six.clone())])).await;
    let service = Service::of(&format!("dns://pods.test.:80?server={}", server.address));
    service.becomes(&["[fd00::1]:80"]).await;
    // A Pod with both is one Pod.
    server.says(Zone::Records(vec![("pods.test.", six), ("pods.test.", a(1))]));
    service.becomes(&["10.0.0.1:80"]).await;
}

#[tokio::test]
async fn service_records_say_port_weight_and_order() {
    let srv = |priority, weight, port, target: &str| {
        RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).expect("a name")))
    };
    let server = NameServer::start(Zone::Records(vec![
        ("_http._tcp.test.", srv(1, 10, 8080, "one.test.")),
        ("_http._tcp.test.", srv(1, 30, 8081, "two.test.")),
        ("_http._tcp.test.", srv(2, 10, 8082, "spare.test.")),
        ("one.test.", a(1)),
        ("two.test.", a(2)),
        ("spare.test.", a(3)),
    ]))
    .await;
    let service = Service::of(&format!("srv://_http._tcp.test.?server={}", server.address));
    service.becomes(&["10.0.0.1:8080", "10.0.0.2:8081"]).await;
    let views = service.pump.explain().await;
    let share = |address: &str| {
        views
            .endpoints
            .iter()
            .find(|v| v.endpoint.address.to_string() == address)
            .map(|v| (v.fair_share * 100.0).round())
    };
    assert_eq!((share("10.0.0.1:8080"), share("10.0.0.2:8081")), (Some(25.0), Some(75.0)));
    assert_eq!(share("10.0.0.3:8082"), Some(0.0));
}
