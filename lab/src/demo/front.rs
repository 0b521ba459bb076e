//! What stands between clients and Pods: the Service's rule, or evenkeel.

use super::{Options, Protocol, SLOW_START, Way};
use evenkeel_core::address::Address;
use evenkeel_core::balancer::{Pace, Policy};
use evenkeel_core::rng::Rng;
use evenkeel_proxy::Running;
use evenkeel_proxy::config;
use evenkeel_upstream::target::Target;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where a new connection of a client goes.
#[derive(Debug)]
pub enum Front {
    /// Straight to a Pod, drawn when the connection opens.
    Service(Mutex<Service>),
    /// To evenkeel, which is told of Pods by a file.
    Evenkeel(Box<Evenkeel>),
}

/// kube-proxy's rule.
#[derive(Debug)]
pub struct Service {
    rng: Rng,
    pods: Vec<SocketAddr>,
}

/// A proxy in this process, and the file its `file://` target watches.
#[derive(Debug)]
pub struct Evenkeel {
    listening: SocketAddr,
    directory: Directory,
    /// Held for its drop, which ends the proxy; in a mutex because clients share the front and
    /// `Running` can only be moved between threads.
    _running: Mutex<Running>,
}

/// A directory of our own, removed with everything in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // A leftover in the temporary directory harms nobody; there is no one to tell either.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Front {
    /// Stands up in front of `pods`.
    ///
    /// # Errors
    /// evenkeel could not start, or its target could not be written.
    pub fn open(way: Way, options: &Options, pods: &[SocketAddr]) -> io::Result<Self> {
        match way {
            Way::Service => {
                Ok(Self::Service(Mutex::new(Service { rng: Rng::seeded(options.seed), pods: pods.to_vec() })))
            }
            Way::Evenkeel => Ok(Self::Evenkeel(Box::new(Evenkeel::start(options, pods)?))),
        }
    }

    /// Where the next new connection goes.
    pub fn route(&self) -> SocketAddr {
        match self {
            Self::Service(service) => service.lock().unwrap_or_else(PoisonError::into_inner).pick(),
            Self::Evenkeel(evenkeel) => evenkeel.listening,
        }
    }

    /// Makes `pods` the ready endpoints from now on, and says when that was.
    ///
    /// # Errors
    /// The target's file could not be replaced.
    pub fn announce(&self, pods: &[SocketAddr]) -> io::Result<Instant> {
        match self {
            Self::Service(service) => {
                service.lock().unwrap_or_else(PoisonError::into_inner).pods = pods.to_vec();
                Ok(Instant::now())
            }
            Self::Evenkeel(evenkeel) => evenkeel.directory.publish(pods),
        }
    }
}

impl Service {
    /// kube-proxy writes one rule per Pod: rule i of n takes the connection with probability
    /// 1/(n−i), the last one always. The result is uniform.
    fn pick(&mut self) -> SocketAddr {
        let n = self.pods.len();
        let last = n.saturating_sub(1);
        let rule = (0..last).find(|&i| self.rng.below((n - i) as u64) == 0).unwrap_or(last);
        self.pods[rule]
    }
}

impl Evenkeel {
    fn start(options: &Options, pods: &[SocketAddr]) -> io::Result<Self> {
        let directory = Directory::create()?;
        directory.publish(pods)?;
        let target = format!("file://{}", directory.file().display());
        let target: Target = target.parse().map_err(|e| io::Error::other(format!("{target}: {e}")))?;
        let anywhere = Address::Ip(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut service = config::Service::new("demo", vec![anywhere], vec![target]);
        match options.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                service.protocol = match options.protocol {
                    Protocol::Http => config::Protocol::Http1,
                    _ => config::Protocol::Http2,
                };
                // The default, peak-ewma, follows latency, and Pods that differ by microseconds get
                // different shares. The demo is about shares: turn by turn, less loaded first.
                service.balance.core.turn_policy = Policy::LeastRequest;
                service.balance.core.slow_start = SLOW_START;
            }
            Protocol::Tcp => {
                service.protocol = config::Protocol::Tcp;
                // A session is placed once; holding it back from a new Pod would be for good.
                service.balance.core.slow_start = Duration::ZERO;
            }
            Protocol::WebSocket => {
                service.protocol = config::Protocol::Http1;
                service.balance.core.slow_start = Duration::ZERO;
                service.balance.core.rebalance.pace = Pace::Fraction(options.moves_per_second());
                service.balance.core.rebalance.per_endpoint = f64::MAX;
            }
        }
        let mut config = config::Config::new();
        config.services.push(service);
        let running = evenkeel_proxy::start(config)?;
        let bound = running.listening.get("demo").and_then(|addresses| addresses.first());
        let Some(Address::Ip(listening)) = bound else {
            return Err(io::Error::other("evenkeel does not say where it listens"));
        };
        Ok(Self { listening: *listening, directory, _running: Mutex::new(running) })
    }
}

