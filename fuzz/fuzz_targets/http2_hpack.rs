//! A list of blocks: another decoder makes the same of them, and of what becomes of them on the next connection.
#![no_main]

use evenkeel_wire::http2::hpack::{Capacity, Decoder, Encoder, Fields};

const ALL: Capacity = Capacity { bytes: usize::MAX, fields: usize::MAX };

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let (mut decoder, mut theirs) = (Decoder::default(), fluke_hpack::Decoder::new());
    theirs.set_max_allowed_table_size(4096);
    let (mut encoder, mut behind) = (Encoder::new(4096), fluke_hpack::Decoder::new());
    let mut fields = Fields::default();
    let mut rest = data;
    while let [length, block @ ..] = rest {
        let (block, after) = block.split_at(block.len().min(usize::from(*length)));
        rest = after;
        fields.clear();
        // The other one bears more, and some of what we refuse is too much for it. What we take it must take, and
        // make the same of it, unless there is nothing behind a change of size.
        if decoder.decode(block, ALL, &mut fields).is_err() {
            return;
        }
        let list: Vec<_> = fields.iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect();
        if list.is_empty() {
            return;
        }
        assert_eq!(theirs.decode(block).expect("we took it"), list);
        let mut onward = Vec::new();
        encoder.begin(&mut onward);
        fields.iter().for_each(|field| encoder.forward(&field, &mut onward));
        assert_eq!(behind.decode(&onward).expect("what we wrote"), list);
    }
});
