//! A file of endpoints (list, maps, EndpointSlice manifests) is read or refused with a place.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    match evenkeel_upstream::discover::file::parse(text, Some("http")) {
        Ok(endpoints) => assert!(endpoints.iter().all(|e| e.weight.is_finite() && e.weight >= 0.0)),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
});
