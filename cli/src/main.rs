//! evenkeel: balances the work inside long-lived connections.

use evenkeel_proxy::config::{Config, Service};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut config = Config::new();
    let mut s = Service::new("default", vec![args[1].parse().unwrap()], vec![args[2].parse().unwrap()]);
    config.workers = Some(args.get(3).map_or(1, |n| n.parse().unwrap()));
    s.timeouts.detect = std::time::Duration::from_millis(5);
    config.services.push(s);
    let r = evenkeel_proxy::start(config).unwrap();
    println!("{:?}", r.listening);
    loop {
        std::thread::park();
    }
}
