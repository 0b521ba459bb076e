//! Lists of operations on two engines, against a simple model.

use crate::pair::{Operation, Pair};
use proptest::prelude::*;

/// Windows from less than a frame to more than anybody fills.
fn windows() -> impl Strategy<Value = (u32, u32)> {
    (prop::sample::select(vec![100, 5_000, 65_535, 200_000]), prop::sample::select(vec![65_535, 100_000, 1 << 20]))
}

fn operations(kinds: std::ops::Range<u8>) -> impl Strategy<Value = Vec<Operation>> {
    let kind = (kinds, any::<bool>()).prop_map(|(kind, server)| if server { kind | 0x80 } else { kind });
    let operation = (kind, any::<[u8; 3]>());
    let operation = operation.prop_map(|(kind, [a, b, c])| Operation::from_bytes([kind, a, b, c]));
    prop::collection::vec(operation, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Nothing is lost, the order is kept, no window is exceeded, and at the end nothing is left.
    #[test]
    fn two_engines_carry_what_they_are_given((stream, connection) in windows(), operations in operations(0..126)) {
        let mut pair = Pair::new(stream, connection);
        operations.into_iter().for_each(|operation| pair.operate(operation));
        pair.settle();
        pair.probe();
    }

    /// Whatever breaks on the way, nobody panics.
    #[test]
    fn broken_bytes_are_survived((stream, connection) in windows(), operations in operations(0..128)) {
        let mut pair = Pair::new(stream, connection);
        operations.into_iter().for_each(|operation| pair.operate(operation));
        pair.settle();
    }
}

/// Many short streams: what was needed for the first ones is enough for all.
#[test]
fn memory_stays_flat() {
    let mut pair = Pair::new(65_535, 1 << 20);
    let mut footprint = None;
    for round in 0..200 {
        for _ in 0..10 {
            pair.operate(Operation::Request);
        }
        pair.settle();
        if round == 50 {
            footprint = Some(pair.client.engine.footprint() + pair.server.engine.footprint());
        }
    }
    assert_eq!(footprint, Some(pair.client.engine.footprint() + pair.server.engine.footprint()));
}
