//! Picks and endpoint changes without any socket: nanoseconds and allocations, as one JSON object.
//!
//! Timed on a warm cache, so what it shows is the arithmetic; `growth` shows what caches make of it.

use evenkeel_bench::{POLICIES, balancer, published, specs};
use evenkeel_core::balancer::Input;
use evenkeel_core::picker::{Ask, Outcome, Scope};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

/// Endpoints to pick from, and endpoints of which one changes.
const PICKED: u32 = 1_000;
const CHANGED: u32 = 10_000;
const PICKS: u32 = 200_000;
const CHANGES: u32 = 20;

/// The system's allocator, counted.
struct Counted;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the callee's conditions.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn main() {
    let picks: Vec<String> = POLICIES
        .iter()
        .map(|&(name, policy)| {
            let picker = published(&mut balancer(policy, PICKED));
            let mut rng = Rng::seeded(7);
            let mut now = Instant::from_nanos(1_000_000_000);
            let mut run = |n: u32| {
                for _ in 0..n {
                    now += Duration::from_micros(10);
                    let ask = Ask { scope: Scope::Turn, key: Some(rng.next_u64()), avoid: &[] };
                    if let Ok(ticket) = picker.pick(&ask, &mut rng, now) {
                        let _noticed = black_box(ticket.complete(Outcome::Success(Duration::from_millis(2)), now));
                    }
                }
            };
            run(PICKS / 10);
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let best = (0..5).map(|_| nanoseconds(|| run(PICKS / 5))).min().unwrap_or_default();
            let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
            let nanos = best as f64 / f64::from(PICKS / 5);
            format!(r#"{{"policy": "{name}", "nanoseconds": {nanos:.1}, "allocations": {allocations}}}"#)
        })
        .collect();
    println!(
        r#"{{"endpoints": {PICKED}, "picks": [{}], "changed_endpoints": {CHANGED}, "change_ms": {:.3}}}"#,
        picks.join(", "),
        change() as f64 / 1e6
    );
}

/// Nanoseconds until a set that lacks one endpoint, and then has it again, is what is picked from: the median.
fn change() -> u128 {
    let mut balancer = balancer(POLICIES[4].1, CHANGED);
    let mut now = Instant::from_nanos(100_000_000_000);
    let mut took: Vec<u128> = (0..CHANGES)
        .map(|i| {
            now += Duration::from_secs(1);
            let mut endpoints = specs(CHANGED);
            if i % 2 == 0 {
                endpoints.pop();
            }
            nanoseconds(|| {
                balancer.handle(Input::Endpoints { source: 0, endpoints }, now);
                black_box(published(&mut balancer));
            })
        })
        .collect();
    took.sort_unstable();
    took[took.len() / 2]
}

fn nanoseconds(work: impl FnOnce()) -> u128 {
    let began = std::time::Instant::now();
    work();
    began.elapsed().as_nanos()
}
