//! HPACK: the examples of RFC 7541, appendix C, and another implementation on the other side.

use evenkeel_wire::http2::hpack::{Capacity, Decoder, Encoder, Fields, Flaw, Form};
use proptest::prelude::*;

const ALL: Capacity = Capacity { bytes: usize::MAX, fields: usize::MAX };

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(fields: &Fields) -> Pairs {
    fields.iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Pairs, Flaw> {
    let mut fields = Fields::default();
    decoder.decode(block, ALL, &mut fields).map(|()| pairs(&fields))
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn check(table: Option<u32>, blocks: &[(&str, &[(&str, &str)])]) {
    let mut decoder = Decoder::default();
    if let Some(bytes) = table {
        // The examples have a table of this size from the start, without saying so.
        decoder.allow(bytes);
        let mut update = Vec::new();
        Encoder::new(bytes).begin(&mut update);
        decode(&mut decoder, &update).unwrap();
    }
    for (block, expected) in blocks {
        let expected: Pairs =
            expected.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect();
        assert_eq!(decode(&mut decoder, &unhex(block)), Ok(expected), "{block}");
    }
}

const FIRST: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
const SECOND: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const THIRD: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

#[test]
fn fields_of_section_c_2() {
    check(
        None,
        &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[("custom-key", "custom-header")])],
    );
    check(None, &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")])]);
    check(None, &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")])]);
    check(None, &[("82", &[(":method", "GET")])]);
}

#[test]
fn requests_of_section_c_3() {
    check(
        None,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", FIRST),
            ("8286 84be 5808 6e6f 2d63 6163 6865", SECOND),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", THIRD),
        ],
    );
}

#[test]
fn requests_of_section_c_4() {
    check(
        None,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", FIRST),
            ("8286 84be 5886 a8eb 1064 9cbf", SECOND),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", THIRD),
        ],
    );
}

/// Our own blocks are those of the section too: that the RFC's encoder and ours choose alike.
#[test]
fn our_requests_are_those_of_section_c_4() {
    let mut encoder = Encoder::new(4096);
    for (fields, expected) in [
        (FIRST, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff"),
        (SECOND, "8286 84be 5886 a8eb 1064 9cbf"),
        (THIRD, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf"),
    ] {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        fields.iter().for_each(|(name, value)| encoder.put(name.as_bytes(), value.as_bytes(), Form::Indexed, &mut out));
        assert_eq!(out, unhex(expected));
    }
}

#[test]
fn responses_of_sections_c_5_and_c_6() {
    const DATE: &str = "Mon, 21 Oct 2013 20:13:21 GMT";
    const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let first =
        [(":status", "302"), ("cache-control", "private"), ("date", DATE), ("location", "https://www.example.com")];
    let second = [(":status", "307"), first[1], first[2], first[3]];
    let third = [
        (":status", "200"),
        first[1],
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        first[3],
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ];
    check(
        Some(256),
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120
                 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                &first,
            ),
            ("4803 3330 37c1 c0bf", &second),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
                 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
                 3630 303b 2076 6572 7369 6f6e 3d31",
                &third,
            ),
        ],
    );
    check(
        Some(256),
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718
                 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first,
            ),
            ("4883 640e ffc1 c0bf", &second),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7
                 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                &third,
            ),
        ],
    );
}

/// Names and values that repeat often enough to be found in tables, and some that do not.
fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Form)> {
    let name = prop_oneof![
        3 => prop::sample::select(vec![":path", "content-type", "x-a", "x-b", "te", "grpc-timeout"]).prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    let value = prop_oneof![
        3 => prop::sample::select(vec!["", "/", "a", "application/grpc", "trailers"]).prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (500..3000_usize).prop_map(|length| vec![b'l'; length]),
    ];
    let form = prop_oneof![3 => Just(Form::Indexed), 1 => Just(Form::Plain), 1 => Just(Form::Never)];
    (name, value, form)
}

/// A block, or a change of the table's size.
type Operation = Result<Vec<(Vec<u8>, Vec<u8>, Form)>, u32>;

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        1 => prop::sample::select(vec![0, 31, 64, 500, 4096]).prop_map(Err),
        6 => prop::collection::vec(field(), 1..12).prop_map(Ok),
    ];
    prop::collection::vec(operation, 1..20)
}

proptest! {
    // The other decoder is slow.
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// What we encode, and what we pass on from a connection to another, another decoder understands as we do.
    #[test]
    fn another_decoder_reads_our_blocks(operations in operations()) {
        let (mut encoder, mut decoder, mut onward) = (Encoder::new(4096), Decoder::default(), Encoder::new(4096));
        let (mut theirs, mut behind) = (fluke_hpack::Decoder::new(), fluke_hpack::Decoder::new());
        for operation in operations {
            let fields = match operation {
                Err(size) => {
                    encoder.allow(size);
                    decoder.allow(size);
                    theirs.set_max_allowed_table_size(size as usize);
                    continue;
                }
                Ok(fields) => fields,
            };
            let (mut block, mut passed) = (Vec::new(), Vec::new());
            encoder.begin(&mut block);
            fields.iter().for_each(|(name, value, form)| encoder.put(name, value, *form, &mut block));
            let expected: Pairs = fields.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect();
            let mut scratch = Fields::default();
            prop_assert_eq!(decoder.decode(&block, ALL, &mut scratch), Ok(()));
            prop_assert_eq!(&pairs(&scratch), &expected);
            prop_assert_eq!(&theirs.decode(&block).unwrap(), &expected);
            onward.begin(&mut passed);
            for (field, (.., form)) in scratch.iter().zip(&fields) {
                prop_assert_eq!(field.form() == Form::Never, *form == Form::Never);
                onward.forward(&field, &mut passed);
            }
            prop_assert_eq!(&behind.decode(&passed).unwrap(), &expected);
        }
    }

}

proptest! {
    /// And we understand what another encoder says.
    #[test]
    fn we_read_the_blocks_of_another_encoder(operations in operations()) {
        let (mut encoder, mut decoder) = (fluke_hpack::Encoder::new(), Decoder::default());
        for fields in operations.into_iter().flatten() {
            let block = encoder.encode(fields.iter().map(|(name, value, _)| (&name[..], &value[..])));
            let expected: Pairs = fields.into_iter().map(|(name, value, _)| (name, value)).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(expected));
        }
    }

    /// Nothing makes it panic, and what it keeps is no more than was asked for.
    #[test]
    fn arbitrary_blocks_are_survived(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10)) {
        let (mut decoder, mut fields) = (Decoder::default(), Fields::default());
        for block in blocks {
            fields.clear();
            if decoder.decode(&block, Capacity { bytes: 1000, fields: 10 }, &mut fields).is_err() {
                break;
            }
            prop_assert!(fields.len() <= 10);
            prop_assert!(fields.is_excess() || fields.size() <= 1000);
        }
    }
}
