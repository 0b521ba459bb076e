//! Picks and endpoint changes without any socket: nanoseconds and allocations, as one JSON object.
//!
//! `micro` picks on one thread; `micro N` on N at once, from the same picker, and shows what they do to each other.
//! Timed on a warm cache, so what it shows is the arithmetic; `growth` shows what caches make of it.

use evenkeel_bench::{balancer, published, specs};
use evenkeel_core::balancer::{Input, Policy, Reason};
use evenkeel_core::picker::{Ask, Outcome, Picker, Scope, Ticket};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::{Duration, Instant};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

/// Endpoints to pick from, and endpoints of which one changes.
const PICKED: u32 = 1_000;
const CHANGED: u32 = 10_000;
/// Turns in one measurement, of which the best of some counts; so many tickets are open where picks and
/// completions are timed apart.
const TURNS: u32 = 40_000;
const RUNS: usize = 7;
const OPEN: usize = 1_000;
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

fn main() -> ExitCode {
    let threads = match std::env::args().nth(1).map(|n| n.parse()) {
        None => 1,
        Some(Ok(n @ 1..)) => n,
        Some(_) => {
            eprintln!("usage: micro [THREADS]");
            return ExitCode::from(2);
        }
    };
    let picks: Vec<String> = Policy::ALL.iter().map(|&policy| picks(policy, threads)).collect();
    let changes: Vec<String> = Policy::ALL.iter().map(|&policy| changes(policy)).collect();
    println!(
        "{{\"endpoints\": {PICKED}, \"threads\": {threads}, \"picks\": [\n  {}\n], \"changed_endpoints\": {CHANGED}, \
         \"changes\": [\n  {}\n]}}",
        picks.join(",\n  "),
        changes.join(",\n  ")
    );
    ExitCode::SUCCESS
}

/// Nanoseconds of a turn (a pick and its completion at once), and of the two apart, with many open.
fn picks(policy: Policy, threads: usize) -> String {
    let name = policy.as_str();
    let picker = published(&mut balancer(policy, PICKED));
    // Threads that are measured begin together; the slowest is what counts.
    let together = Barrier::new(threads);
    let measured: Vec<[f64; 4]> = std::thread::scope(|scope| {
        let workers = (0..threads).map(|n| {
            let (picker, together) = (&*picker, &together);
            scope.spawn(move || {
                let mut worker = Worker { picker, rng: Rng::seeded(7 + n as u64), now: Instant::from_nanos(61 << 30) };
                worker.turns();
                together.wait();
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let mut runs: [u128; RUNS] = std::array::from_fn(|_| nanoseconds(|| worker.turns()));
                let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
                runs.sort_unstable();
                // The best is the one in which the others did not run.
                let turn = runs[if threads == 1 { 0 } else { RUNS / 2 }];
                together.wait();
                let (pick, complete) = worker.apart();
                let each = |nanos: u128| nanos as f64 / f64::from(TURNS);
                [each(turn), each(pick), each(complete), allocations as f64]
            })
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let [turn, pick, complete, allocations] =
        std::array::from_fn(|i| measured.iter().map(|figures| figures[i]).fold(0.0, f64::max));
    format!(
        r#"{{"policy": "{name}", "turn_ns": {turn:.1}, "pick_ns": {pick:.1}, "complete_ns": {complete:.1}, "allocations": {allocations}}}"#
    )
}

struct Worker<'a> {
    picker: &'a Picker,
    rng: Rng,
    now: Instant,
}

impl Worker<'_> {
    fn pick(&mut self) -> Option<Ticket> {
        self.now += Duration::from_micros(10);
        let ask = Ask { scope: Scope::Turn, key: Some(self.rng.next_u64()), avoid: &[] };
        self.picker.pick(&ask, &mut self.rng, self.now).ok()
    }

    /// Answers after 10 to 42 ms: averages rise and fall.
    fn complete(&mut self, ticket: Ticket) {
        let latency = Duration::from_micros(10_000 + (self.rng.next_u64() >> 49));
        let _noticed = black_box(ticket.complete(Outcome::Success(latency), self.now));
    }

    fn turns(&mut self) {
        for _ in 0..TURNS {
            if let Some(ticket) = self.pick() {
                self.complete(ticket);
            }
        }
    }

    /// As many turns in batches: the best of each half.
    fn apart(&mut self) -> (u128, u128) {
        let mut open: Vec<Ticket> = Vec::with_capacity(OPEN);
        let mut best = (u128::MAX, u128::MAX);
        for _ in 0..RUNS {
            let (mut pick, mut complete) = (0, 0);
            for _ in 0..TURNS as usize / OPEN {
                pick += nanoseconds(|| (0..OPEN).for_each(|_| open.extend(self.pick())));
                complete += nanoseconds(|| open.drain(..).for_each(|ticket| self.complete(ticket)));
            }
            best = (best.0.min(pick), best.1.min(complete));
        }
        best
    }
}

/// Milliseconds until a set that lacks one endpoint, or has it again, is all that is picked from, tables that are
/// built in slices included: the dearer of the two; and the longest single call. Each the best of some.
fn changes(policy: Policy) -> String {
    let name = policy.as_str();
    let mut balancer = balancer(policy, CHANGED);
    let _first = published(&mut balancer);
    let mut now = Instant::from_nanos(100_000_000_000);
    let mut took: [Vec<u128>; 2] = Default::default();
    let mut longest: [Vec<u128>; 2] = Default::default();
    for i in 0..CHANGES {
        now += Duration::from_secs(1);
        let mut endpoints = specs(CHANGED);
        if i % 2 == 0 {
            // From the middle, as addresses are in no order of age.
            endpoints.remove(CHANGED as usize / 2);
        }
        // What is due every second whether anything changes or not is not a part of it.
        balancer.handle_timeout(now);
        let mut calls = vec![nanoseconds(|| {
            balancer.handle(Input::Endpoints { source: 0, endpoints }, now);
            black_box(published(&mut balancer));
        })];
        while matches!(balancer.poll_timeout(), Some((_, Reason::Table))) {
            calls.push(nanoseconds(|| {
                balancer.handle_timeout(now);
                black_box(published(&mut balancer));
            }));
        }
        longest[i as usize % 2].push(calls.iter().copied().max().unwrap_or_default());
        took[i as usize % 2].push(calls.iter().sum());
    }
    let best = |values: Vec<u128>| values.into_iter().min().unwrap_or_default();
    let ms = |values: [Vec<u128>; 2]| values.map(best).into_iter().max().unwrap_or_default() as f64 / 1e6;
    format!(r#"{{"policy": "{name}", "change_ms": {:.3}, "longest_call_ms": {:.3}}}"#, ms(took), ms(longest))
}

fn nanoseconds(work: impl FnOnce()) -> u128 {
    let began = std::time::Instant::now();
    work();
    began.elapsed().as_nanos()
}
