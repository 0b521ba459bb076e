//! A list of operations on two engines that talk to each other over a way that delivers in any pieces, and may
//! break bytes.
#![no_main]

use evenkeel_fuzz::{Operation, Pair};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&windows, operations)) = data.split_first() else { return };
    let stream = [100, 5_000, 65_535, 200_000][usize::from(windows & 3)];
    let connection = [65_535, 100_000, 1 << 20, 1 << 20][usize::from(windows >> 2 & 3)];
    let mut pair = Pair::new(stream, connection);
    for operation in operations.as_chunks().0.iter().take(1000) {
        pair.operate(Operation::from_bytes(*operation));
    }
    pair.settle();
    pair.probe();
});