impl Directory {
    fn create() -> io::Result<Self> {
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let path = std::env::temp_dir().join(format!("evenkeel-demo-{}-{nanos}", std::process::id()));
        fs::create_dir(&path).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot create {}: {e} (TMPDIR chooses another place)", path.display()))
        })?;
        Ok(Self(path))
    }

    fn file(&self) -> PathBuf {
        self.0.join("endpoints.yaml")
    }

    /// Replaces the file by renaming, as a ConfigMap volume does: no reader sees half of it.
    fn publish(&self, pods: &[SocketAddr]) -> io::Result<Instant> {
        let draft = self.0.join("endpoints.new");
        let list: String = pods.iter().map(|pod| format!("- {pod}\n")).collect();
        fs::write(&draft, list)?;
        let announced = Instant::now();
        fs::rename(draft, self.file())?;
        Ok(announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::figures::Chance;

    fn pods(n: u16) -> Vec<SocketAddr> {
        (0..n).map(|i| SocketAddr::from(([127, 0, 0, 1], 9000 + i))).collect()
    }

    #[test]
    fn the_same_seed_places_connections_on_the_same_pods() {
        let place = |seed| {
            let options = Options { seed, ..Options::default() };
            let front = Front::open(Way::Service, &options, &pods(5)).unwrap();
            let before: Vec<_> = (0..50).map(|_| front.route()).collect();
            front.announce(&pods(9)).unwrap();
            (before, (0..50).map(|_| front.route()).collect::<Vec<_>>())
        };
        assert_eq!(place(3), place(3));
        assert_ne!(place(3), place(4));
    }

    /// 60,000 draws on 6 Pods: binomial, mean 10,000, σ = 91; five σ.
    #[test]
    fn the_service_rule_is_uniform() {
        let front = Front::open(Way::Service, &Options::default(), &pods(6)).unwrap();
        let mut drawn = [0u32; 6];
        for _ in 0..60_000 {
            drawn[usize::from(front.route().port() - 9000)] += 1;
        }
        assert!(drawn.iter().all(|n| (9_544..=10_456).contains(n)), "{drawn:?}");
    }

    /// The default scenario is a typical one: its first placement is not worse than half of all are.
    #[test]
    fn the_default_seed_is_not_picked_for_effect() {
        let options = Options::default();
        let front = Front::open(Way::Service, &options, &pods(3)).unwrap();
        let mut placed = [0u64; 3];
        for _ in 0..options.clients {
            placed[usize::from(front.route().port() - 9000)] += 1;
        }
        let highest = placed.iter().copied().max().unwrap_or(0);
        assert!(Chance::of(options.clients, 3).at_least(highest) >= 0.5, "{placed:?}");
    }

    #[test]
    fn publishing_replaces_the_file_and_dropping_removes_it() {
        let directory = Directory::create().unwrap();
        directory.publish(&pods(1)).unwrap();
        directory.publish(&pods(2)).unwrap();
        assert_eq!(fs::read_to_string(directory.file()).unwrap(), "- 127.0.0.1:9000\n- 127.0.0.1:9001\n");
        let path = directory.0.clone();
        drop(directory);
        assert!(!path.exists());
    }
}
