//! The clients: each keeps one connection open and asks on it by a schedule drawn from the seed.
//!
//! The same seed gives the same schedule, so both phases face the same clients. All clients live on
//! one thread; what they saw is filed in one [`Ledger`].

use super::front::Front;
use super::{Options, Protocol};
use crate::client::{Closed, Connection};
use crate::pod::Kind;
use evenkeel_core::hash;
use evenkeel_core::rng::Rng;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

/// A request without an answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients behind schedule stop this long after the end; then fewer requests were sent than planned.
const OVERTIME: Duration = Duration::from_millis(500);
/// A client that was told to come back does so within this time, in milliseconds.
const MOST_AWAY_MS: u64 = 100;

/// One answered request, as its client saw it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Answered {
    /// When the answer was complete, since the beginning of the phase.
    pub at: Duration,
    /// From the moment the request could be sent (it was due and its client had connected) to the answer.
    pub latency: Duration,
    /// Which Pod says it answered: its index.
    pub pod: usize,
}

/// What clients saw.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    /// Every success, in order of arrival.
    pub answers: Vec<Answered>,
    /// Requests without a good answer.
    pub failed: u64,
    /// Connections that the other side closed.
    pub dropped: u64,
    /// Times that a client was told to come back, and did.
    pub moved: u64,
    /// The most times that one client was.
    pub most_moved: u64,
    /// Requests that crossed such a word and were asked again.
    pub repeated: u64,
    /// Connections opened.
    pub opened: u64,
    /// What the first failure was.
    pub first_error: Option<String>,
}

/// A client to come.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its number; with the seed, its schedule.
    pub number: u64,
    /// When it connects, since the beginning of the phase.
    pub arrives: Duration,
    /// Where its first connection goes.
    pub first: SocketAddr,
}

/// The clients of one phase, at work.
#[derive(Debug)]
pub struct Crowd {
    ledger: Arc<Mutex<Ledger>>,
    clients: Option<mpsc::UnboundedSender<Client>>,
    cut: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct World {
    front: Arc<Front>,
    ledger: Arc<Mutex<Ledger>>,
    begin: Instant,
    end: Duration,
    rate: f64,
    seed: u64,
    kind: Kind,
}

impl Crowd {
    /// Starts with no clients; they stop when `options.duration` has passed since `begin`.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn start(options: &Options, front: Arc<Front>, begin: Instant) -> io::Result<Self> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let world = Arc::new(World {
            front,
            ledger: ledger.clone(),
            begin,
            end: options.duration,
            rate: options.rate,
            seed: options.seed,
            kind: options.protocol.into(),
        });
        let (clients, mut arriving) = mpsc::unbounded_channel();
        let (cut, mut cutting) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("clients".into()).spawn(move || {
            runtime.block_on(async move {
                let mut living = tokio::task::JoinSet::new();
                let mut open = true;
                while open || !living.is_empty() {
                    tokio::select! {
                        client = arriving.recv(), if open => match client {
                            Some(client) => { living.spawn(live(client, world.clone())); }
                            None => open = false,
                        },
                        Some(_) = living.join_next() => {}
                        _ = &mut cutting => break,
                    }
                }
            });
        })?;
        Ok(Self { ledger, clients: Some(clients), cut: Some(cut), thread: Some(thread) })
    }

    /// Lets a client in.
    pub fn add(&self, client: Client) {
        if let Some(clients) = &self.clients {
            // The thread ends only after this sender is gone.
            let _ = clients.send(client);
        }
    }

    /// What they saw so far.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Waits until the last client has its last answer.
    pub fn finish(&mut self) {
        self.clients = None;
        if let Some(thread) = self.thread.take() {
            // A panic in a client shows as requests the Pods counted and nobody accounts for.
            let _ = thread.join();
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.cut = None;
        self.finish();
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When a client's requests are due: intervals uniform in 0.5 to 1.5 times the mean, so that
/// clients fall out of step with each other as real ones do.
#[derive(Debug)]
struct Schedule {
    rng: Rng,
    mean: f64,
    next: f64,
}

impl Schedule {
    fn new(seed: u64, client: u64, rate: f64, from: Duration) -> Self {
        let mut rng = Rng::seeded(hash::combine(seed, client));
        let mean = 1.0 / rate;
        let next = from.as_secs_f64() + rng.unit() * mean;
        Self { rng, mean, next }
    }
}

impl Iterator for Schedule {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let due = self.next;
        self.next += self.mean * (0.5 + self.rng.unit());
        Some(Duration::from_secs_f64(due))
    }
}

async fn live(client: Client, world: Arc<World>) {
    sleep_until((world.begin + client.arrives).into()).await;
    let rng = Rng::seeded(hash::combine(!world.seed, client.number));
    let mut line = Line { world: &world, connection: None, next: Some(client.first), moved: 0, rng };
    line.connect().await;
    let schedule = Schedule::new(world.seed, client.number, world.rate, client.arrives);
    for (number, due) in schedule.take_while(|due| *due < world.end).enumerate() {
        let waited = line.wait(world.begin + due).await;
        let now = Instant::now();
        if now > world.begin + world.end + OVERTIME {
            return;
        }
        // A request that was due while its predecessor was out has waited since then; what a timer
        // woke late is the timer's doing.
        let ready = if waited { now } else { world.begin + due };
        line.ask(number as u64, ready).await;
    }
    // Stays connected to the end, as it would.
    line.wait(world.begin + world.end + OVERTIME / 10).await;
}

/// A client's connection, opened again when it is lost.
struct Line<'a> {
    world: &'a World,
    connection: Option<Connection>,
    next: Option<SocketAddr>,
    moved: u64,
    rng: Rng,
}

