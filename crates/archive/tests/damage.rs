//! Seeded damages of a whole archive: each is found by a verification and refused by a restore, with the object's name.

// Helpers are no `#[test]` functions, for which `clippy.toml` allows unwrap; a failed test may panic.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use helios_archive::base::BaseReader;
use helios_archive::plan::Target;
use helios_archive::verify::verify;
use helios_archive::{Archive, Keyring, Object, SegmentId};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use common::{archive, keyring, restore, write_history};

const DAMAGES: u64 = 1000;

type Objects = BTreeMap<String, Bytes>;

async fn objects(archive: &Archive) -> Objects {
    let mut found = Objects::new();
    for (name, _) in archive.store().list("").await.unwrap() {
        let bytes = archive.store().get(&name).await.unwrap();
        found.insert(name, bytes);
    }
    found
}

async fn store_of(objects: &Objects) -> Arc<dyn ObjectStore> {
    let store = Arc::new(InMemory::new());
    for (name, bytes) in objects {
        let path = Path::from(format!("{}/{name}", common::PREFIX));
        store.put(&path, bytes.clone().into()).await.unwrap();
    }
    store
}

/// Names of the objects that restores to the end need, but the origin, which is for users.
fn needed(objects: &Objects, archive: &Archive) -> Vec<String> {
    let is_needed = |name: &&String| {
        let object = name.strip_prefix(&format!("{}/", archive.history())).and_then(Object::parse);
        match object {
            Some(Object::Part(base, _) | Object::Manifest(base)) => base.index == 30,
            Some(Object::Segment(segment)) => segment.last > 30,
            _ => false,
        }
    };
    objects.keys().filter(is_needed).cloned().collect()
}

/// Damages the objects; returns the names of which one has to be in the error, and what was done.
fn damage(random: &mut StdRng, objects: &mut Objects, needed: &[String]) -> (Vec<String>, &'static str) {
    let name = needed.choose(random).unwrap().clone();
    let bytes = objects[&name].to_vec();
    let kind = ["flip", "cut", "extend", "drop", "swap", "replay", "zero"].choose(random).unwrap();
    match *kind {
        "flip" => {
            let mut bytes = bytes;
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            objects.insert(name.clone(), bytes.into());
        }
        "cut" => {
            let length = random.random_range(0..bytes.len());
            objects.insert(name.clone(), bytes[..length].to_vec().into());
        }
        "extend" => {
            objects.insert(name.clone(), [&bytes[..], &bytes[..10]].concat().into());
        }
        "drop" => {
            objects.remove(&name);
        }
        "swap" => {
            let folder = |name: &str| name.rsplit_once('/').unwrap().0.to_owned();
            let others: Vec<_> =
                needed.iter().filter(|other| **other != name && folder(other) == folder(&name)).collect();
            let other = (*others.choose(random).unwrap()).clone();
            let bytes = objects.insert(other.clone(), bytes.into()).unwrap();
            objects.insert(name.clone(), bytes);
            return (vec![name, other], kind);
        }
        "replay" => {
            // An object in place of a later one of its kind: an older segment, or the part of an older base.
            let kind_of = |name: &str| name.rsplit_once('.').unwrap().1.to_owned();
            let is_other = |other: &&String| **other != name && kind_of(other) == kind_of(&name);
            let older = objects.keys().filter(is_other).cloned().collect::<Vec<_>>();
            let older = objects[older.choose(random).unwrap()].clone();
            objects.insert(name.clone(), older);
        }
        _ => {
            let mut bytes = bytes;
            let at = random.random_range(0..bytes.len());
            bytes[at..].fill(0);
            objects.insert(name.clone(), bytes.into());
        }
    }
    (vec![name], kind)
}

