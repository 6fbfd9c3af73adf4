//! Files of real servers, each encoding by hand, and damaged files. `tests/redis-*.rdb` were written by Redis 6.2.14 and
//! 7.0.15 with `*-max-ziplist-entries 8` and `list-max-ziplist-size 16`, so that small and large collections are in them;
//! `tests/valkey-9.1.rdb` by Valkey 9.1.2.

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

const FILES: [(&[u8], &str); 2] =
    [(include_bytes!("tests/redis-6.2.rdb"), "6.2.14"), (include_bytes!("tests/redis-7.0.rdb"), "7.0.15")];

/// Kind, expiry and elements.
type Value = (Kind, Option<u64>, Vec<String>);

#[derive(Debug, Default)]
struct Found {
    keys: BTreeMap<(u64, String), Value>,
    current: Option<(Key, Kind, Vec<String>)>,
    skipped: Vec<(Option<String>, Unsupported)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Found {
    fn push(&mut self, element: String) {
        self.current.as_mut().unwrap().2.push(element);
    }

    fn elements(&self, key: &str) -> Vec<&str> {
        self.keys[&(0, key.to_owned())].2.iter().map(String::as_str).collect()
    }
}

impl Visitor for Found {
    type Error = Infallible;

    fn begin(&mut self, key: &Key, kind: Kind) -> Result<(), Infallible> {
        self.current = Some((key.clone(), kind, Vec::new()));
        Ok(())
    }

    fn value(&mut self, value: Vec<u8>) -> Result<(), Infallible> {
        self.push(text(&value));
        Ok(())
    }

    fn field(&mut self, field: Vec<u8>, value: Vec<u8>) -> Result<(), Infallible> {
        self.push(format!("{}={}", text(&field), text(&value)));
        Ok(())
    }

    fn member(&mut self, member: Vec<u8>, score: f64) -> Result<(), Infallible> {
        self.push(format!("{}:{score:?}", text(&member)));
        Ok(())
    }

    fn end(&mut self) -> Result<(), Infallible> {
        let (key, kind, elements) = self.current.take().unwrap();
        self.keys.insert((key.database, text(&key.name)), (kind, key.expires_at_ms, elements));
        Ok(())
    }

    fn skipped(&mut self, key: Option<&Key>, what: Unsupported) -> Result<(), Infallible> {
        self.skipped.push((key.map(|key| text(&key.name)), what));
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<(Found, Summary), Error<Infallible>> {
    let mut found = Found::default();
    let summary = read(bytes, &mut found)?;
    Ok((found, summary))
}

fn sorted(mut elements: Vec<&str>) -> Vec<&str> {
    elements.sort_unstable();
    elements
}

#[test]
fn files_of_redis_have_every_key_element_and_expiry() {
    for (file, version) in FILES {
        let (found, summary) = parse(file).unwrap();
        assert_eq!((summary.program.as_deref(), summary.checksum), (Some(version), true));
        assert_eq!(summary.bytes, file.len() as u64);
        let long = "x".repeat(70);
        let lzf = "abc".repeat(200);
        for (key, value) in [
            ("text", "hello"),
            ("empty", ""),
            ("int8", "-7"),
            ("int16", "300"),
            ("int32", "100000"),
            ("int64", "9007199254740993"),
            ("lzf", &lzf),
            ("日本", "a\r\nb"),
        ] {
            assert_eq!(found.elements(key), [value], "{key}");
        }
        let small = ["a", "1", "-1", "300", "70000", "-5000000", "9007199254740993", &long];
        let rest = ["13", "127", "128", "4095", "-4096"];
        assert_eq!(found.elements("list:small"), [&small[..], &rest].concat());
        assert_eq!(found.elements("list:nodes"), (1..=60).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(found.elements("list:plain"), ["p".repeat(3000), "end".to_owned()]);
        assert_eq!(found.elements("set:int16"), ["1", "2", "3"]);
        assert_eq!(found.elements("set:int32"), ["1", "100000"]);
        assert_eq!(found.elements("set:int64"), ["1", "9007199254740993"]);
        assert_eq!(sorted(found.elements("set:table")), ["a", "b", "c"]);
        assert_eq!(sorted(found.elements("set:small")), ["5", "x", "y"]);
        assert_eq!(found.elements("hash:small"), ["f1=v1", "f2=2", "f3="]);
        let fields = (1..=20).map(|n| format!("f{n}=v{n}")).collect::<Vec<_>>();
        assert_eq!(sorted(found.elements("hash:table")), sorted(fields.iter().map(String::as_str).collect()));
        let scores = ["low:-inf", "one:1.0", "two:2.5", "big:1e300", "high:inf"];
        assert_eq!(sorted(found.elements("zset:small")), sorted(scores.to_vec()));
        let members = (1..=20).map(|n| format!("m{n}:{n}.25")).collect::<Vec<_>>();
        assert_eq!(
            sorted(found.elements("zset:table")),
            sorted(members.iter().map(String::as_str).collect())
        );

        let expiry = |key: &str| found.keys[&(0, key.to_owned())].1;
        assert_eq!((expiry("expires"), expiry("text")), (Some(4_102_444_800_123), None));
        assert_eq!(expiry("hash:small"), Some(4_102_444_800_456));
        assert_eq!(found.keys[&(3, "other".to_owned())].2, ["database"]);
        assert_eq!(found.skipped, [(Some("stream".to_owned()), Unsupported::Stream)]);
        assert_eq!(found.keys.len(), 22);
    }
}

/// A file of version 11 without a checksum.
fn file(items: &[&[u8]]) -> Vec<u8> {
    [b"REDIS0011", &items.concat()[..], b"\xff", &[0; 8]].concat()
}

fn key(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, 1, b'k'][..], value].concat()
}

/// A string of less than 64 bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn listpack(entries: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|entry| [entry, &[entry.len() as u8][..]].concat()).collect();
    let length = (6 + body.len() + 1) as u32;
    [&length.to_le_bytes()[..], &(entries.len() as u16).to_le_bytes(), &body, b"\xff"].concat()
}

fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = entries.iter().flat_map(|entry| [&[0], *entry].concat()).collect();
    let length = (10 + body.len() + 1) as u32;
    [&length.to_le_bytes()[..], &[0; 4], &(entries.len() as u16).to_le_bytes(), &body, b"\xff"].concat()
}

