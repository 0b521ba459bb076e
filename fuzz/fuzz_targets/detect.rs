//! A decision of the detector, once made, is not changed by more bytes.
#![no_main]

use evenkeel_wire::detect::{Verdict, detect};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = detect(data);
    for end in 0..data.len().min(64) {
        let early = detect(&data[..end]);
        assert!(early == Verdict::Undecided || early == detect(&data[..end + 1]), "at {end}");
    }
    let _decided = whole;
});