async fn assert_refused(seed: u64, intact: &Objects, archive: &Archive, keyring: &Keyring) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut objects = intact.clone();
    let needed = needed(intact, archive);
    let (names, kind) = damage(&mut random, &mut objects, &needed);
    if objects == *intact {
        return;
    }
    let archive = common::archive(store_of(&objects).await, keyring.clone());
    let catalog = archive.catalog().await.unwrap();
    // A base without manifest is none, and an end that is gone is a shorter log: the target names what has to be there.
    let target = Target::Index(60);
    let dropped_manifest = kind == "drop" && names[0].ends_with("manifest.json");
    match restore(&archive, &catalog, target).await {
        Ok(_) if dropped_manifest => {}
        Ok(_) => panic!("seed {seed}: {kind} of {names:?} was accepted"),
        Err(text) if kind == "drop" && text.contains("nearest") => {}
        Err(text) => {
            assert!(names.iter().any(|name| text.contains(name)), "seed {seed}: {kind} of {names:?}: {text}");
        }
    }
    let report = verify(&archive, &catalog).await.unwrap();
    let is_named = |name: &String| report.damages.iter().any(|damage| damage.object == *name);
    let is_end = names[0].contains("/log/") && names[0].ends_with(&format!("{:016x}.seg", 60));
    if kind == "drop" && (dropped_manifest || is_end) {
        return;
    }
    assert!(names.iter().any(is_named), "seed {seed}: {kind} of {names:?}: {:?}", report.damages);
}

async fn assert_all_are_refused(keyring: Keyring) {
    let archive = archive(Arc::new(InMemory::new()), keyring.clone());
    write_history(&archive).await;
    let intact = objects(&archive).await;
    let catalog = archive.catalog().await.unwrap();
    assert!(restore(&archive, &catalog, Target::Index(60)).await.is_ok());
    for seed in 0..DAMAGES {
        assert_refused(seed, &intact, &archive, &keyring).await;
    }
}

#[tokio::test]
async fn a_thousand_damages_of_an_encrypted_archive_are_refused_by_name() {
    assert_all_are_refused(keyring()).await;
}

#[tokio::test]
async fn a_thousand_damages_of_an_archive_in_clear_text_are_refused_by_name() {
    assert_all_are_refused(Keyring::unencrypted()).await;
}

/// Puts the manifest, or a part, of one base in the place of the other's; or damages any object as [`damage`] does.
fn damage_anywhere(random: &mut StdRng, objects: &mut Objects) -> &'static str {
    let all: Vec<_> = objects.keys().filter(|name| !name.ends_with("origin.json")).cloned().collect();
    if random.random_bool(0.2) {
        let ending = ["manifest.json", "0000.part"].choose(random).unwrap();
        let both: Vec<_> = all.iter().filter(|name| name.ends_with(ending)).collect();
        let to = random.random_range(0..both.len());
        let bytes = objects[both[(to + 1) % both.len()]].clone();
        objects.insert(both[to].clone(), bytes);
        return "other base";
    }
    damage(random, objects, &all).1
}

/// Whether a restore to `index` has exactly the bytes that were written.
fn is_right(index: u64, base: &[u8], entries: &[helios_archive::segments::Entry]) -> bool {
    let first = match base.len() {
        10_000 => 11,
        14_000 => 31,
        _ => return false,
    };
    let expected: Vec<_> = (first..=index).map(common::entry).collect();
    base == common::content(base.len()) && entries == expected
}

async fn assert_never_wrong(keyring: Keyring) {
    let archive = archive(Arc::new(InMemory::new()), keyring.clone());
    write_history(&archive).await;
    let intact = objects(&archive).await;
    let (mut refused, mut restored) = (0, 0);
    for seed in 0..DAMAGES {
        let mut random = StdRng::seed_from_u64(0xb_0000 + seed);
        let mut objects = intact.clone();
        let kind = damage_anywhere(&mut random, &mut objects);
        let index = random.random_range(10..=60);
        let archive = common::archive(store_of(&objects).await, keyring.clone());
        let catalog = archive.catalog().await.unwrap();
        match restore(&archive, &catalog, Target::Index(index)).await {
            Ok((base, entries)) => {
                assert!(
                    is_right(index, &base, &entries),
                    "seed {seed}: {kind}: wrong bytes at index {index}"
                );
                restored += 1;
            }
            Err(text) => {
                let is_named =
                    [".part", ".seg", "manifest.json", "nearest"].iter().any(|name| text.contains(name));
                assert!(is_named, "seed {seed}: {kind}, index {index}: {text}");
                refused += 1;
            }
        }
    }
    // Damages that the target does not need are not refused.
    assert!(refused > 200 && restored > 200, "{refused} refused, {restored} restored");
}

#[tokio::test]
async fn a_thousand_damages_never_yield_wrong_bytes_at_a_random_index() {
    assert_never_wrong(keyring()).await;
    assert_never_wrong(Keyring::unencrypted()).await;
}