#[test]
fn encodings_of_other_versions_are_read() {
    let value = |item: &[u8]| parse(&file(&[item])).unwrap().0.elements("k").join(",");
    assert_eq!(value(&key(1, b"\x02\x01a\x01b")), "a,b");
    let numbers: [&[u8]; 4] = [b"\x81x", b"\xdf\xff", b"\xf2\xff\xff\xff", b"\xf1\x00\x80"];
    assert_eq!(value(&key(20, &string(&listpack(&numbers)))), "x,-1,-1,-32768");
    let old: [&[u8]; 6] = [b"\x01x", b"\xf1", b"\xfd", b"\xfe\xff", b"\xf0\x00\x00\x80", b"\x40\x01y"];
    assert_eq!(value(&key(10, &string(&ziplist(&old)))), "x,0,12,-1,-8388608,y");
    assert_eq!(value(&key(13, &string(&ziplist(&old)))), "x=0,12=-1,-8388608=y");
    let scores: [&[u8]; 4] = [b"\x01a", b"\x032.5", b"\x01b", b"\xfe\x03"];
    assert_eq!(value(&key(12, &string(&ziplist(&scores)))), "a:2.5,b:3.0");
    assert_eq!(value(&key(9, &string(b"\x02\x01a\x02\x01xy?\x01b\x00\x00\xff"))), "a=xy,b=");
    assert_eq!(value(&key(3, b"\x03\x01a\x041e-3\x01b\xfe\x01c\xff")), "a:0.001,b:inf,c:-inf");
    let nodes = [b"\x02\x01\x05plain\x02", &string(&listpack(&[b"\x07"]))[..]].concat();
    assert_eq!(value(&key(18, &nodes)), "plain,7");
    assert_eq!(value(&key(0, b"\x80\x00\x00\x00\x01a")), "a");
    assert_eq!(value(&key(0, b"\x81\x00\x00\x00\x00\x00\x00\x00\x01a")), "a");
}

#[test]
fn data_that_is_not_supported_is_skipped_and_reported() {
    let module = b"\x81\x01\x02\x03\x04\x05\x06\x07\x08\x02\x09\x05\x01x\x04........\x03....\x01\x05\x00";
    let items: [&[u8]; 10] = [
        &key(7, module),
        b"\xf7\x01\x02\x02\x02\x09\x00",
        b"\xf5\x04code",
        &key(24, b"........\x01\x00\x01f\x01v"),
        &key(25, b"........\x03abc"),
        // A stream of Redis 7.2 with a group, a pending entry and a consumer.
        &key(21, b"\x01\x01n\x01l\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01g\x01\x01\x01\x01................--------\x01\x01\x01c++++++++========\x01................"),
        b"\xf4\x01\x02\x03",
        b"\xf8\x05\xf9\x07",
        b"\xfb\x01\x01",
        b"\xfd\x01\x00\x00\x00\x00\x01z\x01v",
    ];
    let (found, summary) = parse(&file(&items)).unwrap();
    let whats: Vec<_> = found.skipped.iter().map(|(_, what)| *what).collect();
    assert_eq!(
        whats,
        [
            Unsupported::Module,
            Unsupported::ModuleData,
            Unsupported::Function,
            Unsupported::ExpiringFields,
            Unsupported::ExpiringFields,
            Unsupported::Stream
        ]
    );
    assert_eq!(found.keys[&(0, "z".to_owned())], (Kind::String, Some(1000), vec!["v".to_owned()]));
    assert!(!summary.checksum);
}

