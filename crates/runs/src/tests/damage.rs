//! Damaged, missing and foreign files.

use helios_storage::disk::Disk;

use super::*;
use crate::Error;

/// A disk with a merged bottom, an upper and a manifest of several frames.
fn written() -> SimDisk {
    let disk = SimDisk::new(7);
    let runs = open(&disk, 7).unwrap();
    for at in 1..=5 {
        checkpoint(&runs, &slots(at, 60, 2), false, at).unwrap();
        while at < 5 && merge(&runs).unwrap() {}
    }
    disk
}

fn files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        disk.list(Path::new(DIR)).unwrap().into_iter().map(|entry| Path::new(DIR).join(entry.name)).collect();
    files.sort();
    files
}

/// Reads everything there is in every way. Returns the record and content, or the first error.
fn read(disk: &SimDisk) -> Result<(u64, Vec<(Bytes, Bytes)>)> {
    let runs = open(disk, 9)?;
    let view = runs.view();
    view.verify()?;
    for n in 0..60 {
        view.get(&key(n))?;
    }
    Ok((record(&view), view.range(b"", None).collect::<Result<_>>()?))
}

#[test]
fn every_flipped_bit_is_detected_or_leaves_an_earlier_checkpoint() {
    let disk = written();
    let whole = read(&disk).unwrap();
    let mut found = 0;
    for path in files(&disk) {
        let is_run = path.extension().is_some();
        let content = disk.read(&path).unwrap();
        for bit in 0..8 * content.len() {
            let disk = disk.copy();
            let mut damaged = content[bit / 8..=bit / 8].to_vec();
            damaged[0] ^= 1 << (bit % 8);
            disk.open_to_write(&path).unwrap().write_all_at(&damaged, (bit / 8) as u64).unwrap();
            match read(&disk) {
                Err(error) => {
                    found += 1;
                    assert!(
                        !is_run || matches!(error, Error::Corrupt { .. } | Error::Newer { .. }),
                        "{error}"
                    );
                }
                // A damaged last frame looks like one that was never complete. The log has what follows, or it reports
                // the gap (`raft/recovery`).
                Ok(read) => {
                    assert!(!is_run && read.0 <= whole.0, "bit {bit} of {} went unnoticed", path.display())
                }
            }
        }
    }
    assert!(found > 1_000, "{found}");
}

#[test]
fn damaged_block_is_an_error_of_the_read_that_needs_it_and_names_the_file() {
    let disk = written();
    let runs = open(&disk, 8).unwrap();
    let view = runs.view();
    let slice = &view.bottom()[0];
    disk.open_to_write(slice.run.path()).unwrap().write_all_at(b"\xff", 40).unwrap();
    let error = view.range(b"", None).find_map(Result::err).unwrap();
    assert!(error.is_damage() && error.to_string().contains(&slice.run.id.file_name()), "{error}");
    assert!(view.verify().unwrap_err().is_damage());
}

#[test]
fn missing_file_is_damage_and_not_an_empty_state() {
    let disk = written();
    for path in files(&disk) {
        let disk = disk.copy();
        disk.remove_file(&path).unwrap();
        let found = open(&disk, 1).map(|runs| record(&runs.view()));
        if path.ends_with(crate::CURRENT) {
            continue;
        }
        assert!(found.is_err_and(|error| error.is_damage()), "{}", path.display());
    }
}

#[test]
fn file_of_a_newer_build_is_named_with_its_format() {
    for file in ["MANIFEST", ".run"] {
        let disk = written();
        let path = files(&disk).into_iter().find(|path| path.to_string_lossy().contains(file)).unwrap();
        let mut content = disk.read(&path).unwrap();
        content[11] = 2;
        let crc = if file == ".run" {
            let id = u64::from_be_bytes(content[12..20].try_into().unwrap());
            crate::format::crc_at(id, 0, &content[..20])
        } else {
            crc32c::crc32c(&content[..20])
        };
        content[20..24].copy_from_slice(&crc.to_be_bytes());
        disk.open_to_write(&path).unwrap().write_all_at(&content, 0).unwrap();
        let error = open(&disk, 1).err().unwrap();
        assert!(matches!(error, Error::Newer { found: 2, known: 1, .. }), "{error}");
    }
}
