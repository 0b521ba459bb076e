//! Nothing is allocated for a turn, whatever the policy. The counting allocator is why this suite has a program of
//! its own.

mod common;

use common::{World, failed, quick};
use evenkeel_core::balancer::Policy;
use evenkeel_core::picker::{Ask, Scope};
use evenkeel_core::time::Duration;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted for each thread.
struct Counted;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// Picks and completions of every kind, among `n` endpoints.
fn turns(policy: Policy, n: usize) -> u64 {
    let mut world = World::new(policy, n);
    let tried = [world.pick(Scope::Turn).expect("an endpoint").endpoint().id];
    allocations(|| {
        for i in 0..2_000 {
            world.now += Duration::from_millis(3);
            let scope = if i % 3 == 0 { Scope::Session } else { Scope::Turn };
            let avoid: &[_] = if i % 5 == 0 { &tried } else { &[] };
            let key = (i % 2 == 0).then(|| world.rng.next_u64());
            let ticket = world.picker.pick(&Ask { scope, key, avoid }, &mut world.rng, world.now);
            let outcome = if i % 7 == 0 { failed() } else { quick() };
            let _noticed = ticket.map(|ticket| ticket.complete(outcome, world.now));
            let pinned = world.picker.repick(tried[0], scope, world.now);
            drop(pinned.map(evenkeel_core::picker::Ticket::into_session));
        }
    })
}

#[test]
fn a_turn_allocates_nothing() {
    assert!(allocations(|| drop(vec![1])) > 0, "the allocator counts");
    for policy in Policy::ALL {
        for n in [1, 3, 100] {
            assert_eq!(turns(policy, n), 0, "{policy:?} among {n}");
        }
    }
}