#[tokio::test]
async fn wrong_key_is_refused_for_every_object() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let written = archive(store.clone(), keyring());
    write_history(&written).await;
    let catalog = written.catalog().await.unwrap();
    let other = Keyring::new([("k1".to_owned(), [9; 32])], "k1").unwrap();
    for keyring in [other, Keyring::unencrypted()] {
        let archive = archive(store.clone(), keyring);
        let text = restore(&archive, &catalog, Target::Latest).await.unwrap_err();
        assert!(text.contains("manifest.json") && text.contains("keyring"), "{text}");
        let report = verify(&archive, &catalog).await.unwrap();
        assert!(report.bases.is_empty() && report.segments == 0, "{report:?}");
        // The origin, two manifests and every segment.
        assert_eq!(report.damages.len(), 3 + catalog.segments.len());
    }
}

#[tokio::test]
async fn older_segment_of_the_same_name_breaks_the_chain() {
    // The log of another run: its segments have the same names and another content.
    let [ours, theirs] = [(), ()].map(|()| archive(Arc::new(InMemory::new()), keyring()));
    write_history(&ours).await;
    let mut writer =
        helios_archive::segments::SegmentWriter::with_limit(&theirs, common::start(), common::SEGMENT_BYTES);
    for index in 11..=60 {
        let mut entry = common::entry(index);
        entry.payload = vec![7; entry.payload.len()].into();
        writer.push(&entry).await.unwrap();
    }
    writer.flush().await.unwrap();
    let mut mixed = objects(&ours).await;
    let theirs = objects(&theirs).await;
    let replaced = theirs.keys().filter(|name| mixed.contains_key(*name)).nth(2).unwrap().clone();
    mixed.insert(replaced.clone(), theirs[&replaced].clone());
    let archive = archive(store_of(&mixed).await, keyring());
    let report = verify(&archive, &archive.catalog().await.unwrap()).await.unwrap();
    // It is authentic; the link between it and its neighbours is not.
    assert!(report.damages.iter().any(|damage| damage.object == replaced), "{:?}", report.damages);
}

#[tokio::test]
async fn part_of_another_write_of_the_same_base_is_not_handed_out() {
    let [ours, theirs] = [(), ()].map(|()| archive(Arc::new(InMemory::new()), keyring()));
    let manifest = common::write_base(&ours, 10, &common::content(10_000)).await.unwrap();
    common::write_base(&theirs, 10, &vec![7; 10_000]).await.unwrap();
    let part = ours.name(Object::Part(manifest.id(), 0));
    let mut mixed = objects(&ours).await;
    // Of the same length in the store, so that only its hash is another one.
    let stored = mixed[&part].len();
    let other = archive(Arc::new(InMemory::new()), keyring());
    let mut bytes = common::content(10_000);
    bytes.reverse();
    common::write_base(&other, 10, &bytes).await.unwrap();
    for written in [theirs, other] {
        mixed.insert(part.clone(), objects(&written).await[&part].clone());
        let archive = archive(store_of(&mixed).await, keyring());
        let mut reader = BaseReader::open(&archive, manifest.id()).await.unwrap();
        let error = reader.next().await.unwrap_err();
        assert!(error.is_damage() && error.object() == Some(&*part), "{error}");
    }
    assert_eq!(mixed[&part].len(), stored);
}

#[tokio::test]
async fn intact_archive_has_no_damage_and_a_missing_segment_is_named_by_its_range() {
    let archive = archive(Arc::new(InMemory::new()), keyring());
    write_history(&archive).await;
    let catalog = archive.catalog().await.unwrap();
    let report = verify(&archive, &catalog).await.unwrap();
    assert!(report.is_intact(), "{:?}", report.damages);
    assert_eq!((report.bases.len(), report.segments), (2, catalog.segments.len()));

    let lost: Vec<SegmentId> = catalog.segments.keys().skip(1).take(2).copied().collect();
    for id in &lost {
        archive.delete(Object::Segment(*id)).await.unwrap();
    }
    let report = verify(&archive, &archive.catalog().await.unwrap()).await.unwrap();
    let range = SegmentId { first: lost[0].first, last: lost[1].last };
    let names: Vec<_> = report.damages.iter().map(|damage| damage.object.clone()).collect();
    assert_eq!(names, [archive.name(Object::Segment(range))]);
}