impl Line<'_> {
    async fn connect(&mut self) {
        let address = self.next.take().unwrap_or_else(|| self.world.front.route());
        match timeout(PATIENCE, Connection::open(address, self.world.kind)).await {
            Ok(Ok(connection)) => {
                lock(&self.world.ledger).opened += 1;
                self.connection = Some(connection);
            }
            Ok(Err(e)) => self.note(format!("connecting to {address}: {e}")),
            Err(_) => self.note(format!("connecting to {address}: no answer in {PATIENCE:?}")),
        }
    }

    /// Waits until `due`, reconnecting if the other side closes meanwhile; false: it was past already.
    async fn wait(&mut self, due: Instant) -> bool {
        if Instant::now() >= due {
            return false;
        }
        let wake = sleep_until(due.into());
        tokio::pin!(wake);
        loop {
            let Some(connection) = &mut self.connection else {
                wake.await;
                return true;
            };
            tokio::select! {
                () = &mut wake => return true,
                closed = connection.closed() => {
                    match closed {
                        Closed::Asked => self.moves().await,
                        Closed::Lost => self.drop("closed between two requests".into()),
                    }
                    self.connect().await;
                }
            }
        }
    }

    /// Was told to come back: not at once, for others may have been told the same.
    async fn moves(&mut self) {
        self.connection = None;
        self.moved += 1;
        {
            let mut ledger = lock(&self.world.ledger);
            ledger.moved += 1;
            ledger.most_moved = ledger.most_moved.max(self.moved);
        }
        tokio::time::sleep(Duration::from_millis(self.rng.below(MOST_AWAY_MS))).await;
    }

    async fn ask(&mut self, number: u64, ready: Instant) {
        while self.ask_once(number, ready).await {
            lock(&self.world.ledger).repeated += 1;
            self.moves().await;
        }
    }

    /// True: ask again, on another connection.
    async fn ask_once(&mut self, number: u64, ready: Instant) -> bool {
        if self.connection.is_none() {
            self.connect().await;
        }
        let Some(connection) = &mut self.connection else {
            lock(&self.world.ledger).failed += 1;
            return false;
        };
        let answer = match timeout(PATIENCE, connection.ask(number)).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {PATIENCE:?}"))),
        };
        let now = Instant::now();
        match answer {
            Ok(answer) => {
                match pod_index(&answer.pod).filter(|_| answer.status == 200) {
                    Some(pod) => lock(&self.world.ledger).answers.push(Answered {
                        at: now - self.world.begin,
                        latency: now.saturating_duration_since(ready),
                        pod,
                    }),
                    None => self.fail(format!("status {} instead of an answer", answer.status)),
                }
                if !answer.keep {
                    self.drop("told to close the connection".into());
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) => {
                self.fail(e.to_string());
                self.drop(e.to_string());
            }
        }
        false
    }

    fn fail(&self, error: String) {
        lock(&self.world.ledger).failed += 1;
        self.note(error);
    }

    fn drop(&mut self, error: String) {
        self.connection = None;
        lock(&self.world.ledger).dropped += 1;
        self.note(error);
    }

    fn note(&self, error: String) {
        lock(&self.world.ledger).first_error.get_or_insert(error);
    }
}

/// `pod-1` is index 0.
fn pod_index(name: &str) -> Option<usize> {
    name.strip_prefix("pod-")?.parse::<usize>().ok()?.checked_sub(1)
}

impl From<Protocol> for Kind {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http,
            Protocol::Tcp => Self::Line,
            Protocol::WebSocket => Self::WebSocket,
            Protocol::Http2 => Self::Http2,
            Protocol::Grpc => Self::Grpc,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_a_function_of_seed_and_client() {
        let due = |seed, client| Schedule::new(seed, client, 40.0, Duration::ZERO).take(200).collect::<Vec<_>>();
        assert_eq!(due(1, 2), due(1, 2));
        assert_ne!(due(1, 2), due(1, 3));
        assert_ne!(due(1, 2), due(2, 2));
        // 200 intervals, mean 25 ms, each within ± 50 %.
        assert!(due(1, 2).windows(2).all(|pair| {
            let gap = pair[1] - pair[0];
            gap >= Duration::from_micros(12_499) && gap <= Duration::from_micros(37_501)
        }));
    }

    #[test]
    fn names_are_indices() {
        assert_eq!((pod_index("pod-1"), pod_index("pod-12")), (Some(0), Some(11)));
        assert_eq!((pod_index("pod-0"), pod_index(""), pod_index("nginx")), (None, None, None));
    }
}
