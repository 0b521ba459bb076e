//! What stands before a protocol: PROXY headers and ClientHellos, whole and in pieces.
#![no_main]

use evenkeel_wire::edge::{Found, client_hello, proxy_header};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = proxy_header(data);
    if let Found::Whole(header) = whole {
        assert!(header.length <= data.len());
    }
    let mut room = Vec::new();
    let name = |input: &[u8], room: &mut Vec<u8>| match client_hello(input, room) {
        Found::Whole(hello) => Found::Whole((hello.name.map(str::to_owned), hello.offers(b"http/1.1"))),
        Found::Partial => Found::Partial,
        Found::Wrong => Found::Wrong,
    };
    let hello = name(data, &mut room);
    // What was decided from a part is not changed by the rest.
    for end in 0..data.len() {
        match proxy_header(&data[..end]) {
            Found::Partial => {}
            decided => assert_eq!(decided, whole),
        }
        match name(&data[..end], &mut room) {
            Found::Partial => {}
            decided => assert_eq!(decided, hello),
        }
    }
});
