//! A configuration file is read or refused with places, never worse.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(problems) = evenkeel_proxy::config::parse("fuzz.yaml", text) {
        assert!(!problems.to_string().is_empty());
    }
});
