//! The proof that `core` and `wire` need no std: this program has none, links both, picks an endpoint
//! and carries one HTTP request and its response through a session. It exits with 0 if all went well.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicUsize, Ordering};
use evenkeel_core::balancer::{Balancer, Config, Input, Output as Decision};
use evenkeel_core::endpoint::EndpointSpec;
use evenkeel_core::picker::{Ask, Scope};
use evenkeel_core::rng::Rng;
use evenkeel_core::time::Instant;
use evenkeel_wire::out::Out;
use evenkeel_wire::session::{Context, Io, Output, Peer, Session, Settings};

/// Memory that is handed out once and never taken back: enough for one request.
struct Bump;

const BYTES: usize = 1 << 20;
static mut MEMORY: [u8; BYTES] = [0; BYTES];
static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call gets its own aligned part of MEMORY, which nothing else touches.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = &raw mut MEMORY as usize;
        let taken = USED.fetch_add(layout.size() + layout.align(), Ordering::Relaxed);
        let at = (base + taken).next_multiple_of(layout.align());
        if at + layout.size() > base + BYTES { core::ptr::null_mut() } else { at as *mut u8 }
    }

    unsafe fn dealloc(&self, _memory: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The C library brings the entry point, memcpy and its like, and nothing else.
#[link(name = "c")]
unsafe extern "C" {}

/// Called by the C library's start code.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    let now = Instant::from_nanos(1);
    let address: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
    let mut balancer = Balancer::new(Config::default(), 1, 1, now);
    let endpoints = alloc::vec![EndpointSpec::at(address)];
    balancer.handle(Input::Endpoints { source: 0, endpoints }, now);
    let mut picker = None;
    while let Some(decision) = balancer.poll_output() {
        if let Decision::Publish(published) = decision {
            picker = Some(published);
        }
    }
    let ask = Ask { scope: Scope::Turn, key: None, avoid: &[] };
    let picked = picker.is_some_and(|picker| picker.pick(&ask, &mut Rng::seeded(1), now).is_ok());

    let (settings, peer) = (Settings::default(), Peer::plain(address, address.into()));
    let context = Context::new(&settings, &peer, now);
    let mut session = Session::new(&context);
    let (mut client, mut link) = (Vec::new(), Vec::new());
    let mut io = Io { client: Out::new(&mut client), link: Out::new(&mut link) };
    session.client_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut io, &context);
    let wanted = matches!(session.poll_output(), Some(Output::Want(_)));
    session.link_opened(&mut io, &context);
    session.link_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", &mut io, &context);
    io.client.spill();
    io.link.spill();
    let carried = link.starts_with(b"GET / HTTP/1.1\r\n") && client.ends_with(b"\r\n\r\nok");
    i32::from(!(picked && wanted && carried))
}
