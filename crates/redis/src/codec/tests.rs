use proptest::prelude::*;

use super::*;

const LIMITS: DecodeLimits = DecodeLimits { request_bytes: 16 * 1024 * 1024, authenticated: true };

/// Decodes `chunks` as if they arrived one after the other; returns the requests and the error that ended them.
pub fn decode_all<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    limits: DecodeLimits,
) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let (mut decoder, mut input, mut requests) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in chunks {
        input.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut input, limits) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn error_of(input: &[u8]) -> String {
    decode_all([input], LIMITS).1.expect("must be rejected").to_string()
}

fn request(words: &[&'static str]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect()
}

#[test]
fn every_split_point_gives_the_same_requests() {
    let wire = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n\r\n*0\r\n*-1\r\nPING 'x y'\r\n*1\r\n$0\r\n\r\nget k\n";
    let expected = vec![
        request(&["SET", "k", "a\r\nb"]),
        request(&["PING", "x y"]),
        request(&[""]),
        request(&["get", "k"]),
    ];
    for split in 0..=wire.len() {
        let (left, right) = wire.split_at(split);
        assert_eq!(decode_all([left, right], LIMITS), (expected.clone(), None), "split at {split}");
    }
    assert_eq!(decode_all(wire.chunks(1), LIMITS), (expected, None));
}

#[test]
fn protocol_errors_are_worded_as_in_redis() {
    assert_eq!(error_of(b"*abc\r\n"), "Protocol error: invalid multibulk length");
    assert_eq!(error_of(b"*1048577\r\n"), "Protocol error: invalid multibulk length");
    assert_eq!(error_of(b"*99999999999999999999\r\n"), "Protocol error: invalid multibulk length");
    assert_eq!(error_of(b"*1\r\n:1\r\n"), "Protocol error: expected '$', got ':'");
    assert_eq!(error_of(b"*1\r\n$-1\r\n"), "Protocol error: invalid bulk length");
    assert_eq!(error_of(b"*1\r\n$+3\r\n"), "Protocol error: invalid bulk length");
    assert_eq!(error_of(b"*1\r\n$2000000000\r\n"), "Protocol error: invalid bulk length");
    assert_eq!(error_of(b"set \"a\r\n"), "Protocol error: unbalanced quotes in request");
    assert_eq!(error_of(&[b'a'; 64 * 1024 + 1]), "Protocol error: too big inline request");
    assert_eq!(error_of(&[b'*'; 64 * 1024 + 1]), "Protocol error: too big mbulk count string");
    let long_bulk_header = [b"*1\r\n".as_slice(), &[b'$'; 64 * 1024 + 1]].concat();
    assert_eq!(error_of(&long_bulk_header), "Protocol error: too big bulk count string");
    assert_eq!(error_of(b"*1\r\n$1\r\nabc"), "Protocol error: expected CRLF after a bulk string");
}

#[test]
fn request_size_counts_all_arguments() {
    let limits = DecodeLimits { request_bytes: 64, ..LIMITS };
    let wire = b"*4\r\n$20\r\naaaaaaaaaaaaaaaaaaaa\r\n$20\r\naaaaaaaaaaaaaaaaaaaa\r\n$20\r\n";
    let error = decode_all([wire.as_slice()], limits).1;
    assert_eq!(error, Some(ProtocolError::RequestTooLarge(64)));
}

#[test]
fn unauthenticated_client_has_narrow_limits() {
    let limits = DecodeLimits { authenticated: false, ..LIMITS };
    let error = |wire: &[u8]| decode_all([wire], limits).1;
    assert_eq!(error(b"*11\r\n"), Some(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(error(b"*2\r\n$16385\r\n"), Some(ProtocolError::UnauthenticatedBulkLength));
    assert_eq!(error(b"*10\r\n$16384\r\n"), None);
}

#[test]
fn a_declared_length_allocates_nothing() {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
    input.extend_from_slice(b"*1048576\r\n$16000000\r\nabc");
    assert_eq!(decoder.decode(&mut input, LIMITS), Ok(None));
    let partial = decoder.partial.expect("the request is not complete");
    assert_eq!(partial.arguments.capacity(), 0);
    assert!(input.capacity() < 1024, "{}", input.capacity());
}

#[test]
fn integers_are_parsed_as_in_redis() {
    let accepted = [("0", 0), ("-1", -1), ("10", 10), ("-9223372036854775808", i64::MIN)];
    for (text, number) in accepted {
        assert_eq!(parse_integer(text.as_bytes()), Some(number), "{text}");
    }
    for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1.0", "9223372036854775808", "0x1", "a"] {
        assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics_and_holds_no_more_bytes_than_received(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)
    ) {
        let received: usize = chunks.iter().map(Vec::len).sum();
        let (requests, _) = decode_all(chunks.iter().map(Vec::as_slice), LIMITS);
        let held: usize = requests.iter().flatten().map(Bytes::len).sum();
        prop_assert!(held <= received);
    }

    #[test]
    fn nearly_valid_input_never_panics(
        pieces in prop::collection::vec(
            prop::sample::select(vec!["*", "$", "\r\n", "\r", "\n", "1", "3", "-", "GET", "\"", "'", "\\x4", " ", "\0"]),
            0..60,
        )
    ) {
        let wire = pieces.concat();
        let whole = decode_all([wire.as_bytes()], LIMITS);
        prop_assert_eq!(whole, decode_all(wire.as_bytes().chunks(1), LIMITS));
    }

    #[test]
    fn encoded_requests_decode_to_themselves(
        requests in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 0..8),
        chunk in 1_usize..64,
    ) {
        let mut wire = Vec::new();
        for request in &requests {
            wire.extend_from_slice(format!("*{}\r\n", request.len()).as_bytes());
            for argument in request {
                wire.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
                wire.extend_from_slice(argument);
                wire.extend_from_slice(b"\r\n");
            }
        }
        let expected: Vec<Vec<Bytes>> =
            requests.into_iter().map(|request| request.into_iter().map(Bytes::from).collect()).collect();
        prop_assert_eq!(decode_all(wire.chunks(chunk), LIMITS), (expected, None));
    }
}

#[test]
fn arguments_of_a_partial_request_do_not_hold_the_chunk_they_were_read_in() {
    const CHUNK_BYTES: usize = 32 * 1024;
    let mut input = BytesMut::with_capacity(CHUNK_BYTES);
    input.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n");
    let mut decoder = Decoder::default();
    let limits = DecodeLimits { request_bytes: 1 << 20, authenticated: true };
    assert_eq!(decoder.decode(&mut input, limits), Ok(None));
    assert!(input.try_reclaim(CHUNK_BYTES - 64), "a slice holds the chunk");
    input.extend_from_slice(b"$1\r\nv\r\n");
    let words = decoder.decode(&mut input, limits).unwrap().unwrap();
    assert_eq!(words, ["SET", "k", "v"].map(Bytes::from));
}
