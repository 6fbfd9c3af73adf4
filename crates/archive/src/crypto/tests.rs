use proptest::prelude::*;

use super::*;

fn ring(id: &str, byte: u8) -> Keyring {
    Keyring::new([(id.to_owned(), [byte; 32])], id).unwrap()
}

/// Content that zstd does not make smaller, of several frames.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(next).collect()
}

fn frames_of(sealed: &[u8]) -> Vec<(usize, usize)> {
    let mut at = parse("n", sealed).unwrap().bytes;
    let mut found = Vec::new();
    while at < sealed.len() {
        let length = u32::from_be_bytes(sealed[at..at + 4].try_into().unwrap()) & !LAST;
        found.push((at, at + 4 + length as usize));
        at = found.last().unwrap().1;
    }
    found
}

fn assert_damaged(name: &str, sealed: Vec<u8>, keyring: &Keyring) {
    let error = open(name, &sealed.into(), keyring).unwrap_err();
    assert!(error.is_damage() && error.object() == Some(name), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn content_is_opened_as_it_was_sealed(content in prop::collection::vec(0u8..4, 0..200_000), attributes in prop::collection::vec(any::<u8>(), 0..200)) {
        for keyring in [ring("k1", 1), Keyring::unencrypted()] {
            let sealed = seal("a/b", &attributes, &content, &keyring).unwrap();
            let opened = open("a/b", &sealed, &keyring).unwrap();
            prop_assert_eq!(&opened.content, &content);
            prop_assert_eq!(&opened.attributes, &attributes);
            let head = &sealed[..sealed.len().min(HEAD_BYTES as usize)];
            prop_assert_eq!(super::attributes("a/b", head).unwrap(), attributes.clone());
        }
    }
}

#[test]
fn every_flipped_bit_of_a_small_object_is_detected() {
    for keyring in [ring("k1", 1), Keyring::unencrypted()] {
        let sealed = seal("n", b"attr", b"content of an object", &keyring).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_damaged("n", flipped, &keyring);
        }
    }
}

#[test]
fn every_truncation_is_detected() {
    for keyring in [ring("k1", 1), Keyring::unencrypted()] {
        let sealed = seal("n", b"", &noise(1000), &keyring).unwrap();
        for length in 0..sealed.len() {
            assert_damaged("n", sealed[..length].to_vec(), &keyring);
        }
        assert_damaged("n", [&sealed[..], b"x"].concat(), &keyring);
    }
}

#[test]
fn frames_that_are_dropped_swapped_or_repeated_are_detected() {
    let keyring = ring("k1", 1);
    let sealed = seal("n", b"", &noise(4 * FRAME_BYTES), &keyring).unwrap().to_vec();
    let frames = frames_of(&sealed);
    assert_eq!(frames.len(), 4);
    let frame = |number: usize| &sealed[frames[number].0..frames[number].1];
    let head = &sealed[..frames[0].0];
    for order in [&[0, 1, 2][..], &[0, 1, 3], &[1, 0, 2, 3], &[0, 1, 1, 2, 3], &[0, 1, 2, 3, 3], &[3]] {
        let frames: Vec<u8> = order.iter().flat_map(|number| frame(*number)).copied().collect();
        assert_damaged("n", [head, &frames].concat(), &keyring);
    }
}

#[test]
fn mark_of_the_last_frame_is_authenticated() {
    let keyring = ring("k1", 1);
    let sealed = seal("n", b"", &noise(4 * FRAME_BYTES), &keyring).unwrap().to_vec();
    let frames = frames_of(&sealed);
    let mut cut = sealed[..frames[2].1].to_vec();
    cut[frames[2].0] |= 0x80;
    let error = open("n", &cut.into(), &keyring).unwrap_err().to_string();
    assert!(error.contains("frame 2 is not authentic"), "{error}");
}

#[test]
fn object_under_another_name_and_frames_of_another_object_are_detected() {
    for keyring in [ring("k1", 1), Keyring::unencrypted()] {
        let [a, b] =
            ["a", "b"].map(|name| seal(name, b"", &noise(2 * FRAME_BYTES), &keyring).unwrap().to_vec());
        assert_damaged("b", a.clone(), &keyring);
        let head = parse("a", &a).unwrap().bytes;
        assert_damaged("a", [&a[..head], &b[head..]].concat(), &keyring);
    }
}

#[test]
fn rotated_keyring_reads_both_and_writes_with_the_new_key() {
    let old = ring("k1", 1);
    let both = Keyring::new([("k1".to_owned(), [1; 32]), ("k2".to_owned(), [2; 32])], "k2").unwrap();
    let before = seal("n", b"", b"before", &old).unwrap();
    let after = seal("n", b"", b"after", &both).unwrap();
    assert_eq!(open("n", &before, &both).unwrap().content, "before");
    assert_eq!(open("n", &after, &both).unwrap().content, "after");
    let error = open("n", &after, &old).unwrap_err().to_string();
    assert!(error.contains("needs the key \"k2\", the keyring has k1"), "{error}");
}

#[test]
fn key_with_the_right_id_and_other_bytes_is_the_wrong_key() {
    let sealed = seal("n", b"", b"x", &ring("k1", 1)).unwrap();
    let error = open("n", &sealed, &ring("k1", 9)).unwrap_err();
    assert!(matches!(&error, ArchiveError::WrongKey { object, .. } if object == "n"), "{error}");
}

#[test]
fn object_in_clear_text_is_refused_unless_the_keyring_accepts_it() {
    let sealed = seal("n", b"", b"x", &Keyring::unencrypted()).unwrap();
    let error = open("n", &sealed, &ring("k1", 1)).unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
    assert_eq!(open("n", &sealed, &ring("k1", 1).accepting_unencrypted()).unwrap().content, "x");
}

#[test]
fn newer_format_is_named() {
    let mut sealed = seal("n", b"", b"x", &Keyring::unencrypted()).unwrap().to_vec();
    sealed[9] = 2;
    let error = open("n", &sealed.into(), &Keyring::unencrypted()).unwrap_err();
    assert!(matches!(error, ArchiveError::NewerFormat { found: 2, newest: 1, .. }), "{error}");
}

#[test]
fn content_is_not_in_the_object_in_clear_text_when_there_is_a_key() {
    let sealed = seal("n", b"", b"a secret sentence", &ring("k1", 1)).unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
}
