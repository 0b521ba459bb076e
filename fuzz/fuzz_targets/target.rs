//! A target is read or refused with a reason.
#![no_main]

use evenkeel_upstream::target::Target;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(why) = text.parse::<Target>() {
        assert!(!why.to_string().is_empty());
    }
});