#[test]
fn file_of_valkey_9_is_read_and_its_hash_whose_fields_expire_is_skipped() {
    let bytes = include_bytes!("tests/valkey-9.1.rdb");
    let (found, summary) = parse(bytes).unwrap();
    assert_eq!((summary.version, summary.program.as_deref(), summary.checksum), (80, Some("9.1.2"), true));
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(
        (found.elements("a"), found.elements("h2"), found.elements("l")),
        (vec!["b"], vec!["f=v"], vec!["a", "b", "c"])
    );
    assert_eq!(found.skipped, [(Some("h".to_owned()), Unsupported::ExpiringFields)]);
    // Slots that are taken over: two ranges.
    let slots =
        [b"VALKEY080\xf3\x04name\x02\x01\x02\x03\x04", &key(0, b"\x01v")[..], b"\xff", &[0; 8]].concat();
    assert_eq!(parse(&slots).unwrap().0.elements("k"), ["v"]);
    assert!(problem(&[b"REDIS0011\xf3\x04name\x00", &[0; 20][..]].concat()).contains("unknown type"));
}

fn problem(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

#[test]
fn file_that_cannot_be_read_has_an_error_that_says_why() {
    assert!(problem(b"").contains("no RDB file"));
    assert!(problem(b"PK\x03\x04 and so on").contains("no RDB file"));
    assert!(problem(b"REDIS0013").contains("version 13 is not known"));
    assert!(problem(b"VALKEY081").contains("version 81 is not known"));
    assert!(problem(b"REDIS0080").contains("version 80 is not known"), "Valkey alone writes it");
    assert!(problem(&file(&[&key(8, b"")])).contains("unknown type"));
    assert!(problem(&file(&[&key(0, b"\xc3\x01\x05\x20")])).contains("no LZF"));
    // Lengths of 2^63 and of 4 GiB, without so many bytes after them.
    assert!(problem(&file(&[&key(0, b"\x81\x80\x00\x00\x00\x00\x00\x00\x00")])).contains("512 MiB"));
    assert!(problem(&file(&[&key(0, b"\xc3\x01\x80\xff\xff\xff\xff\x00")])).contains("512 MiB"));
    let endless = file(&[&key(1, b"\x81\x80\x00\x00\x00\x00\x00\x00\x00\x01a")]);
    assert!(problem(&endless[..endless.len() - 9]).contains("ends here"));
    assert!(
        problem(&file(&[&key(5, b"\x01\x01a\x00\x00\x00\x00\x00\x00\xf8\x7f")])).contains("not a number")
    );
    assert!(problem(&file(&[&key(16, &string(&listpack(&[b"\x01"])))])).contains("pair is missing"));
}

#[test]
fn flipped_bit_of_a_file_with_a_checksum_is_noticed() {
    let (file, _) = FILES[1];
    for at in 0..file.len() {
        for bit in [0, 3, 7] {
            let mut bytes = file.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(parse(&bytes).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn file_that_ends_early_is_noticed() {
    let (file, _) = FILES[0];
    for length in 0..file.len() {
        assert!(parse(&file[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Without the checksum, a damaged file is read or refused, and nothing panics or is larger than its bytes can be.
    #[test]
    fn damaged_file_is_refused_or_bounded(
        which in 0..FILES.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = FILES[which].0.to_vec();
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        for (at, byte) in changes {
            bytes[9 + at.index(end - 9)] = byte;
        }
        bytes.truncate(9 + cut.index(bytes.len() * 2).min(bytes.len() - 9));
        let mut found = Found::default();
        drop(read(&bytes[..], &mut found));
        let held: usize = found.keys.values().flat_map(|(_, _, elements)| elements).map(String::len).sum();
        prop_assert!(held <= bytes.len() * 3 * 132);
    }

    #[test]
    fn arbitrary_bytes_after_the_header_are_refused_or_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(parse(&[b"REDIS0011", &bytes[..]].concat()));
    }
}
